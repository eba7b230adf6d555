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
  resolvedHeadDim,
  resolvedRope,
  resolvedSizes,
  SelfAttention,
  type SelfAttentionConfig,
  split,
  sum,
  view,
} from './self_attention.js';

/** The sizes and settings of `MultiHeadAttention`. */
export interface MultiHeadConfig extends SelfAttentionConfig {
  /** Hkv: heads of keys and values, a divisor of `heads`: all (MHA, the default), some (GQA) or 1 (MQA). */
  kvHeads?: number;
  /** D: features per head. Default C/H. */
  headDim?: number;
  /** Rotary positions of queries and keys; null for none. Default null. */
  rope?: RopeOptions | null;
  /** Whether the projections have biases. Default true. */
  bias?: boolean;
}

type Kept = Record<'x', Tensor> & Attended;

/**
 * Multi-head attention, also with shared keys and values: MQA (Shazeer, arXiv 1911.02150), GQA (Ainslie et al., arXiv 2305.13245).
 *
 *     q = rope(x Wq^T + bq) [B, T, H, D]    k = rope(x Wk^T + bk), v = x Wv^T + bv [B, T, Hkv, D]
 *     output = softmax(q k^T / sqrt(D)) v Wo^T + bo
 *
 * Parameters: `query`, `key`, `value`, `output`, each `.weight` and `.bias`: C (2 H + 2 Hkv) D weights. Cached per token: 2 Hkv D.
 */
export class MultiHeadAttention extends SelfAttention<Kept> {
  readonly config: Readonly<Required<MultiHeadConfig>>;

  constructor(config: MultiHeadConfig) {
    const known = resolved(check.call('MultiHeadAttention', arguments.length, 1), config);
    super('MultiHeadAttention', parametersOf(known), known);
    this.config = Object.freeze(known);
  }

  get cachedElements(): number {
    return 2 * this.config.kvHeads * this.config.headDim;
  }

  protected run(x: Tensor): { output: Tensor; activations: Kept } {
    const { heads, kvHeads, rope, causal } = this.config;
    const q = applyRope(split(this.layers.linear('query', x), heads), rope);
    const k = applyRope(split(this.layers.linear('key', x), kvHeads), rope);
    const v = split(this.layers.linear('value', x), kvHeads);
    const { output, attended } = this.attended(q, k, v, { causal });
    return { output, activations: { x: view(x), ...attended } };
  }

  protected differentiate(gradOutput: Tensor, saved: Kept, gradients: Gradients): Tensor {
    const { rope, causal } = this.config;
    const { gradQ, gradK, gradV } = this.attendedBackward(gradOutput, saved, gradients, { causal });
    return sum(
      this.layers.linearBackward('query', flat(applyRopeBackward(gradQ, rope)), saved.x, gradients),
      this.layers.linearBackward('key', flat(applyRopeBackward(gradK, rope)), saved.x, gradients),
      this.layers.linearBackward('value', flat(gradV), saved.x, gradients),
    );
  }
}

/** The parameters of such a module, for whoever must know their sizes before they take memory. */
export const multiHeadParameters = (config: MultiHeadConfig): readonly ParameterSpec[] =>
  parametersOf(resolved('MultiHeadAttention', config));

function parametersOf({ width, heads, kvHeads, headDim, bias }: Required<MultiHeadConfig>): ParameterSpec[] {
  return [
    ...linearSpec('query', heads * headDim, width, { bias }),
    ...linearSpec('key', kvHeads * headDim, width, { bias }),
    ...linearSpec('value', kvHeads * headDim, width, { bias }),
    ...linearSpec('output', width, heads * headDim, { bias }),
  ];
}

function resolved(op: string, config: MultiHeadConfig): Required<MultiHeadConfig> {
  const common = resolvedCommon(op, config, ['kvHeads', 'headDim', 'rope', 'bias']);
  const { width, heads } = common;
  const { kvHeads = heads, rope = null, bias = true } = config;
  resolvedSizes(op, { kvHeads });
  check.multiple(op, 'heads', heads, kvHeads, `kvHeads is ${kvHeads}`);
  const headDim = resolvedHeadDim(op, config.headDim, width, heads);
  check.boolean(op, 'bias', bias);
  return { ...common, kvHeads, headDim, rope: resolvedRope(op, rope, ['headDim', headDim]), bias };
}
