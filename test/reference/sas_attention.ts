import { aggregate, aggregateBackward } from './aggregate.js';
import { type Array64, reshape64 } from './array64.js';
import { attention, attentionBackward } from './attention.js';
import { type ExpandWeights64, expand, expandBackward } from './expand.js';
import { linear, linearBackward } from './linear.js';

export interface SasShape {
  heads: number; // H
  headDim: number; // D
  simHeads: number; // H'
  simHeadDim: number; // D'
  kernelSize: number; // k
  causal?: boolean; // default true
  scale?: number; // default 1/sqrt(D')
}

export type Parameters64 = Map<string, Array64>;
export type SasBranch = 'q' | 'k' | 'v';

const headNames: [keyof ExpandWeights64, string][] = [
  ['headWeight', '0.weight'],
  ['headBias', '0.bias'],
  ['headResidualWeight', '1.process.weight'],
  ['headResidualBias', '1.process.bias'],
];
const featureNames: [keyof ExpandWeights64, string][] = [
  ['featureWeight', '2.weight'],
  ['featureBias', '2.bias'],
  ['featureResidualWeight', '3.process.weight'],
  ['featureResidualBias', '3.process.bias'],
];

/** [field of ExpandWeights, parameter name] of one branch. */
export function branchNames(branch: SasBranch): [keyof ExpandWeights64, string][] {
  const names = branch === 'v' ? headNames : [...headNames, ...featureNames];
  return names.map(([field, suffix]) => [field, `sas_${branch}.${suffix}`]);
}

/** Every parameter with its shape, in the order of the specification's table. */
export function parameterShapes(shape: SasShape): [string, number[]][] {
  const { heads, headDim, simHeads, simHeadDim, kernelSize } = shape;
  const shapes: Record<keyof ExpandWeights64, number[]> = {
    headWeight: [simHeads, heads, kernelSize],
    headBias: [simHeads],
    headResidualWeight: [simHeads, simHeads, kernelSize],
    headResidualBias: [simHeads],
    featureWeight: [simHeadDim, headDim],
    featureBias: [simHeadDim],
    featureResidualWeight: [simHeadDim, simHeadDim],
    featureResidualBias: [simHeadDim],
  };
  const list: [string, number[]][] = [];
  for (const branch of ['q', 'k', 'v'] as const) {
    for (const [field, name] of branchNames(branch)) list.push([name, shapes[field]]);
  }
  list.push(['output_dense.weight', [heads * headDim, heads * headDim]], ['output_dense.bias', [heads * headDim]]);
  return list;
}

export function parameter64(parameters: Parameters64, name: string): Array64 {
  const value = parameters.get(name);
  if (value === undefined) throw new Error(`no parameter ${name}`);
  return value;
}

export function branchWeights(parameters: Parameters64, branch: SasBranch): ExpandWeights64 {
  const pick = (suffix: string) => parameter64(parameters, `sas_${branch}.${suffix}`);
  const head: ExpandWeights64 = {
    headWeight: pick('0.weight'),
    headBias: pick('0.bias'),
    headResidualWeight: pick('1.process.weight'),
    headResidualBias: pick('1.process.bias'),
  };
  if (branch === 'v') return head;
  return {
    ...head,
    featureWeight: pick('2.weight'),
    featureBias: pick('2.bias'),
    featureResidualWeight: pick('3.process.weight'),
    featureResidualBias: pick('3.process.bias'),
  };
}

/** q, k, v [B,T,H,D] -> output [B,T,H*D] */
export function sasAttention(q: Array64, k: Array64, v: Array64, parameters: Parameters64, shape: SasShape): Array64 {
  const simQ = expand(q, branchWeights(parameters, 'q'));
  const simK = expand(k, branchWeights(parameters, 'k'));
  const simV = expand(v, branchWeights(parameters, 'v'));
  const mean = aggregate(attention(simQ, simK, simV, shape).output, shape.heads);
  return linear(mean, parameter64(parameters, 'output_dense.weight'), parameter64(parameters, 'output_dense.bias'));
}

export interface SasGradients64 {
  gradQ: Array64;
  gradK: Array64;
  gradV: Array64;
  gradParameters: Parameters64;
}

/** `omitMean` as in attentionBackward: scales for gradients that are exactly zero, not gradients. */
export function sasAttentionBackward(
  gradOutput: Array64,
  q: Array64,
  k: Array64,
  v: Array64,
  parameters: Parameters64,
  shape: SasShape,
  options: { omitMean?: boolean } = {},
): SasGradients64 {
  const weights = {
    q: branchWeights(parameters, 'q'),
    k: branchWeights(parameters, 'k'),
    v: branchWeights(parameters, 'v'),
  };
  const simQ = expand(q, weights.q);
  const simK = expand(k, weights.k);
  const simV = expand(v, weights.v);
  const { output } = attention(simQ, simK, simV, shape);
  const mean = aggregate(output, shape.heads);

  const dense = linearBackward(gradOutput, mean, parameter64(parameters, 'output_dense.weight'));
  const gradMean = reshape64(dense.gradX, mean.shape);
  const gradAttention = aggregateBackward(gradMean, shape.heads, shape.simHeads);
  const inner = attentionBackward(gradAttention, simQ, simK, simV, { ...shape, ...options });
  const branches = {
    q: expandBackward(inner.gradQ, q, weights.q),
    k: expandBackward(inner.gradK, k, weights.k),
    v: expandBackward(inner.gradV, v, weights.v),
  };

  const gradParameters: Parameters64 = new Map();
  for (const branch of ['q', 'k', 'v'] as const) {
    for (const [field, name] of branchNames(branch)) {
      const gradient = branches[branch].gradWeights[field];
      if (gradient === undefined) throw new Error(`no gradient of ${name}`);
      gradParameters.set(name, gradient);
    }
  }
  gradParameters.set('output_dense.weight', dense.gradWeight);
  gradParameters.set('output_dense.bias', dense.gradBias);
  return { gradQ: branches.q.gradX, gradK: branches.k.gradX, gradV: branches.v.gradX, gradParameters };
}
