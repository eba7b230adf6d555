import { type Array64, zeros64 } from './array64.js';

export interface AttentionOptions64 {
  causal?: boolean; // default true; bottom-right aligned: query i sees keys j <= i + Tk - Tq
  scale?: number; // default 1/sqrt(Dqk)
}

/** Number of keys that query i sees: keys 0..n-1. */
export function visibleKeys(i: number, tq: number, tk: number, causal: boolean): number {
  return causal ? Math.max(0, Math.min(tk, i + 1 + tk - tq)) : tk;
}

/** Probabilities of one query row into `probability`; returns its logSumExp, -inf if it sees no score but -inf. */
function softmaxRow(
  q: Array64,
  qRow: number,
  k: Array64,
  keyRow: (j: number) => number,
  visible: number,
  scale: number,
  probability: Float64Array,
): number {
  const width = q.shape[3];
  let max = Number.NEGATIVE_INFINITY;
  for (let j = 0; j < visible; j++) {
    const kRow = keyRow(j);
    let dot = 0;
    for (let d = 0; d < width; d++) dot += q.data[qRow + d] * k.data[kRow + d];
    probability[j] = dot * scale;
    max = Math.max(max, probability[j]);
  }
  if (max === Number.NEGATIVE_INFINITY) {
    probability.fill(0, 0, visible);
    return max;
  }
  let sum = 0;
  for (let j = 0; j < visible; j++) {
    probability[j] = Math.exp(probability[j] - max);
    sum += probability[j];
  }
  for (let j = 0; j < visible; j++) probability[j] /= sum;
  return max + Math.log(sum);
}

/** q [B,Tq,Hq,Dqk], k [B,Tk,Hkv,Dqk], v [B,Tk,Hkv,Dv] -> output [B,Tq,Hq,Dv], logSumExp [B,Hq,Tq] */
export function attention(
  q: Array64,
  k: Array64,
  v: Array64,
  options: AttentionOptions64 = {},
): { output: Array64; logSumExp: Array64 } {
  const [batch, tq, hq, dqk] = q.shape;
  const [, tk, hkv, dv] = v.shape;
  const { causal = true, scale = 1 / Math.sqrt(dqk) } = options;
  const output = zeros64([batch, tq, hq, dv]);
  const logSumExp = zeros64([batch, hq, tq]);
  const probability = new Float64Array(tk);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < hq; h++) {
      const kvHead = Math.floor(h / (hq / hkv));
      const keyRow = (j: number) => ((b * tk + j) * hkv + kvHead) * dqk;
      for (let i = 0; i < tq; i++) {
        const token = (b * tq + i) * hq + h;
        const visible = visibleKeys(i, tq, tk, causal);
        logSumExp.data[(b * hq + h) * tq + i] = softmaxRow(q, token * dqk, k, keyRow, visible, scale, probability);
        for (let j = 0; j < visible; j++) {
          const vRow = ((b * tk + j) * hkv + kvHead) * dv;
          const p = probability[j];
          for (let d = 0; d < dv; d++) output.data[token * dv + d] += p * v.data[vRow + d];
        }
      }
    }
  }
  return { output, logSumExp };
}

export interface AttentionGradients64 {
  gradQ: Array64;
  gradK: Array64;
  gradV: Array64;
}

/**
 * dS = P * (dP - sum_j P dP), the gradient of softmax. `omitMean` leaves the sum out: not a gradient, but the size of the
 * terms that cancel in it. It gives the scale where the true gradient is exactly zero (a row that sees a single key).
 */
export function attentionBackward(
  gradOutput: Array64,
  q: Array64,
  k: Array64,
  v: Array64,
  options: AttentionOptions64 & { omitMean?: boolean } = {},
): AttentionGradients64 {
  const [batch, tq, hq, dqk] = q.shape;
  const [, tk, hkv, dv] = v.shape;
  const { causal = true, scale = 1 / Math.sqrt(dqk), omitMean = false } = options;
  const gradQ = zeros64(q.shape);
  const gradK = zeros64(k.shape);
  const gradV = zeros64(v.shape);
  const probability = new Float64Array(tk);
  const gradProbability = new Float64Array(tk);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < hq; h++) {
      const kvHead = Math.floor(h / (hq / hkv));
      const keyRow = (j: number) => ((b * tk + j) * hkv + kvHead) * dqk;
      for (let i = 0; i < tq; i++) {
        const token = (b * tq + i) * hq + h;
        const qRow = token * dqk;
        const oRow = token * dv;
        const visible = visibleKeys(i, tq, tk, causal);
        softmaxRow(q, qRow, k, keyRow, visible, scale, probability);
        let mean = 0;
        for (let j = 0; j < visible; j++) {
          const vRow = ((b * tk + j) * hkv + kvHead) * dv;
          const p = probability[j];
          let dot = 0;
          for (let d = 0; d < dv; d++) {
            const grad = gradOutput.data[oRow + d];
            dot += grad * v.data[vRow + d];
            gradV.data[vRow + d] += p * grad;
          }
          gradProbability[j] = dot;
          mean += p * dot;
        }
        if (omitMean) mean = 0;
        for (let j = 0; j < visible; j++) {
          const kRow = keyRow(j);
          const gradScore = probability[j] * (gradProbability[j] - mean) * scale;
          for (let d = 0; d < dqk; d++) {
            gradQ.data[qRow + d] += gradScore * k.data[kRow + d];
            gradK.data[kRow + d] += gradScore * q.data[qRow + d];
          }
        }
      }
    }
  }
  return { gradQ, gradK, gradV };
}
