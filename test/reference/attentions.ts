// The attention modules, x [B, T, C] -> [B, T, C]: the truth, or with another arithmetic the pipeline that rounds.
import type { Array64 } from './array64.js';
import {
  type AttentionConfigs64,
  type AttentionKind,
  attentionParameterShapes,
  type LatentConfig64,
  type MatrixFactorizationConfig64,
  type MultiHeadConfig64,
  type SimulatedConfig64,
  type TensorProductConfig64,
} from './attention_configs.js';
import { type Arithmetic64, chain, exactArithmetic, identity, type Step64, Steps64 } from './attention_steps.js';
import type { RopeOptions64 } from './rope.js';
import { type Parameters64, parameter64, type SasBranch } from './sas_attention.js';

/** softmax(q k^T / sqrt(D)) v and the output projection; q, k and v are steps from the same x. */
function attend(steps: Steps64, q: Step64, k: Step64, v: Step64, projection: string): Step64 {
  const attended = steps.attention(q.output, k.output, v.output);
  const projected = steps.mergeHeads(projection, attended.output);
  return {
    output: projected.output,
    backward: (gradOutput) => {
      const { gradQ, gradK, gradV } = attended.backward(projected.backward(gradOutput));
      return steps.sum(q.backward(gradQ), k.backward(gradK), v.backward(gradV));
    },
  };
}

/** MHA, and with fewer key/value heads MQA and GQA: each serves heads / kvHeads consecutive query heads. */
function multiHead({ heads, kvHeads, rope }: MultiHeadConfig64, steps: Steps64, x: Array64): Step64 {
  const rotate = (projected: Array64) => steps.rope(projected, rope);
  const q = chain(steps.heads('query', x, heads), rotate);
  const k = chain(steps.heads('key', x, kvHeads), rotate);
  const v = steps.heads('value', x, kvHeads);
  return attend(steps, q, k, v, 'output');
}

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values come from one latent of rank
 * kvRank, queries from x or from a latent of their own; positions are in ropeDim more features, of keys in one head for all.
 */
function latent({ heads, queryRank, rope }: LatentConfig64, steps: Steps64, x: Array64): Step64 {
  const latentOf = (name: string) =>
    chain(steps.linear(`${name}_down`, x), (down) => steps.rmsNorm(`${name}_norm`, down));
  const rotate = (projected: Array64) => steps.rope(projected, rope);

  const queryLatent = queryRank === null ? identity(x) : latentOf('query');
  const queryNope = steps.heads('query', queryLatent.output, heads);
  const queryRope = chain(steps.heads('query_rope', queryLatent.output, heads), rotate);
  const q = steps.concat(queryNope.output, queryRope.output);

  const kvLatent = latentOf('kv');
  const keyNope = steps.heads('key_up', kvLatent.output, heads);
  const keyRope = chain(steps.heads('key_rope', x, 1), rotate);
  const k = steps.concat(keyNope.output, keyRope.output);
  const v = steps.heads('value_up', kvLatent.output, heads);

  const attended = steps.attention(q.output, k.output, v.output); // scale 1/sqrt(headDim + ropeDim)
  const projected = steps.mergeHeads('output', attended.output);
  return {
    output: projected.output,
    backward: (gradOutput) => {
      const { gradQ, gradK, gradV } = attended.backward(projected.backward(gradOutput));
      const [gradQueryNope, gradQueryRope] = q.backward(gradQ);
      const [gradKeyNope, gradKeyRope] = k.backward(gradK);
      const gradQueryLatent = steps.sum(queryNope.backward(gradQueryNope), queryRope.backward(gradQueryRope));
      const gradKvLatent = steps.sum(keyNope.backward(gradKeyNope), v.backward(gradV));
      return steps.sum(
        queryLatent.backward(gradQueryLatent),
        kvLatent.backward(gradKvLatent),
        keyRope.backward(gradKeyRope),
      );
    },
  };
}

/**
 * Tensor product attention (arXiv 2501.06425): Q, K and V are means over r of head factors times feature factors, both
 * linear in x. The rotation is linear in the features, so it acts on the feature factors of Q and K.
 */
