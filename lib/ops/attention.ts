/** Softmax attention over simulated heads (arXiv 2507.07694), also with fewer key/value heads (MQA, GQA). */
import { binding } from '../binding.js';
import * as check from '../checks.js';
import { type DType, floats } from '../dtype.js';
import { DTypeError } from '../errors.js';
import { operands, produce, type Tensor } from '../tensor.js';

/** Settings of `attention`. */
export interface AttentionOptions {
  /** Query i sees the keys j <= i + Tk - Tq (aligned to the bottom right). Default true. */
  causal?: boolean;
  /** The factor of the scores before the softmax. Default 1/sqrt(Dqk). */
  scale?: number;
}

/** Settings of `attentionBackward`: those of the forward, and the dtype of the gradients. */
export interface AttentionBackwardOptions extends AttentionOptions {
  /**
   * The dtype of the gradients: that of q, or 'f32' to keep what 16-bit storage would round away before the next op (whose
   * sum over keys, for one, is 0 up to rounding). Default: that of q.
   */
  gradDtype?: DType;
}

/** Settings of `attentionMean`. */
export interface AttentionMeanOptions extends AttentionOptions {
  /** H, the number of heads after the mean; the number of heads of q is a multiple of it. */
  heads: number;
}

/** What `attention` returns. */
export interface AttentionResult {
  /** [B, Tq, Hq, Dv], the dtype of q. */
  output: Tensor;
  /** [B, Hq, Tq] f32, natural logarithm; -Infinity for a query that sees no key, or none but with scores of -Infinity. */
  logSumExp: Tensor;
}

/** What `attentionBackward` needs of the forward: its arguments and results. */
export interface AttentionSaved extends AttentionResult {
  /** [B, Tq, Hq, Dqk] */
  q: Tensor;
  /** [B, Tk, Hkv, Dqk] */
  k: Tensor;
  /** [B, Tk, Hkv, Dv] */
  v: Tensor;
}

/** The settings of all of them, and the shapes of what the forward returns. */
function checked(
  op: string,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: AttentionBackwardOptions & Partial<AttentionMeanOptions>,
  extra: readonly ('gradDtype' | 'heads')[] = [],
) {
  const [B, Tq, Hq, D] = check.shape(op, 'q', q, ['B', 'Tq', 'Hq', 'Dqk']);
  // Any Tk is right: naming the one that came lets the size that is wrong stand out.
  const [, Tk, Hkv] = check.shape(op, 'k', k, [B, k.shape.at(-3) ?? 'Tk', 'Hkv', D], `q has width ${D}`);
  const [, , , Dv] = check.shape(op, 'v', v, [B, Tk, Hkv, 'Dv'], check.because('k', k));
  check.multiple(op, 'the number of heads of q', Hq, Hkv, `k and v have ${Hkv} heads`);
  check.dtype(op, 'q', q, floats);
  check.dtype(op, 'k', k, q.dtype, `q has dtype ${q.dtype}`);
  check.dtype(op, 'v', v, q.dtype, `q has dtype ${q.dtype}`);
  const known = check.options(op, options, ['causal', 'scale', ...extra]);
  const { causal = true, scale = 1 / Math.sqrt(D), gradDtype = q.dtype } = known;
  check.boolean(op, 'causal', causal);
  check.finite(op, 'scale', scale);
  return {
    outputShape: [B, Tq, Hq, Dv] as const,
    logSumExpShape: [B, Hq, Tq] as const,
    gradDtype,
    causal,
    scale,
  };
}

/** `attention`, fused or not; `op` is its name in messages. */
export function runAttention(
  op: string,
  naive: boolean,
  q: Tensor,
  k: Tensor,
  v: Tensor,
  options?: AttentionOptions,
): AttentionResult {
  const { device, buffers } = operands(op, { q, k, v });
  const { outputShape, logSumExpShape, causal, scale } = checked(op, q, k, v, options);
  return produce(op, device, { output: [outputShape, q.dtype], logSumExp: [logSumExpShape, 'f32'] }, (to) =>
    binding.attention(buffers.q, buffers.k, buffers.v, to.output, to.logSumExp, causal, scale, naive),
  );
}

