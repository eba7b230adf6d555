// Attention modules for the parity tests.
import {
  MatrixFactorizationAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  type SelfAttention,
  SimulatedAttention,
  TensorProductAttention,
} from '../../lib/attentions/index.js';
import type { Device, DType, Tensor } from '../../lib/index.js';
import { cachedErrors, cachedTruth } from '../helpers/op_run.js';
import { activation, device, errorsOf, type Pair, type Results, type Truth } from '../helpers/parity.js';
import { type FloatType, normal, uniformArray } from '../helpers/random.js';
import * as reference from '../reference/index.js';
import { naiveArithmetic, storingArithmetic } from '../reference/rounded_attentions.js';

interface Placement {
  dtype: DType;
  device: Device;
  seed: number;
}

const constructors: {
  [Kind in reference.AttentionKind]: (
    config: reference.AttentionConfigs64[Kind],
    placement: Placement,
  ) => SelfAttention;
} = {
  multiHead: (config, placement) => new MultiHeadAttention({ ...config, ...placement }),
  latent: (config, placement) => new MultiHeadLatentAttention({ ...config, ...placement }),
  tensorProduct: (config, placement) => new TensorProductAttention({ ...config, ...placement }),
  matrixFactorization: (config, placement) => new MatrixFactorizationAttention({ ...config, ...placement }),
  // Its headDim is no setting but C / H.
  simulated: ({ headDim, ...config }, placement) => new SimulatedAttention({ ...config, ...placement }),
};

export type State = [string, { shape: number[]; data: Float32Array }][];

/** One configuration and input shape. */
export interface AttentionCase {
  kind: reference.AttentionKind;
  config: object;
  name: string;
  shape: number[]; // [B, T, C]
  parameterShapes: [string, number[]][];
  vanishing: ReadonlyMap<string, string>;
  construct(dtype: FloatType, seed: number): SelfAttention;
  compute(
    parameters: reference.Parameters64,
    x: reference.Array64,
    arithmetic: reference.Arithmetic64,
  ): reference.AttentionModule64;
}

export function attentionCase<Kind extends reference.AttentionKind>(
  kind: Kind,
  batch: number,
  time: number,
  config: reference.AttentionConfigs64[Kind],
): AttentionCase {
  const settings = Object.entries(config).map(([key, value]) => `${key}=${JSON.stringify(value).replaceAll('"', '')}`);
  return {
    kind,
    config,
    name: `${kind} B=${batch} T=${time} ${settings.join(' ')}`,
    shape: [batch, time, config.width],
    parameterShapes: reference.attentionParameterShapes(kind, config),
    vanishing: reference.vanishingParameters(kind, config),
    construct: (dtype, seed) => constructors[kind](config, { dtype, device, seed }),
    compute: (parameters, x, arithmetic) => reference.attention64(kind, config, parameters, x, arithmetic),
  };
}

/** f32 parameters: weights and biases uniform in +-1/sqrt(fan_in), weights of norms around 1. */
export function randomState({ parameterShapes }: AttentionCase, seed: number): State {
  const shapes = new Map(parameterShapes);
  return parameterShapes.map(([name, shape], i) => {
    if (name.endsWith('norm.weight')) {
      return [name, { shape, data: normal(shape, seed + i, 0.3).map((value) => 1 + value) }];
    }
    const weightShape = shapes.get(name.replace(/bias$/, 'weight')) ?? shape;
    const fanIn = reference.sizeOf(weightShape.slice(1));
    return [name, { shape, data: uniformArray(shape, seed + i, 1 / Math.sqrt(fanIn)) }];
  });
}

export interface AttentionModuleProblem {
  module: SelfAttention;
  parameters: reference.Parameters64;
  x: Pair;
  gradOutput: Pair;
}

