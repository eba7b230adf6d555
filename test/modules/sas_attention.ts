// SAS attention modules for the parity and repeatability tests.
import { ops, SasAttention, type Tensor } from '../../lib/index.js';
import type { Values } from '../helpers/compare.js';
import {
  expectError,
  relativeError,
  vanishingLimit,
  vanishingParameter,
  vanishingScaleFrom,
} from '../helpers/compare.js';
import { cachedTruth } from '../helpers/op_run.js';
import {
  activation,
  device,
  expectWithinLimits,
  type Pair,
  pair,
  type Results,
  type Truth,
} from '../helpers/parity.js';
import { type FloatType, uniformArray } from '../helpers/random.js';
import * as reference from '../reference/index.js';

export interface SasCase extends reference.SasShape {
  batch: number; // B
  timeQ: number; // Tq
  timeK: number; // Tk
  inputScale?: number; // of q, k and v, default 1
}

export interface SasProblem {
  q: Pair;
  k: Pair;
  v: Pair;
  gradOutput: Pair;
  module: SasAttention;
  parameters: reference.Parameters64;
  shape: SasCase;
}

export function sasName(shape: SasCase): string {
  const {
    batch,
    timeQ,
    timeK,
    heads,
    headDim,
    simHeads,
    simHeadDim,
    kernelSize,
    causal = true,
    inputScale = 1,
  } = shape;
  const sizes = `H=${heads} D=${headDim} H'=${simHeads} D'=${simHeadDim} k=${kernelSize}`;
  return `B=${batch} T=${timeQ}/${timeK} ${sizes} ${causal ? 'causal' : 'full'}${inputScale === 1 ? '' : ` x${inputScale}`}`;
}

/** Input values that one output of this parameter is a sum over. */
export function fanIn(name: string, shape: reference.SasShape): number {
  const { heads, headDim, simHeads, simHeadDim, kernelSize } = shape;
  if (name.includes('.0.')) return heads * kernelSize;
  if (name.includes('.1.')) return simHeads * kernelSize;
  if (name.includes('.2.')) return headDim;
  return name.includes('.3.') ? simHeadDim : heads * headDim;
}

/** f32 parameters, uniform in +-1/sqrt(fan_in). */
export function randomState(
  shape: reference.SasShape,
  seed: number,
): [string, { shape: number[]; data: Float32Array }][] {
  return reference.parameterShapes(shape).map(([name, extent], i) => {
    const data = uniformArray(extent, seed + i, 1 / Math.sqrt(fanIn(name, shape)));
    return [name, { shape: extent, data }];
  });
}

export function moduleConfig(
  shape: reference.SasShape,
  dtype: FloatType,
): ConstructorParameters<typeof SasAttention>[0] {
  const { heads, headDim, simHeads, simHeadDim, kernelSize, causal = true, scale } = shape;
  const config = { heads, headDim, simHeads, simHeadDim, kernelSize, causal, dtype, device };
  return scale === undefined ? config : { ...config, scale };
}

export function sasProblem(shape: SasCase, dtype: FloatType, seed: number): SasProblem {
  const { batch, timeQ, timeK, heads, headDim, inputScale = 1 } = shape;
  const module = new SasAttention(moduleConfig(shape, dtype));
  const state = randomState(shape, seed + 100);
  module.loadStateDict(state);
  return {
    q: activation([batch, timeQ, heads, headDim], seed + 1, dtype, inputScale),
    k: activation([batch, timeK, heads, headDim], seed + 2, dtype, inputScale),
    v: activation([batch, timeK, heads, headDim], seed + 3, dtype, inputScale),
    gradOutput: activation([batch, timeQ, heads * headDim], seed + 4, dtype),
    module,
    parameters: new Map(state.map(([name, { shape: extent, data }]) => [name, reference.array64(data, extent)])),
    shape,
  };
}

export function sasTruth(problem: SasProblem): Truth {
  const { q, k, v, gradOutput, parameters, shape } = problem;
  const bits = [...parameters].map(([name, exact]) => [name, { exact, bits: exact.data }] as const);
  const key = {
    facts: ['truth', 'SasAttention', shape],
    inputs: { q, k, v, gradOutput, ...Object.fromEntries(bits) },
  };
  return cachedTruth(key, () => computeTruth(problem));
}

function computeTruth({ q, k, v, gradOutput, parameters, shape }: SasProblem): Truth {
  const inputs = [q.exact, k.exact, v.exact] as const;
  const backward = (omitMean: boolean): Record<string, reference.Array64> => {
    const result = reference.sasAttentionBackward(gradOutput.exact, ...inputs, parameters, shape, { omitMean });
    return { q: result.gradQ, k: result.gradK, v: result.gradV, ...Object.fromEntries(result.gradParameters) };
  };
  const output = reference.sasAttention(...inputs, parameters, shape);
  const truth: Truth = { outputs: { output }, gradients: backward(false) };
  // With a single key there is no gradient of queries and keys: judged by the size of the terms that cancel.
  if (Object.values(truth.gradients).some(({ data }) => reference.norm64(data) === 0)) {
    const scales = Object.entries(backward(true)).map(([name, { data }]) => [name, reference.norm64(data)]);
    truth.zeroScales = Object.fromEntries(scales);
  }
  return truth;
}

