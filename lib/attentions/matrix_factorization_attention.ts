import * as check from '../checks.js';
import type { Gradients } from '../layers.js';
import type { ParameterSpec } from '../module.js';
import type { RopeOptions } from '../ops/rope.js';
import type { Tensor } from '../tensor.js';
import {
  type Attended,
  applyRope,
  applyRopeBackward,
  flat,
  linearSpec,
  resolvedCommon,
  resolvedRope,
  resolvedSizes,
  SelfAttention,
  type SelfAttentionConfig,
  split,
  sum,
  view,
} from './self_attention.js';

/** The sizes and settings of `MatrixFactorizationAttention`. */
export interface MatrixFactorizationConfig extends SelfAttentionConfig {
  /** D: features per query head, and of the one key and value. */
  headDim: number;
  /** Width of the vector that all query heads are made of. Default D. */
  queryRank?: number;
  /** Rotary positions of queries and keys; null for none. Default {}. */
  rope?: RopeOptions | null;
}

type Kept = Record<'x' | 'latent', Tensor> & Attended;

/**
 * Multi-matrix factorization attention (Hu et al., arXiv 2412.19255): many wide query heads, factored through a narrow vector,
 * over one key and one value per token.
 *
 *     q = rope(x Wdown^T Wup^T) [B, T, H, D]    k = rope(x Wk^T), v = x Wv^T [B, T, 1, D]    output = softmax(q k^T / sqrt(D)) v Wo^T
 *
 * Parameters: `query_down`, `query_up`, `key`, `value`, `output`, each `.weight`. Cached per token: 2 D.
 */
export class MatrixFactorizationAttention extends SelfAttention<Kept> {
  readonly config: Readonly<Required<MatrixFactorizationConfig>>;

  constructor(config: MatrixFactorizationConfig) {
    const known = resolved(check.call('MatrixFactorizationAttention', arguments.length, 1), config);
    super('MatrixFactorizationAttention', parametersOf(known), known);
    this.config = Object.freeze(known);
  }

  get cachedElements(): number {
    return 2 * this.config.headDim;
  }

  protected run(x: Tensor): { output: Tensor; activations: Kept } {
    const { heads, rope, causal } = this.config;
    const latent = this.layers.linear('query_down', x);
    const q = applyRope(split(this.layers.linear('query_up', latent), heads), rope);
    const k = applyRope(split(this.layers.linear('key', x), 1), rope);
    const v = split(this.layers.linear('value', x), 1);
    const { output, attended } = this.attended(q, k, v, { causal });
    return { output, activations: { x: view(x), latent, ...attended } };
  }

  protected differentiate(gradOutput: Tensor, saved: Kept, gradients: Gradients): Tensor {
    const { rope, causal } = this.config;
    const { x, latent } = saved;
    const { gradQ, gradK, gradV } = this.attendedBackward(gradOutput, saved, gradients, { causal });
    const gradLatent = this.layers.linearBackward('query_up', flat(applyRopeBackward(gradQ, rope)), latent, gradients);
    return sum(
      this.layers.linearBackward('query_down', gradLatent, x, gradients),
      this.layers.linearBackward('key', flat(applyRopeBackward(gradK, rope)), x, gradients),
      this.layers.linearBackward('value', flat(gradV), x, gradients),
    );
  }
}

/** The parameters of such a module, for whoever must know their sizes before they take memory. */
export const matrixFactorizationParameters = (config: MatrixFactorizationConfig): readonly ParameterSpec[] =>
  parametersOf(resolved('MatrixFactorizationAttention', config));

function parametersOf({ width, heads, headDim, queryRank }: Required<MatrixFactorizationConfig>): ParameterSpec[] {
  return [
    ...linearSpec('query_down', queryRank, width),
    ...linearSpec('query_up', heads * headDim, queryRank),
    ...linearSpec('key', headDim, width),
    ...linearSpec('value', headDim, width),
    ...linearSpec('output', width, heads * headDim),
  ];
}

function resolved(op: string, config: MatrixFactorizationConfig): Required<MatrixFactorizationConfig> {
  const common = resolvedCommon(op, config, ['headDim', 'queryRank', 'rope']);
  const { headDim, queryRank = headDim, rope = {} } = config;
  resolvedSizes(op, { headDim, queryRank });
  return { ...common, headDim, queryRank, rope: resolvedRope(op, rope, ['headDim', headDim]) };
}
