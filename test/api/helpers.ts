import { expect } from 'vitest';
import { type DType, type SasConfig, type SasError, scope, Tensor } from '../../lib/index.js';

/** A call that must be refused: the class of the error and its whole message. */
export type Refusal = readonly [message: string, kind: abstract new (...args: never[]) => object, call: () => unknown];

/** The error that `call` throws; fails if it throws none. */
export function thrownBy(call: () => unknown): SasError {
  try {
    scope(call);
  } catch (error) {
    return error as SasError;
  }
  throw new Error('expected the call to throw');
}

/** The call throws exactly this, and leaves nothing behind: whatever it made is disposed. */
export function expectRefusal([message, kind, call]: Refusal): void {
  const error = thrownBy(call);
  expect(error.message).toBe(message);
  expect(error).toBeInstanceOf(kind);
}

/** Zeros of a shape, the quickest operand there is. */
export const zeros = (dtype: DType, ...shape: number[]): Tensor => Tensor.zeros(shape, { dtype });
export const f32 = (...shape: number[]): Tensor => zeros('f32', ...shape);
export const bf16 = (...shape: number[]): Tensor => zeros('bf16', ...shape);
export const f16 = (...shape: number[]): Tensor => zeros('f16', ...shape);
export const i32 = (...shape: number[]): Tensor => zeros('i32', ...shape);

/** A module small enough for tests of everything but speed. */
export const small = { heads: 2, headDim: 4, simHeads: 4, simHeadDim: 6, kernelSize: 3 } satisfies SasConfig;

/** Host values of a tensor as plain numbers. */
export const values = async (tensor: Tensor): Promise<number[]> => [...(await tensor.data())];
