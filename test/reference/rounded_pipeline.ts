// The unfused pipeline in a storage type: every step rounds its result (weights are rounded once), sums are kept
// in f32. It sets the limits of ops.naive.*, which in turn set those of the fused kernels.
import { type FloatType, roundTo } from '../helpers/random.js';
import {
  type Array64,
  type AttentionGradients64,
  type AttentionOptions64,
  add64,
  type ExpandWeights64,
  type FeatureWeights64,
  featureWeights,
  headConvolution,
  headConvolutionBackward,
  linear,
  linearBackward,
  map64,
  relu,
  reluBackward,
  visibleKeys,
  zeros64,
} from './index.js';

export function round64(x: Array64, dtype: FloatType): Array64 {
  return map64(x, (value) => roundTo(value, dtype));
}

interface RoundedExpansion {
  head: ExpandWeights64;
  feature: FeatureWeights64 | undefined;
  c1: Array64;
  reluC1: Array64;
  y: Array64;
  z1: Array64;
  output: Array64;
}

function expandSteps(x: Array64, weights: ExpandWeights64, dtype: FloatType): RoundedExpansion {
  const round = (value: Array64) => round64(value, dtype);
  const head: ExpandWeights64 = {
    headWeight: round(weights.headWeight),
    headBias: round(weights.headBias),
    headResidualWeight: round(weights.headResidualWeight),
    headResidualBias: round(weights.headResidualBias),
  };
  const c1 = round(headConvolution(x, head.headWeight, head.headBias));
  const reluC1 = relu(c1);
  const y = round(add64(c1, round(headConvolution(reluC1, head.headResidualWeight, head.headResidualBias))));
  const plain = featureWeights(weights);
  if (plain === undefined) return { head, feature: undefined, c1, reluC1, y, z1: y, output: y };
  const feature: FeatureWeights64 = {
    featureWeight: round(plain.featureWeight),
    featureBias: round(plain.featureBias),
    featureResidualWeight: round(plain.featureResidualWeight),
    featureResidualBias: round(plain.featureResidualBias),
  };
  const z1 = round(linear(y, feature.featureWeight, feature.featureBias));
  const residual = round(linear(relu(z1), feature.featureResidualWeight, feature.featureResidualBias));
  return { head, feature, c1, reluC1, y, z1, output: round(add64(z1, residual)) };
}

export function roundedExpand(x: Array64, weights: ExpandWeights64, dtype: FloatType): Array64 {
  return expandSteps(x, weights, dtype).output;
}

/** Gradients of activations are rounded to the storage type, gradients of parameters to f32. */
export function roundedExpandBackward(
  gradOutput: Array64,
  x: Array64,
  weights: ExpandWeights64,
  dtype: FloatType,
): { gradX: Array64; gradWeights: ExpandWeights64 } {
  const round = (value: Array64) => round64(value, dtype);
  const single = (value: Array64) => round64(value, 'f32');
  const { head, feature, c1, reluC1, y, z1 } = expandSteps(x, weights, dtype);
  let gradY = gradOutput;
  let gradFeature: FeatureWeights64 | undefined;
  if (feature !== undefined) {
    const residual = linearBackward(gradOutput, relu(z1), feature.featureResidualWeight);
    const gradZ1 = round(add64(gradOutput, reluBackward(round(residual.gradX), z1)));
    const first = linearBackward(gradZ1, y, feature.featureWeight);
    gradY = round(first.gradX);
    gradFeature = {
      featureWeight: single(first.gradWeight),
      featureBias: single(first.gradBias),
      featureResidualWeight: single(residual.gradWeight),
      featureResidualBias: single(residual.gradBias),
    };
  }
  const residual = headConvolutionBackward(gradY, reluC1, head.headResidualWeight);
  const gradC1 = round(add64(gradY, reluBackward(round(residual.gradX), c1)));
  const first = headConvolutionBackward(gradC1, x, head.headWeight);
  return {
    gradX: round(first.gradX),
    gradWeights: {
      headWeight: single(first.gradWeight),
      headBias: single(first.gradBias),
      headResidualWeight: single(residual.gradWeight),
      headResidualBias: single(residual.gradBias),
      ...gradFeature,
    },
  };
}

