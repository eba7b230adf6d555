import * as check from '../checks.js';
import type { Gradients } from '../layers.js';
import type { ParameterSpec } from '../module.js';
import type { RopeOptions } from '../ops/rope.js';
import { tensorProduct, tensorProductBackward } from '../ops/tensor_product.js';
import type { Tensor } from '../tensor.js';
import {
  type Attended,
  applyRope,
  applyRopeBackward,
  flat,
  linearSpec,
  resolvedCommon,
  resolvedHeadDim,
  resolvedRope,
  resolvedSizes,
  SelfAttention,
  type SelfAttentionConfig,
  split,
  sum,
  view,
} from './self_attention.js';

/** The sizes and settings of `TensorProductAttention`. */
export interface TensorProductConfig extends SelfAttentionConfig {
  /** D: features per head. Default C/H. */
  headDim?: number;
  /** Products that a token's queries are the mean of. Default 6. */
  queryRank?: number;
  /** The same of keys. Default 2. */
  keyRank?: number;
  /** The same of values. Default 2. */
  valueRank?: number;
  /** Rotary positions of the feature factors of queries and keys; null for none. Default {}. */
  rope?: RopeOptions | null;
}

type Part = 'query' | 'key' | 'value';
const parts = ['query', 'key', 'value'] as const;
type Kept = Record<'x' | `${Part}Heads` | `${Part}Features`, Tensor> & Attended;

/**
 * Tensor product attention (Zhang et al., arXiv 2501.06425): each token's queries, keys and values are sums of few outer
 * products, whose factors are made of the token. Turning the factors' features turns their products alike.
 *
 *     A = x Wa^T [B, T, R, H]    B = rope(x Wb^T) [B, T, R, D]    q = 1/R sum over r of A[r] (outer) B[r]; k alike; v without rope
 *     output = softmax(q k^T / sqrt(D)) v Wo^T
 *
 * Parameters: `query_heads` (Wa), `query_features` (Wb), the same of key and value, and `output`, each `.weight`. Cached per
 * token: the factors of key and value, (Rk + Rv) (H + D).
 */
export class TensorProductAttention extends SelfAttention<Kept> {
  readonly config: Readonly<Required<TensorProductConfig>>;

  constructor(config: TensorProductConfig) {
    const known = resolved(check.call('TensorProductAttention', arguments.length, 1), config);
    super('TensorProductAttention', parametersOf(known), known);
    this.config = Object.freeze(known);
  }

  get cachedElements(): number {
    const { heads, headDim, keyRank, valueRank } = this.config;
    return (keyRank + valueRank) * (heads + headDim);
  }

  protected run(x: Tensor): { output: Tensor; activations: Kept } {
    const { rope, causal } = this.config;
    const factors = (part: Part): [heads: Tensor, features: Tensor] => {
      const rank = this.config[`${part}Rank`];
      const features = split(this.layers.linear(`${part}_features`, x), rank);
      return [split(this.layers.linear(`${part}_heads`, x), rank), applyRope(features, part === 'value' ? null : rope)];
    };
    const [queryHeads, queryFeatures] = factors('query');
    const [keyHeads, keyFeatures] = factors('key');
    const [valueHeads, valueFeatures] = factors('value');
    const q = tensorProduct(queryHeads, queryFeatures);
    const k = tensorProduct(keyHeads, keyFeatures);
    const v = tensorProduct(valueHeads, valueFeatures);
    const { output, attended } = this.attended(q, k, v, { causal });
    const kept = { queryHeads, queryFeatures, keyHeads, keyFeatures, valueHeads, valueFeatures };
    return { output, activations: { x: view(x), ...kept, ...attended } };
  }

  protected differentiate(gradOutput: Tensor, saved: Kept, gradients: Gradients): Tensor {
    const { rope, causal } = this.config;
    const { gradQ, gradK, gradV } = this.attendedBackward(gradOutput, saved, gradients, { causal });
    const back = (part: Part, grad: Tensor): Tensor => {
      const factors = tensorProductBackward(grad, saved[`${part}Heads`], saved[`${part}Features`]);
      const { gradHeadFactors, gradFeatureFactors } = factors;
      const gradFeatures = applyRopeBackward(gradFeatureFactors, part === 'value' ? null : rope);
      return sum(
        this.layers.linearBackward(`${part}_heads`, flat(gradHeadFactors), saved.x, gradients),
        this.layers.linearBackward(`${part}_features`, flat(gradFeatures), saved.x, gradients),
      );
    };
    return sum(back('query', gradQ), back('key', gradK), back('value', gradV));
  }
}

/** The parameters of such a module, for whoever must know their sizes before they take memory. */
export const tensorProductParameters = (config: TensorProductConfig): readonly ParameterSpec[] =>
  parametersOf(resolved('TensorProductAttention', config));

function parametersOf(known: Required<TensorProductConfig>): ParameterSpec[] {
  const { width, heads, headDim } = known;
  const factors = parts.flatMap((part) => [
    ...linearSpec(`${part}_heads`, known[`${part}Rank`] * heads, width),
    ...linearSpec(`${part}_features`, known[`${part}Rank`] * headDim, width),
  ]);
  return [...factors, ...linearSpec('output', width, heads * headDim)];
}

function resolved(op: string, config: TensorProductConfig): Required<TensorProductConfig> {
  const common = resolvedCommon(op, config, ['headDim', 'queryRank', 'keyRank', 'valueRank', 'rope']);
  const { queryRank = 6, keyRank = 2, valueRank = 2, rope = {} } = config;
  const headDim = resolvedHeadDim(op, config.headDim, common.width, common.heads);
  const ranks = resolvedSizes(op, { queryRank, keyRank, valueRank });
  return { ...common, headDim, ...ranks, rope: resolvedRope(op, rope, ['headDim', headDim]) };
}
