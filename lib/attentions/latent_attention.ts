import * as check from '../checks.js';
import type { Gradients } from '../layers.js';
import type { ParameterSpec } from '../module.js';
import { concat, concatBackward } from '../ops/concat.js';
import { type RopeOptions, rope, ropeBackward } from '../ops/rope.js';
import type { Tensor } from '../tensor.js';
import {
  type Attended,
  flat,
  linearSpec,
  normSpec,
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

/** The sizes and settings of `MultiHeadLatentAttention`. */
export interface LatentConfig extends SelfAttentionConfig {
  /** Width of the latent vector that keys and values are made of. */
  kvRank: number;
  /** Dr: rotary features per query head, and of the one rotary key. Even. */
  ropeDim: number;
  /** Width of the latent vector that queries are made of; null: queries are made of x. Default null. */
  queryRank?: number | null;
  /** D: features per head of value and of the query's and key's part without positions. Default C/H. */
  headDim?: number;
  /** Default {}. */
  rope?: RopeOptions;
}

/** A normalised latent vector. */
type Latent<Name extends string> = Record<`${Name}Down` | `${Name}Rstd` | Name, Tensor>;
type Kept = Record<'x', Tensor> & Latent<'kv'> & Partial<Latent<'query'>> & Attended;

/**
 * Multi-head latent attention (DeepSeek-V2, arXiv 2405.04434, section 2.1): keys and values are made of one narrow vector per
 * token, positions enter by rotary features beside them.
 *
 *     c = norm(x Wdown^T) [B, T, kvRank]                   the same for queries where queryRank is given, else c' = x
 *     q = [c' Wq^T | rope(c' Wqr^T)] [B, T, H, D + Dr]     k = [c Wk^T | rope(x Wkr^T), shared by all heads]    v = c Wv^T
 *     output = softmax(q k^T / sqrt(D + Dr)) v Wo^T
 *
 * Parameters: `kv_down`, `kv_norm`, `key_up`, `value_up`, `key_rope`, with queryRank `query_down` and `query_norm`, `query`,
 * `query_rope`, `output`, each `.weight`. Cached per token: kvRank + Dr.
 */
export class MultiHeadLatentAttention extends SelfAttention<Kept> {
  readonly config: Readonly<Required<LatentConfig>>;

  constructor(config: LatentConfig) {
    const known = resolved(check.call('MultiHeadLatentAttention', arguments.length, 1), config);
    super('MultiHeadLatentAttention', parametersOf(known), known);
    this.config = Object.freeze(known);
  }

  get cachedElements(): number {
    return this.config.kvRank + this.config.ropeDim;
  }

  protected run(x: Tensor): { output: Tensor; activations: Kept } {
    const { heads, rope: angles, causal, queryRank } = this.config;
    const latent = <Name extends string>(name: Name) => {
      const down = this.layers.linear(`${name}_down`, x);
      const { output, rstd } = this.layers.rmsNorm(`${name}_norm`, down);
      return { [`${name}Down`]: down, [`${name}Rstd`]: rstd, [name]: output } as Latent<Name>;
    };
    const kv = latent('kv');
    const query = queryRank === null ? null : latent('query');
    const from = query?.query ?? x;
    const q = concat(
      split(this.layers.linear('query', from), heads),
      rope(split(this.layers.linear('query_rope', from), heads), angles),
    );
    const k = concat(
      split(this.layers.linear('key_up', kv.kv), heads),
      rope(split(this.layers.linear('key_rope', x), 1), angles),
    );
    const v = split(this.layers.linear('value_up', kv.kv), heads);
    const { output, attended } = this.attended(q, k, v, { causal });
    return { output, activations: { x: view(x), ...kv, ...query, ...attended } };
  }

  protected differentiate(gradOutput: Tensor, saved: Kept, gradients: Gradients): Tensor {
    const { headDim, rope: angles, causal } = this.config;
    const { x, kv, kvDown, kvRstd, query, queryDown, queryRstd } = saved;
    const { gradQ, gradK, gradV } = this.attendedBackward(gradOutput, saved, gradients, { causal });
    const q = concatBackward(gradQ, { widthA: headDim });
    const k = concatBackward(gradK, { widthA: headDim, headsB: 1 });

    const gradKv = sum(
      this.layers.linearBackward('key_up', flat(k.gradA), kv, gradients),
      this.layers.linearBackward('value_up', flat(gradV), kv, gradients),
    );
    const gradKvDown = this.layers.rmsNormBackward('kv_norm', gradKv, { x: kvDown, rstd: kvRstd }, gradients);
    const gradX = sum(
      this.layers.linearBackward('kv_down', gradKvDown, x, gradients),
      this.layers.linearBackward('key_rope', flat(ropeBackward(k.gradB, angles)), x, gradients),
    );

    const from = query ?? x;
    const gradFrom = sum(
      this.layers.linearBackward('query', flat(q.gradA), from, gradients),
      this.layers.linearBackward('query_rope', flat(ropeBackward(q.gradB, angles)), from, gradients),
    );
    if (!queryDown || !queryRstd) return sum(gradX, gradFrom);
    const gradQueryDown = this.layers.rmsNormBackward(
      'query_norm',
      gradFrom,
      { x: queryDown, rstd: queryRstd },
      gradients,
    );
    return sum(gradX, this.layers.linearBackward('query_down', gradQueryDown, x, gradients));
  }
}

/** The parameters of such a module, for whoever must know their sizes before they take memory. */
export const latentParameters = (config: LatentConfig): readonly ParameterSpec[] =>
  parametersOf(resolved('MultiHeadLatentAttention', config));

function parametersOf({ width, heads, headDim, ropeDim, kvRank, queryRank }: Required<LatentConfig>): ParameterSpec[] {
  const queryInputs = queryRank ?? width;
  return [
    ...linearSpec('kv_down', kvRank, width),
    ...normSpec('kv_norm', kvRank),
    ...linearSpec('key_up', heads * headDim, kvRank),
    ...linearSpec('value_up', heads * headDim, kvRank),
    ...linearSpec('key_rope', ropeDim, width),
    ...(queryRank === null
      ? []
      : [...linearSpec('query_down', queryRank, width), ...normSpec('query_norm', queryRank)]),
    ...linearSpec('query', heads * headDim, queryInputs),
    ...linearSpec('query_rope', heads * ropeDim, queryInputs),
    ...linearSpec('output', width, heads * headDim),
  ];
}

function resolved(op: string, config: LatentConfig): Required<LatentConfig> {
  const common = resolvedCommon(op, config, ['kvRank', 'ropeDim', 'queryRank', 'headDim', 'rope']);
  const { kvRank, ropeDim, queryRank = null, rope = {} } = config;
  resolvedSizes(op, { kvRank, ropeDim, ...(queryRank === null ? {} : { queryRank }) });
  const headDim = resolvedHeadDim(op, config.headDim, common.width, common.heads);
  const angles = resolvedRope(op, rope, ['ropeDim', ropeDim]) as RopeOptions;
  return { ...common, kvRank, ropeDim, queryRank, headDim, rope: angles };
}
