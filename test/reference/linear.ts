import { type Array64, zeros64 } from './array64.js';

/** x [..., K], weight [N, K], bias [N] -> [..., N] */
export function linear(x: Array64, weight: Array64, bias?: Array64): Array64 {
  const [n, k] = weight.shape;
  const rows = x.data.length / k;
  const output = zeros64([...x.shape.slice(0, -1), n]);
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < n; o++) {
      let sum = bias === undefined ? 0 : bias.data[o];
      for (let i = 0; i < k; i++) sum += x.data[row * k + i] * weight.data[o * k + i];
      output.data[row * n + o] = sum;
    }
  }
  return output;
}

export function linearBackward(
  gradOutput: Array64,
  x: Array64,
  weight: Array64,
): { gradX: Array64; gradWeight: Array64; gradBias: Array64 } {
  const [n, k] = weight.shape;
  const rows = x.data.length / k;
  const gradX = zeros64(x.shape);
  const gradWeight = zeros64(weight.shape);
  const gradBias = zeros64([n]);
  for (let row = 0; row < rows; row++) {
    for (let o = 0; o < n; o++) {
      const grad = gradOutput.data[row * n + o];
      gradBias.data[o] += grad;
      for (let i = 0; i < k; i++) {
        gradX.data[row * k + i] += grad * weight.data[o * k + i];
        gradWeight.data[o * k + i] += grad * x.data[row * k + i];
      }
    }
  }
  return { gradX, gradWeight, gradBias };
}