export function attentionModuleProblem(
  attention: AttentionCase,
  dtype: FloatType,
  seed: number,
): AttentionModuleProblem {
  const module = attention.construct(dtype, 0);
  const state = randomState(attention, seed + 100);
  module.loadStateDict(state);
  return {
    module,
    parameters: new Map(state.map(([name, { shape, data }]) => [name, reference.array64(data, shape)])),
    x: activation(attention.shape, seed + 1, dtype),
    gradOutput: activation(attention.shape, seed + 2, dtype),
  };
}

function computeWith(
  attention: AttentionCase,
  { parameters, x, gradOutput }: AttentionModuleProblem,
  arithmetic: reference.Arithmetic64,
): Results<reference.Array64> {
  const { output, backward } = attention.compute(parameters, x.exact, arithmetic);
  const { gradX, gradParameters } = backward(gradOutput.exact);
  return { outputs: { output }, gradients: { x: gradX, ...Object.fromEntries(gradParameters) } };
}

const keyOf = (what: unknown[], { kind, config }: AttentionCase, problem: AttentionModuleProblem) => {
  const { parameters, x, gradOutput } = problem;
  const bits = [...parameters].map(([name, exact]) => [name, { exact, bits: exact.data }] as const);
  return { facts: [...what, kind, config], inputs: { x, gradOutput, ...Object.fromEntries(bits) } };
};

export function attentionModuleTruth(attention: AttentionCase, problem: AttentionModuleProblem): Truth {
  return cachedTruth(keyOf(['truth'], attention, problem), () => computeTruth(attention, problem));
}

function computeTruth(attention: AttentionCase, problem: AttentionModuleProblem): Truth {
  const truth: Truth = computeWith(attention, problem, reference.exactArithmetic());
  // With a single key there is no gradient of queries and keys: judged by the size of the terms that cancel.
  if (Object.values(truth.gradients).some(({ data }) => reference.norm64(data) === 0)) {
    const { gradients } = computeWith(attention, problem, reference.exactArithmetic({ omitMean: true }));
    const scales = Object.entries(gradients).map(([name, { data }]) => [name, reference.norm64(data)]);
    truth.zeroScales = Object.fromEntries(scales);
  }
  return truth;
}

/**
 * Errors of the naive pipeline in `dtype`; of SAS, those of exact ops that store in it where they are larger. Its relus follow
 * a projection: the few whose sign rounding flips cost more than all other rounding, and the naive pipeline flips
 * others. Which ones also depends on whether a device reads weights in f32 or in `dtype`.
 */
export function attentionModuleNaiveErrors(
  attention: AttentionCase,
  problem: AttentionModuleProblem,
  truth: Truth,
  dtype: FloatType,
): Record<string, number> {
  return cachedErrors(keyOf(['naive', dtype], attention, problem), () =>
    computeNaiveErrors(attention, problem, truth, dtype),
  );
}

function computeNaiveErrors(
  attention: AttentionCase,
  problem: AttentionModuleProblem,
  truth: Truth,
  dtype: FloatType,
): Record<string, number> {
  const pipelines = [naiveArithmetic(dtype)];
  if (attention.kind === 'simulated') pipelines.push(storingArithmetic(dtype, dtype), storingArithmetic(dtype, 'f32'));
  const errors = pipelines.map((arithmetic) => errorsOf(computeWith(attention, problem, arithmetic), truth));
  const names = Object.keys(errors[0]);
  return Object.fromEntries(names.map((name) => [name, Math.max(...errors.map((ofOne) => ofOne[name]))]));
}

export function runAttentionModule({ module, x, gradOutput }: AttentionModuleProblem): Results<Tensor> {
  const { output, saved } = module.forward(x.tensor);
  const { gradX, gradParameters } = module.backward(gradOutput.tensor, saved);
  saved.dispose();
  return { outputs: { output }, gradients: { x: gradX, ...Object.fromEntries(gradParameters) } };
}

export function disposeAttentionModule({ module, x, gradOutput }: AttentionModuleProblem): void {
  module.dispose();
  for (const { tensor } of [x, gradOutput]) tensor.dispose();
}
