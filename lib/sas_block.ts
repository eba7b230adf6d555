/** What a SAS attention block computes (arXiv 2507.07694), forward and backward, composed of the ops; it keeps nothing. */
import * as check from './checks.js';
import type { DType } from './dtype.js';
import type { ParameterSpec } from './module.js';
import { aggregate, aggregateBackward } from './ops/aggregate.js';
import { attention, attentionBackward, attentionMean } from './ops/attention.js';
import { type ExpandKept, type ExpandOptions, type ExpandWeights, expandBackward, runExpand } from './ops/expand.js';
import { linear, linearBackward } from './ops/linear.js';
import { scope } from './scope.js';
import { operands, type Tensor } from './tensor.js';

/** The sizes that the parameters follow from; symbols as in the paper. */
export interface Sizes {
  readonly heads: number;
  readonly headDim: number;
  readonly simHeads: number;
  readonly simHeadDim: number;
  readonly kernelSize: number;
}

/** What of the block is left out, for ablations. */
export interface Variant {
  /** What the expansions of q and k simulate; v has no features of its own to simulate. */
  readonly expansion: 'both' | 'heads' | 'features';
  /** Whether each map has its residual layer: the 1 and 3 of the parameters' names. */
  readonly residual: boolean;
  /** Whether the groups are averaged before the output projection (PEAA), or it reads all of them: [H*D, H'*D]. */
  readonly aggregation: boolean;
}

/** As published. */
const complete: Variant = { expansion: 'both', residual: true, aggregation: true };

/** What forward and backward are told besides tensors. */
export interface Settings extends Sizes {
  readonly causal: boolean;
  readonly scale: number;
  readonly dtype: DType;
  /** Rotary positions of the expanded queries and keys. Default: none. */
  readonly rope?: ExpandOptions['rope'];
  /** Whether the backward pass computes anew what the expansions would keep for it (`ops.expand`). Default true. */
  readonly recompute?: boolean;
  /** See `Variant`. Default true. */
  readonly aggregation?: boolean;
}

/** f32, by the names of the published module's state dict. */
export type Parameters = ReadonlyMap<string, Tensor>;

/** What `backward` returns; gradients of parameters are f32, under the parameters' names. */
export interface SasGradients {
  /** [B, Tq, H, D] */
  gradQ: Tensor;
  /** [B, Tk, H, D] */
  gradK: Tensor;
  /** [B, Tk, H, D] */
  gradV: Tensor;
  /** By name, f32, in the order of `parameters`. */
  gradParameters: ReadonlyMap<string, Tensor>;
}

/** One of the three tensors that are expanded. */
export type Projected = 'q' | 'k' | 'v';

/** The tensors that a backward pass reads; q, k and v are views of those given. Of the expansions, what they kept. */
export type Activations = Record<
  'q' | 'k' | 'v' | 'expandedQ' | 'expandedK' | 'expandedV' | 'heads' | 'logSumExp' | 'aggregated',
  Tensor
> & { [kept in `${Projected}.${keyof ExpandKept}`]?: Tensor };

const keptNames = ['headRelu', 'heads', 'featureRelu'] as const satisfies (keyof ExpandKept)[];

/** What an expansion kept, by the names of the activations, and back. */
const keptNamed = (tensor: Projected, kept: ExpandKept): Partial<Activations> =>
  Object.fromEntries(Object.entries(kept).map(([name, value]) => [`${tensor}.${name}`, value]));
const keptOf = (tensor: Projected, from: Activations): ExpandKept =>
  Object.fromEntries(
    keptNames.flatMap((name) => {
      const value = from[`${tensor}.${name}`];
      return value ? [[name, value]] : [];
    }),
  );

/** Where the published module keeps each weight of an expansion (its state dict, after `sas_q.`, `sas_k.` or `sas_v.`). */
const layers: Readonly<Record<keyof ExpandWeights, string>> = {
  headWeight: '0.weight',
  headBias: '0.bias',
  headResidualWeight: '1.process.weight',
  headResidualBias: '1.process.bias',
  featureWeight: '2.weight',
  featureBias: '2.bias',
  featureResidualWeight: '3.process.weight',
  featureResidualBias: '3.process.bias',
};