function tensorProduct(config: TensorProductConfig64, steps: Steps64, x: Array64): Step64 {
  const product = (name: string, rank: number, rope: RopeOptions64 | null): Step64 => {
    const headFactors = steps.heads(`${name}_heads`, x, rank); // [B, T, R, H]
    const featureFactors = chain(steps.heads(`${name}_features`, x, rank), (factors) => steps.rope(factors, rope));
    const { output, backward } = steps.tensorProduct(headFactors.output, featureFactors.output);
    return {
      output,
      backward: (gradOutput) => {
        const [gradHeadFactors, gradFeatureFactors] = backward(gradOutput);
        return steps.sum(headFactors.backward(gradHeadFactors), featureFactors.backward(gradFeatureFactors));
      },
    };
  };
  const q = product('query', config.queryRank, config.rope);
  const k = product('key', config.keyRank, config.rope);
  const v = product('value', config.valueRank, null);
  return attend(steps, q, k, v, 'output');
}

/** Multi-matrix factorisation attention (arXiv 2412.19255): queries through a low rank, one key/value head for all. */
function matrixFactorization({ heads, rope }: MatrixFactorizationConfig64, steps: Steps64, x: Array64): Step64 {
  const rotate = (projected: Array64) => steps.rope(projected, rope);
  const q = chain(steps.linear('query_down', x), (down) => steps.heads('query_up', down, heads), rotate);
  const k = chain(steps.heads('key', x, 1), rotate);
  const v = steps.heads('value', x, 1);
  return attend(steps, q, k, v, 'output');
}

/** The maps of one tensor that the configuration asks for: x [B, T, H, D] -> [B, T, H', D'], or D for values. */
function expand({ expansion, residual }: SimulatedConfig64, steps: Steps64, branch: SasBranch): (x: Array64) => Step64 {
  const layers: ((x: Array64) => Step64)[] = [];
  const add = (layer: 'headConvolution' | 'linear', first: string, second: string) => {
    layers.push((x) => steps[layer](`sas_${branch}.${first}`, x));
    if (!residual) return;
    layers.push((x) => steps.residual(x, (reluX) => steps[layer](`sas_${branch}.${second}`, reluX)));
  };
  if (expansion !== 'features') add('headConvolution', '0', '1.process');
  if (expansion !== 'heads' && branch !== 'v') add('linear', '2', '3.process');
  return (x) => chain(identity(x), ...layers);
}

/** SAS attention with its projections; the options leave parts of it out. */
function simulated(config: SimulatedConfig64, steps: Steps64, x: Array64): Step64 {
  const { heads, ropeAt, aggregation } = config;
  const rope = config.rope && { ...config.rope, interleaved: true };
  const expanded = (name: string, branch: SasBranch): Step64 =>
    chain(
      steps.heads(name, x, heads),
      (projected) => steps.rope(projected, ropeAt === 'projected' ? rope : null),
      (rotated) =>
        steps.fused((inside) =>
          chain(expand(config, inside, branch)(rotated), (wide) =>
            inside.rope(wide, ropeAt === 'expanded' ? rope : null),
          ),
        ),
    );
  const q = expanded('query', 'q');
  const k = expanded('key', 'k');
  const v = chain(steps.heads('value', x, heads), (projected) =>
    steps.fused((inside) => expand(config, inside, 'v')(projected)),
  );

  const attended = steps.attention(q.output, k.output, v.output);
  const merged = aggregation ? steps.aggregate(attended.output, heads) : identity(attended.output);
  const projected = steps.mergeHeads('output_dense', merged.output);
  return {
    output: projected.output,
    backward: (gradOutput) => {
      const { gradQ, gradK, gradV } = attended.backward(merged.backward(projected.backward(gradOutput)));
      return steps.sum(q.backward(gradQ), k.backward(gradK), v.backward(gradV));
    },
  };
}

const attentions: {
  [Kind in AttentionKind]: (config: AttentionConfigs64[Kind], steps: Steps64, x: Array64) => Step64;
} = { multiHead, latent, tensorProduct, matrixFactorization, simulated };

export interface AttentionModule64 {
  output: Array64;
  /** gradParameters in the order of attentionParameterShapes. */
  backward(gradOutput: Array64): { gradX: Array64; gradParameters: Parameters64 };
}

/** x [B, T, C] -> output [B, T, C] */
export function attention64<Kind extends AttentionKind>(
  kind: Kind,
  config: AttentionConfigs64[Kind],
  parameters: Parameters64,
  x: Array64,
  arithmetic: Arithmetic64 = exactArithmetic(),
): AttentionModule64 {
  const steps = new Steps64(parameters, arithmetic, { causal: config.causal });
  const { output, backward } = attentions[kind](config, steps, x);
  return {
    output,
    backward: (gradOutput) => {
      const gradX = backward(gradOutput);
      const names = attentionParameterShapes(kind, config).map(([name]) => name);
      const gradParameters = new Map(names.map((name) => [name, parameter64(steps.gradParameters, name)]));
      return { gradX, gradParameters };
    },
  };
}
