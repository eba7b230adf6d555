/** Element types: their codes in the binding, their widths, their host arrays. */
import { types } from 'node:util';
import type { DTypeCode } from '../binding.js';
import type { HostArray } from './binding.js';

/** Element type: 32-bit float, bfloat16, IEEE half, 32-bit signed integer. */
export type DType = 'f32' | 'bf16' | 'f16' | 'i32';

interface HostArrayConstructor {
  readonly name: string;
  new (length: number): HostArray;
  new (buffer: ArrayBuffer): HostArray;
}

interface DTypeTraits {
  /** Its number in the binding. */
  readonly code: DTypeCode;
  /** Bytes per element. */
  readonly bytes: number;
  /** The host array of its raw elements. */
  readonly array: HostArrayConstructor;
  /** Whether a value is such an array, of whatever realm. */
  readonly isArray: (value: unknown) => value is HostArray;
  /** Its name in a safetensors file. */
  readonly fileName: string;
}

export const dtypes: Readonly<Record<DType, DTypeTraits>> = {
  f32: { code: 0, bytes: 4, array: Float32Array, isArray: types.isFloat32Array, fileName: 'F32' },
  bf16: { code: 1, bytes: 2, array: Uint16Array, isArray: types.isUint16Array, fileName: 'BF16' },
  f16: { code: 2, bytes: 2, array: Uint16Array, isArray: types.isUint16Array, fileName: 'F16' },
  i32: { code: 3, bytes: 4, array: Int32Array, isArray: types.isInt32Array, fileName: 'I32' },
};

/** The dtypes of activations. */
export const floats: readonly DType[] = ['f32', 'bf16', 'f16'];

/** The dtypes whose host array is a Uint16Array of raw bits. */
export const halves: readonly DType[] = ['bf16', 'f16'];

/** The dtype's number in the binding. */
export const codeOf = (dtype: DType): DTypeCode => dtypes[dtype].code;
