/** The unfused twins of `attention` and `expand`: every step materialised, each rounded to the storage dtype. Same arguments. */
import * as check from '../checks.js';
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
  return runAttention(check.call('naive.attention', arguments.length, 4), true, q, k, v, options);
}

/** As `ops.attentionBackward`. */
export function attentionBackward(
  gradOutput: Tensor,
  saved: AttentionSaved,
  options?: AttentionOptions,
): { gradQ: Tensor; gradK: Tensor; gradV: Tensor } {
  return runAttentionBackward(
    check.call('naive.attentionBackward', arguments.length, 3),
    true,
    gradOutput,
    saved,
    options,
  );
}

/** As `ops.expand`. */
export function expand(x: Tensor, weights: ExpandWeights): Tensor {
  return runExpand(check.call('naive.expand', arguments.length, 2), true, x, weights).output;
}

/** As `ops.expandBackward`. */
export function expandBackward(
  gradOutput: Tensor,
  x: Tensor,
  weights: ExpandWeights,
): { gradX: Tensor; gradWeights: ExpandWeights } {
  return runExpandBackward(check.call('naive.expandBackward', arguments.length, 3), true, gradOutput, x, weights);
}
