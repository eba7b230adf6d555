// One case of a described op: its inputs on the device and in float64, what the library makes of them, and the truth.
import { createHash } from 'node:crypto';
import { expect } from 'vitest';
import { scope, Tensor } from '../../lib/index.js';
import { type Array64, array64, norm64 } from '../reference/index.js';
import type { Values } from './compare.js';
import { type Calls, type Case, type Input, inputOfGradient, type Named, type Op } from './op.js';
import {
  emulated,
  errorsOf,
  floatTypes,
  integerTensor,
  type Pair,
  pair,
  type Results,
  roundingErrors,
  type Truth,
  takeResults,
} from './parity.js';
import type { FloatType } from './random.js';
import { referenceCache } from './reference_cache.js';

export interface Problem {
  op: Op;
  item: Case;
  dtype: FloatType;
  pairs: Named<Pair>;
  tensors: Named<Tensor>;
  exact: Named<Array64>;
}

export const dtypesOf = (op: Op): readonly FloatType[] => (op.onlyF32 ? ['f32'] : floatTypes);
/** The case as this device computes it. */
export const here = (item: Case): Case => (emulated && item.onEmulator ? item.onEmulator : item);
/** Of the summary and of the tests. */
export const groupOf = ({ name, onlyF32 }: Op, dtype: FloatType): string => (onlyF32 ? name : `${name} ${dtype}`);

function pairOf({ shape, role, values }: Input, seed: number, dtype: FloatType): Pair {
  const drawn = values(seed);
  if (drawn instanceof Int32Array) {
    return { tensor: integerTensor(drawn, shape), exact: array64(drawn, shape), bits: drawn };
  }
  return pair(drawn, shape, role === 'parameter' ? 'f32' : dtype);
}

/** One side of every pair, under the same names. */
function pick<Side extends keyof Pair>(pairs: Named<Pair>, side: Side): Named<Pair[Side]> {
  return Object.fromEntries(Object.entries(pairs).map(([name, both]) => [name, both[side]]));
}

export function problemOf(op: Op, item: Case, dtype: FloatType): Problem {
  const { inputs, seed = 1 } = item;
  const pairs = Object.fromEntries(
    Object.entries(inputs).map(([name, input], i) => [name, pairOf(input, seed + i, dtype)]),
  );
  return { op, item, dtype, pairs, tensors: pick(pairs, 'tensor'), exact: pick(pairs, 'exact') };
}

/** The same values, activations in f32. */
export function widened(problem: Problem): Problem {
  const tensors = Object.entries(problem.tensors).map(([name, tensor]) => [
    name,
    tensor.to({ dtype: tensor.dtype === 'i32' ? 'i32' : 'f32' }),
  ]);
  return { ...problem, tensors: Object.fromEntries(tensors) as Named<Tensor> };
}

export function dispose({ tensors }: Problem): void {
  for (const tensor of Object.values(tensors)) tensor.dispose();
}

/** Tensors by name, also out of records inside; a lone tensor is called `name`. */
export function namedTensors(returned: unknown, name: string): Named<Tensor> {
  if (returned instanceof Tensor) return { [name]: returned };
  if (typeof returned !== 'object' || returned === null) return {};
  return Object.assign({}, ...Object.entries(returned).map(([key, value]) => namedTensors(value, key)));
}

export function forward(calls: Calls<unknown>, { item, tensors }: Problem): Named<Tensor> {
  const { call, args } = calls.forward;
  return namedTensors(call(...(args(tensors, item.options, {}) as never[])), 'output');
}

/** Forward and backward through the library. */
export function run(calls: Calls<unknown>, problem: Problem): Results<Tensor> {
  const { op, item, tensors } = problem;
  return scope(() => {
    const outputs = forward(calls, problem);
    if (op.inPlace) Object.assign(outputs, tensors);
    if (calls.backward === undefined) return { outputs, gradients: {} };
    const { call, args } = calls.backward;
    const returned = call(...(args(tensors, item.options, outputs) as never[]));
    const gradients = Object.entries(namedTensors(returned, Object.keys(item.inputs)[0]));
    return {
      outputs,
      gradients: Object.fromEntries(gradients.map(([name, gradient]) => [inputOfGradient(name), gradient])),
    };
  });
}

/** Whether a result has the dtype under test; else it is f32. */
function isStored({ op, item }: Problem, kind: 'outputs' | 'gradients', name: string): boolean {
  if (op.onlyF32) return false;
  return kind === 'outputs' ? !op.f32Outputs?.includes(name) : item.inputs[name]?.role === 'activation';
}

export function expectDtypes(problem: Problem, results: Results<Tensor>): void {
  for (const kind of ['outputs', 'gradients'] as const) {
    for (const [name, { dtype }] of Object.entries(results[kind])) {
      expect(dtype, `dtype of ${name}`).toBe(isStored(problem, kind, name) ? problem.dtype : 'f32');
    }
  }
}

const keyOf = (what: string, { op, item, dtype, pairs }: Problem) => ({
  facts: [what, op.name, item.options, ...(what === 'truth' ? [] : [dtype])],
  inputs: pairs,
});

