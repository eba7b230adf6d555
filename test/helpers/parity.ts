// What every parity test does: the same values to the device and to the float64 reference, then each result against its
// limit. SAS_DEVICE and SAS_ISA choose what is tested.
import { expect } from 'vitest';
import { getDevice, Tensor } from '../../lib/index.js';
import { type Array64, array64 } from '../reference/index.js';
import { round64 } from '../reference/rounded_pipeline.js';
import { expectShape, faultOf, limit, relativeError, type Values } from './compare.js';
import { type FloatType, fromBits, normal, toBits, uniformArray } from './random.js';

export const device = getDevice();
/** The emulated CUDA device is exact and slow (test/emulator): tests that repeat themselves do so less often there. */
export const emulated = device.info.name.startsWith('emulated');
/** Milliseconds per test: the float64 reference is slow by design, the emulated device slower, sanitizers slowest. SAS_TEST_TIMEOUT overrides. */
export const timeout =
  Number(process.env.SAS_TEST_TIMEOUT) ||
  (!emulated ? 60_000 : process.env.SAS_SANITIZE === undefined ? 600_000 : 1_800_000);
export const floatTypes: readonly FloatType[] = ['f32', 'bf16', 'f16'];

/** A tensor on the device, exactly its values, and the bits of both. */
export interface Pair {
  tensor: Tensor;
  exact: Array64;
  bits: Float32Array | Uint16Array | Int32Array;
}

/** Values rounded to `dtype`, once, for both sides. */
export function pair(values: Float32Array, shape: readonly number[], dtype: FloatType): Pair {
  if (dtype === 'f32') {
    return { tensor: Tensor.from(values, shape, { device }), exact: array64(values, shape), bits: values };
  }
  const bits = toBits(values, dtype);
  return { tensor: Tensor.from(bits, shape, { dtype, device }), exact: array64(fromBits(bits, dtype), shape), bits };
}

/** Standard normal activations times `scale`. */
export function activation(shape: readonly number[], seed: number, dtype: FloatType, scale = 1): Pair {
  return pair(normal(shape, seed, scale), shape, dtype);
}

/** f32 parameter, uniform in +-1/sqrt(fanIn). */
export function parameter(shape: readonly number[], seed: number, fanIn: number): Pair {
  return pair(uniformArray(shape, seed, 1 / Math.sqrt(fanIn)), shape, 'f32');
}

export function integerTensor(values: Int32Array, shape: readonly number[]): Tensor {
  return Tensor.from(values, shape, { device });
}

export async function valuesOf(tensor: Tensor): Promise<Values> {
  return { shape: tensor.shape, data: await tensor.data() };
}

/** Waits for all tensors and disposes them. */
export async function take(tensors: Record<string, Tensor>): Promise<Record<string, Values>> {
  const entries = Object.entries(tensors).map(async ([name, tensor]): Promise<[string, Values]> => {
    const values = await valuesOf(tensor);
    return [name, values];
  });
  const values = Object.fromEntries(await Promise.all(entries));
  for (const tensor of Object.values(tensors)) tensor.dispose();
  return values;
}

export function expectDtype(tensors: Record<string, Tensor>, dtype: string): void {
  for (const [name, tensor] of Object.entries(tensors)) expect(tensor.dtype, `dtype of ${name}`).toBe(dtype);
}

/** Results or truth of one computation: outputs and gradients have different limits. */
export interface Results<Value> {
  outputs: Record<string, Value>;
  gradients: Record<string, Value>;
}

export interface Truth extends Results<Array64> {
  zeroScales?: Record<string, number>; // for gradients that are exactly zero: the norm of the terms that cancel
}

export async function takeResults({ outputs, gradients }: Results<Tensor>): Promise<Results<Values>> {
  return { outputs: await take(outputs), gradients: await take(gradients) };
}

/** Error of every tensor of `results` (for example of the naive pipeline), by name. */
export function errorsOf(results: Results<Values>, truth: Truth): Record<string, number> {
  const actual = { ...results.outputs, ...results.gradients };
  const errors: Record<string, number> = {};
  for (const [name, reference] of Object.entries({ ...truth.outputs, ...truth.gradients })) {
    errors[name] = relativeError(actual[name].data, reference.data, truth.zeroScales?.[name]);
  }
  return errors;
}

/** Errors of the truth itself, rounded to the type it is stored in: the naive error of an op that is a single step. */
export function roundingErrors(truth: Truth, dtype: FloatType): Record<string, number> {
  const rounded = (values: Record<string, Array64>) =>
    Object.fromEntries(Object.entries(values).map(([name, value]) => [name, round64(value, dtype)]));
  return errorsOf({ outputs: rounded(truth.outputs), gradients: rounded(truth.gradients) }, truth);
}

/** Every tensor against its limit, all faults in one message; one line of the summary per `group`. */
export function expectWithinLimits(
  group: string,
  name: string,
  dtype: FloatType,
  results: Results<Values>,
  truth: Truth,
  naiveErrors: Record<string, number>,
): void {
  const faults: string[] = [];
  for (const kind of ['output', 'gradient'] as const) {
    const actual = kind === 'output' ? results.outputs : results.gradients;
    const expected = kind === 'output' ? truth.outputs : truth.gradients;
    expect(Object.keys(actual).sort(), `${group}: ${name}, tensors`).toEqual(Object.keys(expected).sort());
    for (const [tensor, reference] of Object.entries(expected)) {
      const label = `${group}: ${name}, ${kind === 'output' ? '' : 'gradient of '}${tensor}`;
      expectShape(actual[tensor].shape, reference.shape, label);
      const error = relativeError(actual[tensor].data, reference.data, truth.zeroScales?.[tensor]);
      const naiveError = naiveErrors[tensor];
      expect(naiveError, `${label}: naive error`).toBeDefined();
      const fault = faultOf(error, limit(dtype, kind, naiveError), label);
      if (fault !== undefined) faults.push(fault);
    }
  }
  if (faults.length > 0) expect.fail(faults.join('\n'));
}
