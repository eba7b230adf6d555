// Attentions for the parity and property tests.
import { ops, type Tensor } from '../../lib/index.js';
import * as reference from '../reference/index.js';
import { roundedAttention } from '../reference/rounded_pipeline.js';
import { activation, type Pair, type Results, type Truth } from './parity.js';
import type { FloatType } from './random.js';

export interface AttentionShape {
  batch: number; // B
  timeQ: number; // Tq
  timeK: number; // Tk
  heads: number; // Hq
  keyHeads: number; // Hkv
  width: number; // Dqk
  valueWidth: number; // Dv
  causal: boolean;
  scale?: number; // default: left to the op
  inputScale?: number; // of q, k and v, default 1
}

export interface AttentionProblem {
  q: Pair;
  k: Pair;
  v: Pair;
  gradOutput: Pair;
  options: { causal: boolean; scale?: number };
}

export function attentionName(shape: AttentionShape): string {
  const { batch, timeQ, timeK, heads, keyHeads, width, valueWidth, causal, inputScale = 1 } = shape;
  const mask = causal ? 'causal' : 'full';
  const scale = inputScale === 1 ? '' : ` x${inputScale}`;
  return `B=${batch} T=${timeQ}/${timeK} H=${heads}/${keyHeads} D=${width}/${valueWidth} ${mask}${scale}`;
}

export function attentionProblem(shape: AttentionShape, dtype: FloatType, seed: number): AttentionProblem {
  const { batch, timeQ, timeK, heads, keyHeads, width, valueWidth, causal, scale, inputScale = 1 } = shape;
  return {
    q: activation([batch, timeQ, heads, width], seed + 1, dtype, inputScale),
    k: activation([batch, timeK, keyHeads, width], seed + 2, dtype, inputScale),
    v: activation([batch, timeK, keyHeads, valueWidth], seed + 3, dtype, inputScale),
    gradOutput: activation([batch, timeQ, heads, valueWidth], seed + 4, dtype),
    options: scale === undefined ? { causal } : { causal, scale },
  };
}

export function attentionTruth({ q, k, v, gradOutput, options }: AttentionProblem): Truth {
  const { output, logSumExp } = reference.attention(q.exact, k.exact, v.exact, options);
  const backward = (omitMean: boolean) => {
    const result = reference.attentionBackward(gradOutput.exact, q.exact, k.exact, v.exact, { ...options, omitMean });
    return { q: result.gradQ, k: result.gradK, v: result.gradV };
  };
  const truth: Truth = { outputs: { output, logSumExp }, gradients: backward(false) };
  // Rows that see a single key have no gradient of q and k: judged by the size of the terms that cancel.
  if (Object.values(truth.gradients).some(({ data }) => reference.norm64(data) === 0)) {
    const scales = Object.entries(backward(true)).map(([name, { data }]) => [name, reference.norm64(data)]);
    truth.zeroScales = Object.fromEntries(scales);
  }
  return truth;
}

/** The unfused pipeline emulated in `dtype`, which judges ops.naive.attention. */
export function attentionEmulated(problem: AttentionProblem, dtype: FloatType): Results<reference.Array64> {
  const { q, k, v, gradOutput, options } = problem;
  const { output, logSumExp, gradients } = roundedAttention(
    gradOutput.exact,
    q.exact,
    k.exact,
    v.exact,
    dtype,
    options,
  );
  const { gradQ, gradK, gradV } = gradients;
  return { outputs: { output, logSumExp }, gradients: { q: gradQ, k: gradK, v: gradV } };
}

/** The op under test: ops itself (fused) or ops.naive. */
export function runAttention(implementation: 'fused' | 'naive', problem: AttentionProblem): Results<Tensor> {
  const { attention, attentionBackward } = implementation === 'fused' ? ops : ops.naive;
  const { options } = problem;
  const [q, k, v] = [problem.q.tensor, problem.k.tensor, problem.v.tensor];
  const { output, logSumExp } = attention(q, k, v, options);
  const saved = { q, k, v, output, logSumExp };
  const { gradQ, gradK, gradV } = attentionBackward(problem.gradOutput.tensor, saved, options);
  return { outputs: { output, logSumExp }, gradients: { q: gradQ, k: gradK, v: gradV } };
}

/** The same values in f32. */
export function widened({ options, ...pairs }: AttentionProblem): AttentionProblem {
  const widen = ({ tensor, exact }: Pair): Pair => ({ tensor: tensor.to({ dtype: 'f32' }), exact });
  const { q, k, v, gradOutput } = pairs;
  return { q: widen(q), k: widen(k), v: widen(v), gradOutput: widen(gradOutput), options };
}

export function disposeAttention({ q, k, v, gradOutput }: AttentionProblem): void {
  for (const { tensor } of [q, k, v, gradOutput]) tensor.dispose();
}