const layerEntries = Object.entries(layers) as [keyof ExpandWeights, string][];

/** Every parameter, in the order q, k, v, output. */
export function parameterTable(sizes: Sizes, variant = complete): ParameterSpec[] {
  const { heads: H, headDim: D, simHeads: Hs, simHeadDim: Ds, kernelSize: k } = sizes;
  const layer = (name: string, shape: number[]): ParameterSpec[] => {
    const fanIn = check.elements(shape.slice(1));
    return [
      [`${name}.weight`, shape, fanIn],
      [`${name}.bias`, shape.slice(0, 1), fanIn],
    ];
  };
  const { expansion, residual, aggregation } = variant;
  const map = (wanted: boolean, first: ParameterSpec[], second: ParameterSpec[]): ParameterSpec[] =>
    wanted ? [...first, ...(residual ? second : [])] : [];
  const headLayers = (tensor: string) =>
    map(expansion !== 'features', layer(`${tensor}.0`, [Hs, H, k]), layer(`${tensor}.1.process`, [Hs, Hs, k]));
  const featureLayers = (tensor: string) =>
    map(expansion !== 'heads', layer(`${tensor}.2`, [Ds, D]), layer(`${tensor}.3.process`, [Ds, Ds]));
  return [
    ...['sas_q', 'sas_k'].flatMap((tensor) => [...headLayers(tensor), ...featureLayers(tensor)]),
    ...headLayers('sas_v'),
    ...layer('output_dense', [H * D, (aggregation ? H : Hs) * D]),
  ];
}

/** The sizes fit each other. */
export function checkSizes(op: string, sizes: Sizes): void {
  const { heads, headDim, simHeads, simHeadDim, kernelSize } = sizes;
  for (const [name, size] of Object.entries({ heads, headDim, simHeads, simHeadDim, kernelSize })) {
    check.integer(op, name, size, { min: 1 });
  }
  check.multiple(op, 'simHeads', simHeads, heads, `heads is ${heads}`);
  check.odd(op, 'kernelSize', kernelSize, 'the convolution is centred');
}

/**
 * q [B, Tq, H, D], k and v [B, Tk, H, D] of `dtype` -> output [B, Tq, H*D], and what `backward` needs: null unless `save`.
 * Then the mean over groups is fused into attention where the device can, and rounds less. `op` is its name in messages.
 */
export function forward(
  op: string,
  settings: Settings,
  parameters: Parameters,
  { q, k, v }: Readonly<Record<Projected, Tensor>>,
  save: boolean,
): { output: Tensor; activations: Activations | null } {
  const { heads: H, headDim: D, dtype, causal, scale, rope, recompute = true, aggregation = true } = settings;
  operands(op, { q, k, v, ...onePlace(parameters) });
  const [B] = check.shape(op, 'q', q, ['B', 'Tq', H, D], `heads is ${H} and headDim ${D}`);
  const [, Tk] = check.shape(op, 'k', k, [B, 'Tk', H, D], check.because('q', q));
  check.shape(op, 'v', v, [B, Tk, H, D], check.because('k', k));
  for (const [name, tensor] of Object.entries({ q, k, v })) {
    check.dtype(op, name, tensor, dtype, 'the dtype of the module');
  }

  return scope(() => {
    const keep = save && !recompute;
    const { output: expandedQ, kept: keptQ } = runExpand(
      'expand',
      false,
      q,
      expandWeights(parameters, 'q'),
      { rope },
      keep,
    );
    const { output: expandedK, kept: keptK } = runExpand(
      'expand',
      false,
      k,
      expandWeights(parameters, 'k'),
      { rope },
      keep,
    );
    const { output: expandedV, kept: keptV } = runExpand('expand', false, v, expandWeights(parameters, 'v'), {}, keep);
    const project = (aggregated: Tensor): Tensor =>
      linear(aggregated, parameter(parameters, 'output_dense.weight'), parameter(parameters, 'output_dense.bias'));
    if (!save && aggregation) {
      const aggregated = attentionMean(expandedQ, expandedK, expandedV, { heads: H, causal, scale });
      return { output: project(aggregated), activations: null };
    }
    const { output: heads, logSumExp } = attention(expandedQ, expandedK, expandedV, { causal, scale });
    const aggregated = aggregation ? aggregate(heads, H) : heads.reshape([...heads.shape.slice(0, 2), -1]);
    const output = project(aggregated);
    if (!save) return { output, activations: null };
    const [viewQ, viewK, viewV] = [q, k, v].map((x) => x.reshape(x.shape)) as [Tensor, Tensor, Tensor];
    const inputs = { q: viewQ, k: viewK, v: viewV };
    const kept = { ...keptNamed('q', keptQ), ...keptNamed('k', keptK), ...keptNamed('v', keptV) };
    return {
      output,
      activations: { ...inputs, expandedQ, expandedK, expandedV, heads, logSumExp, aggregated, ...kept },
    };
  });
}

