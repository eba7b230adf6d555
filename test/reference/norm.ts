import { type Array64, zeros64 } from './array64.js';

/** x [..., C], weight [C], bias [C] -> output [..., C], mean [rows], rstd [rows] (biased variance) */
export function layerNorm(
  x: Array64,
  weight: Array64,
  bias: Array64,
  eps = 1e-5,
): { output: Array64; mean: Array64; rstd: Array64 } {
  const width = weight.data.length;
  const rows = x.data.length / width;
  const output = zeros64(x.shape);
  const mean = zeros64([rows]);
  const rstd = zeros64([rows]);
  for (let row = 0; row < rows; row++) {
    let sum = 0;
    for (let c = 0; c < width; c++) sum += x.data[row * width + c];
    mean.data[row] = sum / width;
    let variance = 0;
    for (let c = 0; c < width; c++) variance += (x.data[row * width + c] - mean.data[row]) ** 2 / width;
    rstd.data[row] = 1 / Math.sqrt(variance + eps);
    for (let c = 0; c < width; c++) {
      const normal = (x.data[row * width + c] - mean.data[row]) * rstd.data[row];
      output.data[row * width + c] = normal * weight.data[c] + bias.data[c];
    }
  }
  return { output, mean, rstd };
}

export function layerNormBackward(
  gradOutput: Array64,
  x: Array64,
  weight: Array64,
  eps = 1e-5,
): { gradX: Array64; gradWeight: Array64; gradBias: Array64 } {
  const width = weight.data.length;
  const rows = x.data.length / width;
  const { mean, rstd } = layerNorm(x, weight, zeros64([width]), eps);
  const gradX = zeros64(x.shape);
  const gradWeight = zeros64([width]);
  const gradBias = zeros64([width]);
  for (let row = 0; row < rows; row++) {
    const normal = (c: number) => (x.data[row * width + c] - mean.data[row]) * rstd.data[row];
    let sumGrad = 0;
    let sumGradNormal = 0;
    for (let c = 0; c < width; c++) {
      const grad = gradOutput.data[row * width + c];
      gradWeight.data[c] += grad * normal(c);
      gradBias.data[c] += grad;
      sumGrad += grad * weight.data[c];
      sumGradNormal += grad * weight.data[c] * normal(c);
    }
    for (let c = 0; c < width; c++) {
      const gradNormal = gradOutput.data[row * width + c] * weight.data[c];
      gradX.data[row * width + c] = rstd.data[row] * (gradNormal - (sumGrad + normal(c) * sumGradNormal) / width);
    }
  }
  return { gradX, gradWeight, gradBias };
}

/** x [..., C], weight [C] -> output [..., C], rstd [rows] = 1/sqrt(mean(x^2) + eps) */
export function rmsNorm(x: Array64, weight: Array64, eps = 1e-6): { output: Array64; rstd: Array64 } {
  const width = weight.data.length;
  const rows = x.data.length / width;
  const output = zeros64(x.shape);
  const rstd = zeros64([rows]);
  for (let row = 0; row < rows; row++) {
    let meanSquare = 0;
    for (let c = 0; c < width; c++) meanSquare += x.data[row * width + c] ** 2 / width;
    rstd.data[row] = 1 / Math.sqrt(meanSquare + eps);
    for (let c = 0; c < width; c++) {
      output.data[row * width + c] = x.data[row * width + c] * rstd.data[row] * weight.data[c];
    }
  }
  return { output, rstd };
}

export function rmsNormBackward(
  gradOutput: Array64,
  x: Array64,
  weight: Array64,
  eps = 1e-6,
): { gradX: Array64; gradWeight: Array64 } {
  const width = weight.data.length;
  const rows = x.data.length / width;
  const { rstd } = rmsNorm(x, weight, eps);
  const gradX = zeros64(x.shape);
  const gradWeight = zeros64([width]);
  for (let row = 0; row < rows; row++) {
    const normal = (c: number) => x.data[row * width + c] * rstd.data[row];
    let sumGradNormal = 0;
    for (let c = 0; c < width; c++) {
      const grad = gradOutput.data[row * width + c];
      gradWeight.data[c] += grad * normal(c);
      sumGradNormal += grad * weight.data[c] * normal(c);
    }
    for (let c = 0; c < width; c++) {
      const gradNormal = gradOutput.data[row * width + c] * weight.data[c];
      gradX.data[row * width + c] = rstd.data[row] * (gradNormal - (normal(c) * sumGradNormal) / width);
    }
  }
  return { gradX, gradWeight };
}
