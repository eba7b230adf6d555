// The attention modules' configurations, and what follows from them: parameters, and which gradients are zero.
import type { RopeOptions64 } from './rope.js';

interface SelfAttentionConfig64 {
  width: number; // C
  heads: number; // H
  causal?: boolean; // default true
}

export interface MultiHeadConfig64 extends SelfAttentionConfig64 {
  kvHeads: number; // divides H
  headDim: number; // D
  rope: RopeOptions64 | null;
  bias: boolean;
}

export interface LatentConfig64 extends SelfAttentionConfig64 {
  headDim: number; // D, of values and of the part of queries and keys without positions
  ropeDim: number; // Dr
  kvRank: number;
  queryRank: number | null; // null: queries come from x
  rope: RopeOptions64;
}

export interface TensorProductConfig64 extends SelfAttentionConfig64 {
  headDim: number; // D
  queryRank: number;
  keyRank: number;
  valueRank: number;
  rope: RopeOptions64 | null;
}

export interface MatrixFactorizationConfig64 extends SelfAttentionConfig64 {
  headDim: number; // D
  queryRank: number;
  rope: RopeOptions64 | null;
}

export interface SimulatedConfig64 extends SelfAttentionConfig64 {
  headDim: number; // D = C / H
  simHeads: number; // H', H without head maps
  simHeadDim: number; // D', D without feature maps
  kernelSize: number; // k
  rope: Omit<RopeOptions64, 'interleaved'> | null; // always interleaved
  ropeAt: 'expanded' | 'projected';
  expansion: 'both' | 'heads' | 'features'; // which maps there are
  residual: boolean; // whether each map has its residual layer
  aggregation: boolean; // false: the output projection reads all simulated heads
}

export interface AttentionConfigs64 {
  multiHead: MultiHeadConfig64;
  latent: LatentConfig64;
  tensorProduct: TensorProductConfig64;
  matrixFactorization: MatrixFactorizationConfig64;
  simulated: SimulatedConfig64;
}

export type AttentionKind = keyof AttentionConfigs64;

type Shapes = [name: string, shape: number[]][];

function layer(name: string, shape: number[], bias: boolean): Shapes {
  const weight: Shapes = [[`${name}.weight`, shape]];
  return bias ? [...weight, [`${name}.bias`, shape.slice(0, 1)]] : weight;
}

function multiHeadShapes({ width, heads, kvHeads, headDim, bias }: MultiHeadConfig64): Shapes {
  return [
    ...layer('query', [heads * headDim, width], bias),
    ...layer('key', [kvHeads * headDim, width], bias),
    ...layer('value', [kvHeads * headDim, width], bias),
    ...layer('output', [width, heads * headDim], bias),
  ];
}

function latentShapes({ width, heads, headDim, ropeDim, kvRank, queryRank }: LatentConfig64): Shapes {
  const queryLatent: Shapes =
    queryRank === null
      ? []
      : [
          ['query_down.weight', [queryRank, width]],
          ['query_norm.weight', [queryRank]],
        ];
  return [
    ...queryLatent,
    ['query.weight', [heads * headDim, queryRank ?? width]],
    ['query_rope.weight', [heads * ropeDim, queryRank ?? width]],
    ['kv_down.weight', [kvRank, width]],
    ['kv_norm.weight', [kvRank]],
    ['key_up.weight', [heads * headDim, kvRank]],
    ['key_rope.weight', [ropeDim, width]],
    ['value_up.weight', [heads * headDim, kvRank]],
    ['output.weight', [width, heads * headDim]],
  ];
}

function tensorProductShapes(config: TensorProductConfig64): Shapes {
  const { width, heads, headDim, queryRank, keyRank, valueRank } = config;
  const factors = Object.entries({ query: queryRank, key: keyRank, value: valueRank }).flatMap(
    ([name, rank]): Shapes => [
      [`${name}_heads.weight`, [rank * heads, width]],
      [`${name}_features.weight`, [rank * headDim, width]],
    ],
  );
  return [...factors, ['output.weight', [width, heads * headDim]]];
}

function matrixFactorizationShapes({ width, heads, headDim, queryRank }: MatrixFactorizationConfig64): Shapes {
  return [
    ['query_down.weight', [queryRank, width]],
    ['query_up.weight', [heads * headDim, queryRank]],
    ['key.weight', [headDim, width]],
    ['value.weight', [headDim, width]],
    ['output.weight', [width, heads * headDim]],
  ];
}

function simulatedShapes(config: SimulatedConfig64): Shapes {
  const { width, heads, headDim, simHeads, simHeadDim, kernelSize, expansion, residual, aggregation } = config;
  const projections = ['query', 'key', 'value'].flatMap((name) => layer(name, [heads * headDim, width], true));
  const expansions = ['q', 'k', 'v'].flatMap((branch) => {
    const shapes: Shapes = [];
    if (expansion !== 'features') {
      shapes.push(...layer(`sas_${branch}.0`, [simHeads, heads, kernelSize], true));
      if (residual) shapes.push(...layer(`sas_${branch}.1.process`, [simHeads, simHeads, kernelSize], true));
    }
    if (expansion !== 'heads' && branch !== 'v') {
      shapes.push(...layer(`sas_${branch}.2`, [simHeadDim, headDim], true));
      if (residual) shapes.push(...layer(`sas_${branch}.3.process`, [simHeadDim, simHeadDim], true));
    }
    return shapes;
  });
  const merged = (aggregation ? heads : simHeads) * headDim;
  return [...projections, ...expansions, ...layer('output_dense', [width, merged], true)];
}

const shapesOf: { [Kind in AttentionKind]: (config: AttentionConfigs64[Kind]) => Shapes } = {
  multiHead: multiHeadShapes,
  latent: latentShapes,
  tensorProduct: tensorProductShapes,
  matrixFactorization: matrixFactorizationShapes,
  simulated: simulatedShapes,
};

/** Every parameter with its shape. */
export function attentionParameterShapes<Kind extends AttentionKind>(
  kind: Kind,
  config: AttentionConfigs64[Kind],
): Shapes {
  return shapesOf[kind](config);
}

/**
 * Parameters whose gradient is zero in exact arithmetic, since softmax ignores what is added to all keys alike, each with
 * the parameter whose gradient gives its scale: the bias before it on the way to the key, or the query's twin.
 */
export function vanishingParameters<Kind extends AttentionKind>(
  kind: Kind,
  config: AttentionConfigs64[Kind],
): Map<string, string> {
  if (kind === 'multiHead') {
    const { rope, bias } = config as MultiHeadConfig64;
    return new Map(bias && rope === null ? [['key.bias', 'query.bias']] : []);
  }
  if (kind !== 'simulated') return new Map();
  const { rope, ropeAt, residual } = config as SimulatedConfig64;
  if (rope !== null && ropeAt === 'expanded') return new Map();
  const biases = attentionParameterShapes(kind, config)
    .map(([name]) => name)
    .filter((name) => name === 'key.bias' || /^sas_k\..*bias$/.test(name));
  // A residual layer takes its input through a relu: only its own bias is added to all keys alike.
  if (residual) return new Map([[biases[biases.length - 1], biases[biases.length - 2]]]);
  const linear = rope === null ? biases : biases.slice(1);
  return new Map(linear.map((name) => [name, name.replace(/^key/, 'query').replace('sas_k', 'sas_q')]));
}