/** The gradients of `forward`: gradOutput [B, Tq, H*D] of `dtype` and what the forward kept, which stays usable. */
export function backward(
  op: string,
  settings: Settings,
  parameters: Parameters,
  gradOutput: Tensor,
  from: Activations,
): SasGradients {
  const { heads: H, headDim: D, simHeads, dtype, causal, scale, rope, aggregation = true } = settings;
  operands(op, { gradOutput, ...onePlace(parameters) });
  check.shape(op, 'gradOutput', gradOutput, [...from.q.shape.slice(0, 2), H * D], 'the shape of the output');
  check.dtype(op, 'gradOutput', gradOutput, dtype, 'the dtype of the module');

  return scope(() => {
    const projection = linearBackward(gradOutput, from.aggregated, parameter(parameters, 'output_dense.weight'));
    const gradHeads = aggregation
      ? aggregateBackward(projection.gradX, H, simHeads)
      : projection.gradX.reshape(from.heads.shape);
    const { expandedQ, expandedK, expandedV, heads, logSumExp } = from;
    const attended = { q: expandedQ, k: expandedK, v: expandedV, output: heads, logSumExp };
    // In f32, also with 16-bit storage: rounding gradK here would drown the bias gradient that is 0 in exact arithmetic.
    const gradients = attentionBackward(gradHeads, attended, { causal, scale, gradDtype: 'f32' });
    gradHeads.dispose();
    const q = expandBackward(gradients.gradQ, from.q, expandWeights(parameters, 'q'), {
      rope,
      kept: keptOf('q', from),
    });
    const k = expandBackward(gradients.gradK, from.k, expandWeights(parameters, 'k'), {
      rope,
      kept: keptOf('k', from),
    });
    const v = expandBackward(gradients.gradV, from.v, expandWeights(parameters, 'v'), { kept: keptOf('v', from) });
    const gradParameters = new Map([
      ...parameterNamed('q', q.gradWeights),
      ...parameterNamed('k', k.gradWeights),
      ...parameterNamed('v', v.gradWeights),
      ['output_dense.weight', projection.gradWeight],
      ['output_dense.bias', projection.gradBias],
    ] as const);
    return { gradQ: q.gradX, gradK: k.gradX, gradV: v.gradX, gradParameters };
  });
}

/** One of the parameters by its name: all are on one device. */
function onePlace(parameters: Parameters): Record<string, Tensor> {
  for (const [name, tensor] of parameters) return { [name]: tensor };
  return {};
}

function parameter(parameters: Parameters, name: string): Tensor {
  return parameters.get(name) as Tensor;
}

/** The weights of one tensor's expansion, by the names that `expand` gives them; those of features are absent for v. */
export function expandWeights(parameters: Parameters, tensor: Projected): ExpandWeights {
  const weights: Partial<ExpandWeights> = {};
  for (const [name, layer] of layerEntries) {
    const weight = parameters.get(`sas_${tensor}.${layer}`);
    if (weight) weights[name] = weight;
  }
  return weights as ExpandWeights;
}

/** What belongs to an expansion's weights (gradients), by the names of the parameters. */
export function parameterNamed(tensor: Projected, gradWeights: ExpandWeights): [string, Tensor][] {
  const entries = Object.entries(gradWeights) as [keyof ExpandWeights, Tensor][];
  return entries.map(([weight, gradient]) => [`sas_${tensor}.${layers[weight]}`, gradient]);
}
