import { type Array64, zeros64 } from './array64.js';

/** headFactors [B, T, R, H], featureFactors [B, T, R, D] -> [B, T, H, D], the mean over r of their products */
export function tensorProduct(headFactors: Array64, featureFactors: Array64): Array64 {
  const [batch, time, rank, heads] = headFactors.shape;
  const width = featureFactors.shape[3];
  const output = zeros64([batch, time, heads, width]);
  for (let token = 0; token < batch * time; token++) {
    for (let h = 0; h < heads; h++) {
      for (let d = 0; d < width; d++) {
        let sum = 0;
        for (let r = token * rank; r < (token + 1) * rank; r++) {
          sum += headFactors.data[r * heads + h] * featureFactors.data[r * width + d];
        }
        output.data[(token * heads + h) * width + d] = sum / rank;
      }
    }
  }
  return output;
}

export function tensorProductBackward(
  gradOutput: Array64,
  headFactors: Array64,
  featureFactors: Array64,
): { gradHeadFactors: Array64; gradFeatureFactors: Array64 } {
  const [batch, time, rank, heads] = headFactors.shape;
  const width = featureFactors.shape[3];
  const gradHeadFactors = zeros64(headFactors.shape);
  const gradFeatureFactors = zeros64(featureFactors.shape);
  for (let token = 0; token < batch * time; token++) {
    for (let h = 0; h < heads; h++) {
      for (let d = 0; d < width; d++) {
        const grad = gradOutput.data[(token * heads + h) * width + d] / rank;
        for (let r = token * rank; r < (token + 1) * rank; r++) {
          gradHeadFactors.data[r * heads + h] += grad * featureFactors.data[r * width + d];
          gradFeatureFactors.data[r * width + d] += grad * headFactors.data[r * heads + h];
        }
      }
    }
  }
  return { gradHeadFactors, gradFeatureFactors };
}
