/** Data from the caller: which arrays are taken, and as what. */
import type { HostArray } from './binding.js';
import * as check from './checks.js';
import { type DType, floats, halves } from './dtype.js';
import { ArgumentError, DTypeError } from './errors.js';

export type { HostArray };

/** What a tensor can be made from; a Uint16Array is the raw bits of bf16 or f16. */
export type TensorData = HostArray | readonly number[];

/** The dtype of a tensor made from `data` when none is asked for. */
export const natural = (data: TensorData): DType => (data instanceof Int32Array ? 'i32' : 'f32');

/** `data` as a typed array to copy from and the dtype of its elements, ready to become `dtype`. */
export function hostArray(op: string, data: TensorData, dtype: DType): [HostArray, DType] {
  if (data instanceof Float32Array) return [data, expect(op, 'a Float32Array', dtype, floats, 'f32')];
  if (data instanceof Int32Array) return [data, expect(op, 'an Int32Array', dtype, ['i32'], 'i32')];
  if (data instanceof Uint16Array) return [data, expect(op, 'a Uint16Array (raw bits)', dtype, halves, dtype)];
  if (!Array.isArray(data)) {
    throw new DTypeError(
      `${op}: data is ${check.describe(data)}, expected a Float32Array, Int32Array, Uint16Array or an array of numbers`,
    );
  }
  const fits = dtype === 'i32' ? (value: unknown) => ((value as number) | 0) === value : isNumber;
  const wrong = data.findIndex((value) => !fits(value));
  if (wrong >= 0) {
    const expected = dtype === 'i32' ? 'a 32-bit integer' : 'a number';
    throw new ArgumentError(`${op}: data[${wrong}] is ${check.describe(data[wrong])}, expected ${expected}`);
  }
  return dtype === 'i32' ? [Int32Array.from(data), 'i32'] : [Float32Array.from(data), 'f32'];
}

const isNumber = (value: unknown): boolean => typeof value === 'number';

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
  const fault = unshareable(data.buffer);
  if (fault) throw new ArgumentError(`${op}: data has a ${fault} buffer, expected a plain ArrayBuffer of fixed length`);
}

/** Whether a tensor can share this memory. */
export const isShareable = (buffer: ArrayBufferLike): boolean => unshareable(buffer) === null;

function unshareable(buffer: ArrayBufferLike): string | null {
  if (!(buffer instanceof ArrayBuffer)) return 'shared';
  if (buffer.resizable) return 'resizable';
  try {
    new Uint8Array(buffer);
    return null;
  } catch {
    return 'detached';
  }
}
