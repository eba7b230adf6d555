// Sections 1 (head expansion) and 2 (feature expansion), step by step: every step is a function of its own, so that the
// rounded pipeline (rounded_pipeline.ts) can put a rounding between any two of them.
import { type Array64, add64, relu, reluBackward, zeros64 } from './array64.js';
import { linear, linearBackward } from './linear.js';

export interface ExpandWeights64 {
  headWeight: Array64; // [H', H, k]
  headBias: Array64; // [H']
  headResidualWeight: Array64; // [H', H', k]
  headResidualBias: Array64; // [H']
  featureWeight?: Array64; // [D', D]
  featureBias?: Array64; // [D']
  featureResidualWeight?: Array64; // [D', D']
  featureResidualBias?: Array64; // [D']
}

export interface FeatureWeights64 {
  featureWeight: Array64;
  featureBias: Array64;
  featureResidualWeight: Array64;
  featureResidualBias: Array64;
}

/** The four feature weights, or undefined for a value tensor, which keeps its width. */
export function featureWeights(weights: ExpandWeights64): FeatureWeights64 | undefined {
  const { featureWeight, featureBias, featureResidualWeight, featureResidualBias } = weights;
  if (!featureWeight || !featureBias || !featureResidualWeight || !featureResidualBias) return undefined;
  return { featureWeight, featureBias, featureResidualWeight, featureResidualBias };
}

/**
 * x [..., C, D], weight [O, C, k], bias [O] -> [..., O, D]: channels are heads, the kernel slides along the features,
 * outside 0..D-1 is zero.
 */
export function headConvolution(x: Array64, weight: Array64, bias: Array64): Array64 {
  const [outHeads, inHeads, kernel] = weight.shape;
  const width = x.shape[x.shape.length - 1];
  const tokens = x.data.length / (inHeads * width);
  const padding = (kernel - 1) / 2;
  const output = zeros64([...x.shape.slice(0, -2), outHeads, width]);
  for (let token = 0; token < tokens; token++) {
    for (let o = 0; o < outHeads; o++) {
      const outRow = (token * outHeads + o) * width;
      for (let d = 0; d < width; d++) output.data[outRow + d] = bias.data[o];
      for (let h = 0; h < inHeads; h++) {
        const inRow = (token * inHeads + h) * width;
        for (let tap = 0; tap < kernel; tap++) {
          const shift = tap - padding;
          const w = weight.data[(o * inHeads + h) * kernel + tap];
          const begin = Math.max(0, -shift);
          const end = Math.min(width, width - shift);
          for (let d = begin; d < end; d++) output.data[outRow + d] += w * x.data[inRow + d + shift];
        }
      }
    }
  }
  return output;
}

export function headConvolutionBackward(
  gradOutput: Array64,
  x: Array64,
  weight: Array64,
): { gradX: Array64; gradWeight: Array64; gradBias: Array64 } {
  const [outHeads, inHeads, kernel] = weight.shape;
  const width = x.shape[x.shape.length - 1];
  const tokens = x.data.length / (inHeads * width);
  const padding = (kernel - 1) / 2;
  const gradX = zeros64(x.shape);
  const gradWeight = zeros64(weight.shape);
  const gradBias = zeros64([outHeads]);
  for (let token = 0; token < tokens; token++) {
    for (let o = 0; o < outHeads; o++) {
      const outRow = (token * outHeads + o) * width;
      for (let d = 0; d < width; d++) gradBias.data[o] += gradOutput.data[outRow + d];
      for (let h = 0; h < inHeads; h++) {
        const inRow = (token * inHeads + h) * width;
        for (let tap = 0; tap < kernel; tap++) {
          const shift = tap - padding;
          const index = (o * inHeads + h) * kernel + tap;
          const w = weight.data[index];
          const begin = Math.max(0, -shift);
          const end = Math.min(width, width - shift);
          let sum = 0;
          for (let d = begin; d < end; d++) {
            const grad = gradOutput.data[outRow + d];
            gradX.data[inRow + d + shift] += w * grad;
            sum += grad * x.data[inRow + d + shift];
          }
          gradWeight.data[index] += sum;
        }
      }
    }
  }
  return { gradX, gradWeight, gradBias };
}

/** x [B, T, H, D] -> [B, T, H', D'] (or D without feature weights) */
export function expand(x: Array64, weights: ExpandWeights64): Array64 {
  const c1 = headConvolution(x, weights.headWeight, weights.headBias);
  const y = add64(c1, headConvolution(relu(c1), weights.headResidualWeight, weights.headResidualBias));
  const feature = featureWeights(weights);
  if (feature === undefined) return y;
  const z1 = linear(y, feature.featureWeight, feature.featureBias);
  return add64(z1, linear(relu(z1), feature.featureResidualWeight, feature.featureResidualBias));
}

export function expandBackward(
  gradOutput: Array64,
  x: Array64,
  weights: ExpandWeights64,
): { gradX: Array64; gradWeights: ExpandWeights64 } {
  const c1 = headConvolution(x, weights.headWeight, weights.headBias);
  const reluC1 = relu(c1);
  let gradY = gradOutput;
  let gradFeature: FeatureWeights64 | undefined;

  const feature = featureWeights(weights);
  if (feature !== undefined) {
    const y = add64(c1, headConvolution(reluC1, weights.headResidualWeight, weights.headResidualBias));
    const z1 = linear(y, feature.featureWeight, feature.featureBias);
    const residual = linearBackward(gradOutput, relu(z1), feature.featureResidualWeight);
    const gradZ1 = add64(gradOutput, reluBackward(residual.gradX, z1));
    const first = linearBackward(gradZ1, y, feature.featureWeight);
    gradY = first.gradX;
    gradFeature = {
      featureWeight: first.gradWeight,
      featureBias: first.gradBias,
      featureResidualWeight: residual.gradWeight,
      featureResidualBias: residual.gradBias,
    };
  }

  const residual = headConvolutionBackward(gradY, reluC1, weights.headResidualWeight);
  const gradC1 = add64(gradY, reluBackward(residual.gradX, c1));
  const first = headConvolutionBackward(gradC1, x, weights.headWeight);
  return {
    gradX: first.gradX,
    gradWeights: {
      headWeight: first.gradWeight,
      headBias: first.gradBias,
      headResidualWeight: residual.gradWeight,
      headResidualBias: residual.gradBias,
      ...gradFeature,
    },
  };
}