/** sum_i a[aOffset + i] * b[bOffset + i], accumulated in f32. */
function dotF32(a: Float64Array, aOffset: number, b: Float64Array, bOffset: number, length: number): number {
  let sum = 0;
  for (let i = 0; i < length; i++) sum = Math.fround(sum + a[aOffset + i] * b[bOffset + i]);
  return sum;
}

/** y[yOffset + i] += factor * x[xOffset + i], accumulated in f32. */
function axpyF32(
  factor: number,
  x: Float64Array,
  xOffset: number,
  y: Float64Array,
  yOffset: number,
  length: number,
): void {
  for (let i = 0; i < length; i++) y[yOffset + i] = Math.fround(y[yOffset + i] + factor * x[xOffset + i]);
}

/** Forward and backward in one walk over the query rows. */
export function roundedAttention(
  gradOutput: Array64,
  q: Array64,
  k: Array64,
  v: Array64,
  dtype: FloatType,
  options: AttentionOptions64 = {},
): { output: Array64; logSumExp: Array64; gradients: AttentionGradients64 } {
  const [batch, tq, hq, dqk] = q.shape;
  const [, tk, hkv, dv] = v.shape;
  const { causal = true, scale = 1 / Math.sqrt(dqk) } = options;
  const output = zeros64([batch, tq, hq, dv]);
  const logSumExp = zeros64([batch, hq, tq]);
  const gradQ = zeros64(q.shape);
  const gradK = zeros64(k.shape);
  const gradV = zeros64(v.shape);
  const probability = new Float64Array(tk);
  const gradProbability = new Float64Array(tk);
  for (let b = 0; b < batch; b++) {
    for (let h = 0; h < hq; h++) {
      const kvHead = Math.floor(h / (hq / hkv));
      for (let i = 0; i < tq; i++) {
        const token = (b * tq + i) * hq + h;
        const visible = visibleKeys(i, tq, tk, causal);
        let max = Number.NEGATIVE_INFINITY;
        for (let j = 0; j < visible; j++) {
          const kRow = ((b * tk + j) * hkv + kvHead) * dqk;
          probability[j] = roundTo(roundTo(dotF32(q.data, token * dqk, k.data, kRow, dqk), dtype) * scale, dtype);
          max = Math.max(max, probability[j]);
        }
        let sum = 0;
        for (let j = 0; j < visible; j++) sum = Math.fround(sum + Math.exp(probability[j] - max));
        logSumExp.data[(b * hq + h) * tq + i] =
          visible === 0 ? Number.NEGATIVE_INFINITY : Math.fround(max + Math.log(sum));
        for (let j = 0; j < visible; j++) {
          const vRow = ((b * tk + j) * hkv + kvHead) * dv;
          probability[j] = roundTo(Math.exp(probability[j] - max) / sum, dtype);
          gradProbability[j] = roundTo(dotF32(gradOutput.data, token * dv, v.data, vRow, dv), dtype);
          axpyF32(probability[j], v.data, vRow, output.data, token * dv, dv);
          axpyF32(probability[j], gradOutput.data, token * dv, gradV.data, vRow, dv);
        }
        const mean = dotF32(probability, 0, gradProbability, 0, visible);
        for (let j = 0; j < visible; j++) {
          const kRow = ((b * tk + j) * hkv + kvHead) * dqk;
          const gradSoftmax = roundTo(probability[j] * (gradProbability[j] - mean), dtype);
          const gradScore = roundTo(gradSoftmax * scale, dtype);
          axpyF32(gradScore, k.data, kRow, gradQ.data, token * dqk, dqk);
          axpyF32(gradScore, q.data, token * dqk, gradK.data, kRow, dqk);
        }
      }
    }
  }
  const round = (value: Array64) => round64(value, dtype);
  const gradients = { gradQ: round(gradQ), gradK: round(gradK), gradV: round(gradV) };
  return { output: round(output), logSumExp, gradients };
}