const isZero = ({ data }: Array64): boolean => norm64(data) === 0;
const scalar = (value: number): Array64 => ({ shape: [], data: Float64Array.of(value) });

/** Records of several kinds as one, and back: kind/name. */
const prefixed = <Value>(kind: string, values: Named<Value>): Named<Value> =>
  Object.fromEntries(Object.entries(values).map(([name, value]) => [`${kind}/${name}`, value]));
const ofKind = (kind: string, all: Named<Array64>): Named<Array64> =>
  Object.fromEntries(
    Object.entries(all).flatMap(([name, value]) =>
      name.startsWith(`${kind}/`) ? [[name.slice(kind.length + 1), value]] : [],
    ),
  );
const numbers = (arrays: Named<Array64>): Named<number> =>
  Object.fromEntries(Object.entries(arrays).map(([name, { data }]) => [name, data[0]]));

/** A truth by way of the cache. */
export function cachedTruth(key: Parameters<typeof referenceCache.get>[0], compute: () => Truth): Truth {
  const all = referenceCache.get(key, () => {
    const { outputs, gradients, zeroScales = {} } = compute();
    const scales = Object.fromEntries(Object.entries(zeroScales).map(([name, value]) => [name, scalar(value)]));
    return { ...prefixed('outputs', outputs), ...prefixed('gradients', gradients), ...prefixed('scales', scales) };
  });
  return {
    outputs: ofKind('outputs', all),
    gradients: ofKind('gradients', all),
    zeroScales: numbers(ofKind('scales', all)),
  };
}

/** Errors by way of the cache. */
export function cachedErrors(
  key: Parameters<typeof referenceCache.get>[0],
  compute: () => Named<number>,
): Named<number> {
  return numbers(
    referenceCache.get(key, () =>
      Object.fromEntries(Object.entries(compute()).map(([name, error]) => [name, scalar(error)])),
    ),
  );
}

export function truthOf(problem: Problem): Truth {
  const { op, item, exact } = problem;
  return cachedTruth(keyOf('truth', problem), () => {
    const truth: Truth = {
      outputs: op.reference.forward(exact, item.options),
      gradients: op.reference.backward?.(exact, item.options) ?? {},
    };
    if (op.reference.cancelling && Object.values(truth.gradients).some(isZero)) {
      const terms = Object.entries(op.reference.cancelling(exact, item.options));
      truth.zeroScales = Object.fromEntries(terms.map(([name, { data }]) => [name, norm64(data)]));
    }
    return truth;
  });
}

/** Errors of the pipeline that rounds every step; of an op that is a single step, of results that are rounded once. */
export function roundedErrors(problem: Problem, truth: Truth): Named<number> {
  const { op, item, dtype, exact } = problem;
  const { rounded } = op;
  if (rounded) {
    return cachedErrors(keyOf('rounded', problem), () => errorsOf(rounded.call(op, exact, item.options, dtype), truth));
  }
  const errors = roundingErrors(truth, dtype);
  for (const kind of ['outputs', 'gradients'] as const) {
    for (const name of Object.keys(truth[kind])) if (!isStored(problem, kind, name)) errors[name] = 0;
  }
  return errors;
}

export interface Compared {
  fused: Results<Values>;
  naive?: Results<Values>;
  /** Of the fused op. */
  naiveErrors: Named<number>;
  /** Of the twin; undefined where it is made of ops. */
  roundedErrors?: Named<number>;
}

/**
 * Runs the op and its twin, and says which errors set their limits. Where the unfused pipeline overflows, what f32 arithmetic
 * makes of the same values sets the limits of the fused op: it keeps f32 inside. The twin then has none.
 */
export async function compare(problem: Problem, truth: Truth, fused: Results<Tensor>): Promise<Compared> {
  const { op, item, dtype } = problem;
  if (op.naive === undefined) {
    return { fused: await takeResults(fused), naiveErrors: roundedErrors(problem, truth) };
  }
  const naive = await takeResults(run(op.naive, problem));
  const errors = op.rounded && roundedErrors(problem, truth);
  const overflows = Object.values(errors ?? {}).some((error) => !Number.isFinite(error));
  expect(overflows, 'the unfused pipeline overflows').toBe(item.overflows?.includes(dtype) ?? false);
  if (!overflows) {
    const naiveErrors = errorsOf(naive, truth);
    return { fused: await takeResults(fused), naive, naiveErrors, roundedErrors: errors };
  }
  const wide = widened(problem);
  const naiveErrors = errorsOf(await takeResults(run(op.naive, wide)), truth);
  dispose(wide);
  return { fused: await takeResults(fused), naiveErrors };
}

/** The bits of every result; disposes them. */
export async function digest({ outputs, gradients }: Results<Tensor>): Promise<string> {
  const hash = createHash('sha256');
  for (const [name, tensor] of [...Object.entries(outputs), ...Object.entries(gradients)]) {
    const bits = await tensor.raw();
    hash.update(`${name} [${tensor.shape.join(', ')}] ${tensor.dtype};`);
    hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
  }
  for (const tensor of Object.values({ ...outputs, ...gradients })) tensor.dispose();
  return hash.digest('hex').slice(0, 16);
}
