// Deterministic test data, and the 16-bit storage types: a reference must see exactly the values that a kernel sees.
import { sizeOf } from '../reference/array64.js';

/** Storage types of activations. */
export type FloatType = 'f32' | 'bf16' | 'f16';

/** Uniform numbers in [0, 1) from a 32-bit seed (mulberry32). */
export function uniform(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Standard normal numbers times `scale` (Box-Muller), rounded to f32. */
export function normal(shape: readonly number[], seed: number, scale = 1): Float32Array {
  const next = uniform(seed);
  const values = new Float32Array(sizeOf(shape));
  for (let i = 0; i < values.length; i++) {
    const radius = Math.sqrt(-2 * Math.log(1 - next()));
    values[i] = scale * radius * Math.cos(2 * Math.PI * next());
  }
  return values;
}

/** Uniform numbers in [-bound, bound), rounded to f32. */
export function uniformArray(shape: readonly number[], seed: number, bound: number): Float32Array {
  const next = uniform(seed);
  return new Float32Array(sizeOf(shape)).map(() => bound * (2 * next() - 1));
}

/** Integers in [0, limit). */
export function integers(count: number, seed: number, limit: number): Int32Array {
  const next = uniform(seed);
  return new Int32Array(count).map(() => Math.floor(next() * limit));
}

const floatView = new Float32Array(1);
const bitsView = new Uint32Array(floatView.buffer);

/** Nearest bf16 of an f32 value, ties to even. */
export function toBf16Bits(value: number): number {
  if (Number.isNaN(value)) return 0x7fc0;
  floatView[0] = value;
  const bits = bitsView[0];
  return ((bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16) & 0xffff;
}

export function fromBf16Bits(bits: number): number {
  bitsView[0] = bits << 16;
  return floatView[0];
}

function roundHalfEven(value: number): number {
  const floor = Math.floor(value);
  const rest = value - floor;
  if (rest !== 0.5) return Math.round(value);
  return floor % 2 === 0 ? floor : floor + 1;
}

/** Nearest f16 of an f32 value, ties to even, subnormals kept, overflow to infinity. */
export function toF16Bits(value: number): number {
  if (Number.isNaN(value)) return 0x7e00;
  floatView[0] = value;
  const bits = bitsView[0];
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = Math.abs(value);
  if (magnitude >= 65520) return sign | 0x7c00; // half way between the largest f16 and 2^16
  if (magnitude < 2 ** -14) return sign | roundHalfEven(magnitude * 2 ** 24);
  // The exponent's bias goes from 127 to 15, the mantissa from 23 bits to 10; rounding up may carry into the exponent.
  const rebiased = (bits & 0x7fffffff) - ((127 - 15) << 23);
  return sign | ((rebiased + 0xfff + ((rebiased >>> 13) & 1)) >>> 13);
}

export function fromF16Bits(bits: number): number {
  const sign = bits & 0x8000 ? -1 : 1;
  const exponent = (bits >>> 10) & 0x1f;
  const fraction = bits & 0x3ff;
  if (exponent === 31) return fraction === 0 ? sign * Number.POSITIVE_INFINITY : Number.NaN;
  return exponent === 0 ? sign * fraction * 2 ** -24 : sign * (1 + fraction / 1024) * 2 ** (exponent - 15);
}

/** Bits of a 16-bit type for every value, as Tensor.from takes them. */
export function toBits(values: ArrayLike<number>, dtype: 'bf16' | 'f16'): Uint16Array {
  const convert = dtype === 'bf16' ? toBf16Bits : toF16Bits;
  return Uint16Array.from(values, (value) => convert(Math.fround(value)));
}

export function fromBits(bits: Uint16Array, dtype: 'bf16' | 'f16'): Float32Array {
  const convert = dtype === 'bf16' ? fromBf16Bits : fromF16Bits;
  return Float32Array.from(bits, (value) => convert(value));
}

/** The value that `dtype` stores for a number. */
export function roundTo(value: number, dtype: FloatType): number {
  if (dtype === 'f32') return Math.fround(value);
  return dtype === 'bf16' ? fromBf16Bits(toBf16Bits(value)) : fromF16Bits(toF16Bits(Math.fround(value)));
}