/** The module itself. */
export function runModule({ module, q, k, v, gradOutput }: SasProblem): Results<Tensor> {
  const { output, saved } = module.forward(q.tensor, k.tensor, v.tensor);
  const { gradQ, gradK, gradV, gradParameters } = module.backward(gradOutput.tensor, saved);
  saved.dispose();
  return { outputs: { output }, gradients: { q: gradQ, k: gradK, v: gradV, ...Object.fromEntries(gradParameters) } };
}

type ExpandWeights = Parameters<typeof ops.expand>[1];

/** The unfused pipeline on the device: ops.naive, step by step. */
export function runNaive({ module, q, k, v, gradOutput, shape }: SasProblem): Results<Tensor> {
  const { heads, simHeads } = shape;
  const { causal, scale } = module.config;
  const parameter = (name: string): Tensor => {
    const tensor = module.parameters.get(name);
    if (tensor === undefined) throw new Error(`no parameter ${name}`);
    return tensor;
  };
  const weights = (branch: reference.SasBranch): ExpandWeights => {
    const entries = reference.branchNames(branch).map(([field, name]) => [field, parameter(name)]);
    return Object.fromEntries(entries) as ExpandWeights;
  };
  const simQ = ops.naive.expand(q.tensor, weights('q'));
  const simK = ops.naive.expand(k.tensor, weights('k'));
  const simV = ops.naive.expand(v.tensor, weights('v'));
  const attended = ops.naive.attention(simQ, simK, simV, { causal, scale });
  const mean = ops.aggregate(attended.output, heads);
  const output = ops.linear(mean, parameter('output_dense.weight'), parameter('output_dense.bias'));

  const dense = ops.linearBackward(gradOutput.tensor, mean, parameter('output_dense.weight'));
  const gradAttended = ops.aggregateBackward(dense.gradX, heads, simHeads);
  const saved = { q: simQ, k: simK, v: simV, output: attended.output, logSumExp: attended.logSumExp };
  const inner = ops.naive.attentionBackward(gradAttended, saved, { causal, scale });
  const branches = {
    q: ops.naive.expandBackward(inner.gradQ, q.tensor, weights('q')),
    k: ops.naive.expandBackward(inner.gradK, k.tensor, weights('k')),
    v: ops.naive.expandBackward(inner.gradV, v.tensor, weights('v')),
  };
  const gradients: Record<string, Tensor> = { q: branches.q.gradX, k: branches.k.gradX, v: branches.v.gradX };
  for (const branch of ['q', 'k', 'v'] as const) {
    for (const [field, name] of reference.branchNames(branch)) {
      const gradient = branches[branch].gradWeights[field];
      if (gradient !== undefined) gradients[name] = gradient;
    }
  }
  gradients['output_dense.weight'] = dense.gradWeight;
  gradients['output_dense.bias'] = dense.gradBias;
  return { outputs: { output }, gradients };
}

/** Splits the gradients that are zero in exact arithmetic off, and judges each by its own norm, relative to the gradient that gives its scale. */
export function expectModuleWithinLimits(
  group: string,
  name: string,
  dtype: FloatType,
  results: Results<Values>,
  truth: Truth,
  naiveErrors: Record<string, number>,
  vanishing: ReadonlyMap<string, string> = new Map([[vanishingParameter, vanishingScaleFrom]]),
): void {
  const without = <Value>(gradients: Record<string, Value>): Record<string, Value> =>
    Object.fromEntries(Object.entries(gradients).filter(([parameter]) => !vanishing.has(parameter)));
  const gradients = without(results.gradients);
  const expected = without(truth.gradients);
  expectWithinLimits(group, name, dtype, { ...results, gradients }, { ...truth, gradients: expected }, naiveErrors);
  for (const [parameter, scaleFrom] of vanishing) {
    const norm = reference.norm64(expected[scaleFrom].data);
    const scale = norm > 0 ? norm : truth.zeroScales?.[scaleFrom];
    const zeros = new Float64Array(truth.gradients[parameter].data.length);
    const share = relativeError(results.gradients[parameter].data, zeros, scale);
    expectError(share, vanishingLimit(dtype), `${group} vanishing gradient: ${name}, ${parameter}`);
  }
}

/** For a module whose values come from elsewhere (a PyTorch state dict). */
export function pairOf(array: reference.Array64, dtype: FloatType): Pair {
  return pair(Float32Array.from(array.data), array.shape, dtype);
}

export function disposeModule({ module, q, k, v, gradOutput }: SasProblem): void {
  module.dispose();
  for (const { tensor } of [q, k, v, gradOutput]) tensor.dispose();
}