/** `attentionBackward`, fused or not; `op` is its name in messages. */
export function runAttentionBackward(
  op: string,
  naive: boolean,
  gradOutput: Tensor,
  saved: AttentionSaved,
  options?: AttentionBackwardOptions,
): { gradQ: Tensor; gradK: Tensor; gradV: Tensor } {
  const { q, k, v, output, logSumExp } = check.record(op, 'saved', saved, ['q', 'k', 'v', 'output', 'logSumExp']);
  const { device, buffers } = operands(op, { q, k, v, output, logSumExp, gradOutput });
  const extra = naive ? [] : (['gradDtype'] as const);
  const { outputShape, logSumExpShape, gradDtype, causal, scale } = checked(op, q, k, v, options, extra);
  if (gradDtype !== q.dtype && gradDtype !== 'f32') {
    const given = typeof gradDtype === 'string' ? gradDtype : check.describe(gradDtype);
    throw new DTypeError(`${op}: gradDtype is ${given}, expected ${q.dtype} (the dtype of q) or f32`);
  }
  for (const [name, tensor] of Object.entries({ output, gradOutput })) {
    check.shape(op, name, tensor, outputShape, 'the shape of the output');
    check.dtype(op, name, tensor, q.dtype, `q has dtype ${q.dtype}`);
  }
  check.shape(op, 'logSumExp', logSumExp, logSumExpShape, 'the forward returned it');
  check.dtype(op, 'logSumExp', logSumExp, 'f32');
  const outputs = { gradQ: [q.shape, gradDtype], gradK: [k.shape, gradDtype], gradV: [v.shape, gradDtype] } as const;
  return produce(op, device, outputs, (to) =>
    binding.attentionBackward(
      buffers.gradOutput,
      buffers.q,
      buffers.k,
      buffers.v,
      buffers.output,
      buffers.logSumExp,
      to.gradQ,
      to.gradK,
      to.gradV,
      causal,
      scale,
      naive,
    ),
  );
}

/**
 * softmax(scale * q k^T) v per head, fused. Each of the Hkv heads of k and v serves Hq / Hkv consecutive heads of q. A query
 * that sees no key gives 0.
 *
 * q [B, Tq, Hq, Dqk], k [B, Tk, Hkv, Dqk], v [B, Tk, Hkv, Dv] of one dtype -> output [B, Tq, Hq, Dv], logSumExp [B, Hq, Tq] f32.
 */
export function attention(q: Tensor, k: Tensor, v: Tensor, options?: AttentionOptions): AttentionResult {
  return runAttention(check.call('attention', arguments.length, 4), false, q, k, v, options);
}

/**
 * `attention` and `aggregate` in one, for inference: M[b, t, h*D + d] = mean over g of output[b, t, g*H + h, d]
 * (arXiv 2507.07694, PEAA). Where the device fuses the two, only the mean is rounded.
 *
 * q [B, Tq, r*H, Dqk], k [B, Tk, Hkv, Dqk], v [B, Tk, Hkv, Dv] of one dtype, heads H -> [B, Tq, H*Dv], same dtype.
 */
export function attentionMean(q: Tensor, k: Tensor, v: Tensor, options: AttentionMeanOptions): Tensor {
  const op = check.call('attentionMean', arguments.length, 4);
  const { device, buffers } = operands(op, { q, k, v });
  const { outputShape, causal, scale } = checked(op, q, k, v, options, ['heads']);
  const [B, Tq, simHeads, Dv] = outputShape;
  const H = check.integer(op, 'heads', options?.heads, { min: 1 });
  check.multiple(op, 'the number of heads of q', simHeads, H, `heads is ${H}`);
  return produce(op, device, { output: [[B, Tq, H * Dv], q.dtype] }, (to) =>
    binding.attentionMean(buffers.q, buffers.k, buffers.v, to.output, causal, scale),
  ).output;
}

/**
 * The gradients of `attention`, shaped as q, k and v: gradOutput [B, Tq, Hq, Dv] of the dtype of q, and the arguments and results of
 * the forward; `causal` and `scale` are those of the forward too. Only q, k, v, output and logSumExp are kept between the two:
 * the scores are computed anew.
 */
export function attentionBackward(
  gradOutput: Tensor,
  saved: AttentionSaved,
  options?: AttentionBackwardOptions,
): { gradQ: Tensor; gradK: Tensor; gradV: Tensor } {
  return runAttentionBackward(check.call('attentionBackward', arguments.length, 3), false, gradOutput, saved, options);
}
