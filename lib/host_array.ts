/** Data from the caller: which arrays are taken, and as what. */
import { types } from 'node:util';
import type { HostArray } from './binding.js';
import * as check from './checks.js';
import { type DType, floats, halves } from './dtype.js';
import { ArgumentError, DTypeError } from './errors.js';

export type { HostArray };

/** What a tensor can be made from; a Uint16Array is the raw bits of bf16 or f16. */
export type TensorData = HostArray | readonly number[];

/** The dtype of a tensor made from `data` when none is asked for; `bits` is what raw bits are taken for. */
export const natural = (data: TensorData, bits: DType = 'f32'): DType =>
  types.isInt32Array(data) ? 'i32' : types.isUint16Array(data) ? bits : 'f32';

/** What the engine says of a typed array, whatever its own properties say; those of any realm. */
const intrinsic = <T>(name: 'buffer' | 'length') => {
  const prototype: object = Object.getPrototypeOf(Float32Array.prototype);
  const { get } = Object.getOwnPropertyDescriptor(prototype, name) as { get(): T };
  return (array: HostArray): T => get.call(array);
};
export const bufferOfArray = intrinsic<ArrayBufferLike>('buffer');
export const lengthOfArray = intrinsic<number>('length');

/** `data` as a typed array to copy from and the dtype of its elements, ready to become `dtype`. */
export function hostArray(op: string, data: TensorData, dtype: DType): [HostArray, DType] {
  if (types.isFloat32Array(data)) return [data, expect(op, 'a Float32Array', dtype, floats, 'f32')];
  if (types.isInt32Array(data)) return [data, expect(op, 'an Int32Array', dtype, ['i32'], 'i32')];
  if (types.isUint16Array(data)) return [data, expect(op, 'a Uint16Array (raw bits)', dtype, halves, dtype)];
  if (!Array.isArray(data)) {
    throw new DTypeError(
      `${op}: data is ${check.describe(data)}, expected a Float32Array, Int32Array, Uint16Array or an array of numbers`,
    );
  }
  const wrong = data.findIndex((value) => !(dtype === 'i32' ? isInteger : isFloat)(value));
  if (wrong >= 0) {
    const value: unknown = data[wrong];
    const float = typeof value === 'number' ? `a number (in f32 it is ${Math.fround(value)})` : 'a number';
    const expected = dtype === 'i32' ? 'a 32-bit integer' : float;
    throw new ArgumentError(`${op}: data[${wrong}] is ${check.describe(value)}, expected ${expected}`);
  }
  return dtype === 'i32' ? [Int32Array.from(data), 'i32'] : [Float32Array.from(data), 'f32'];
}

const isInteger = (value: unknown): boolean => ((value as number) | 0) === value;

/** A number that f32 holds, rounded: NaN and the infinities are numbers, but no finite number becomes one. */
const isFloat = (value: unknown): boolean =>
  typeof value === 'number' && Number.isFinite(Math.fround(value)) === Number.isFinite(value);

function expect(op: string, what: string, dtype: DType, allowed: readonly DType[], stored: DType): DType {
  if (!allowed.includes(dtype)) {
    throw new DTypeError(`${op}: data is ${what} and dtype is ${dtype}, expected dtype ${allowed.join(', ')}`);
  }
  return stored;
}

/** Throws unless `data` can be shared as a tensor of `dtype`: its elements as they are, in memory that stays where it is. */
export function refuseUnshareable(op: string, data: HostArray, dtype: DType): void {
  if (Array.isArray(data))
    throw new DTypeError(`${op}: data is an array, expected a typed array (its memory is shared)`);
  const [, stored] = hostArray(op, data, dtype);
  if (stored !== dtype) throw new DTypeError(`${op}: data holds ${stored} and dtype is ${dtype}, expected ${stored}`);
  const fault = unshareable(bufferOfArray(data));
  if (fault) throw new ArgumentError(`${op}: data has a ${fault} buffer, expected a plain ArrayBuffer of fixed length`);
}

/** Whether a tensor can share this memory. */
export const isShareable = (buffer: ArrayBufferLike): boolean => unshareable(buffer) === null;

function unshareable(buffer: ArrayBufferLike): string | null {
  if (!types.isArrayBuffer(buffer)) return 'shared';
  if (buffer.resizable) return 'resizable';
  try {
    new Uint8Array(buffer);
    return null;
  } catch {
    return 'detached';
  }
}
