/** The unfused twins of `attention` and `expand`: every step materialised, each rounded to the storage dtype. Same arguments. */
import type { Tensor } from '../tensor.js';
import {
  type AttentionOptions,
  type AttentionResult,
  type AttentionSaved,
  runAttention,
  runAttentionBackward,
} from './attention.js';
import { type ExpandWeights, runExpand, runExpandBackward } from './expand.js';

/** As `ops.attention`, through the whole [B, Hq, Tq, Tk] matrix of scores. */
export function attention(q: Tensor, k: Tensor, v: Tensor, options?: AttentionOptions): AttentionResult {
  return runAttention('naive.attention', true, q, k, v, options);
}

/** As `ops.attentionBackward`. */
export function attentionBackward(
  gradOutput: Tensor,
  saved: AttentionSaved,
  options?: AttentionOptions,
): { gradQ: Tensor; gradK: Tensor; gradV: Tensor } {
  return runAttentionBackward('naive.attentionBackward', true, gradOutput, saved, options);
}

/** As `ops.expand`. */
export function expand(x: Tensor, weights: ExpandWeights): Tensor {
  return runExpand('naive.expand', true, x, weights);
}

/** As `ops.expandBackward`. */
export function expandBackward(
  gradOutput: Tensor,
  x: Tensor,
  weights: ExpandWeights,
): { gradX: Tensor; gradWeights: ExpandWeights } {
  return runExpandBackward('naive.expandBackward', true, gradOutput, x, weights);
}
