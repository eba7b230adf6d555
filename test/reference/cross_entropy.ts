import { type Array64, zeros64 } from './array64.js';

/** logits [..., V], targets [rows] -> mean over targets != ignoreIndex (0 if there are none), logSumExp [rows] */
export function crossEntropy(
  logits: Array64,
  targets: Int32Array,
  ignoreIndex = -100,
): { loss: Array64; logSumExp: Array64 } {
  const vocabulary = logits.shape[logits.shape.length - 1];
  const loss = zeros64([]);
  const logSumExp = zeros64([targets.length]);
  let counted = 0;
  for (let row = 0; row < targets.length; row++) {
    let max = Number.NEGATIVE_INFINITY;
    for (let c = 0; c < vocabulary; c++) max = Math.max(max, logits.data[row * vocabulary + c]);
    let sum = 0;
    for (let c = 0; c < vocabulary; c++) sum += Math.exp(logits.data[row * vocabulary + c] - max);
    logSumExp.data[row] = max + Math.log(sum);
    if (targets[row] === ignoreIndex) continue;
    counted++;
    loss.data[0] += logSumExp.data[row] - logits.data[row * vocabulary + targets[row]];
  }
  if (counted > 0) loss.data[0] /= counted;
  return { loss, logSumExp };
}

export function crossEntropyBackward(
  gradLoss: number,
  logits: Array64,
  targets: Int32Array,
  ignoreIndex = -100,
): Array64 {
  const vocabulary = logits.shape[logits.shape.length - 1];
  const { logSumExp } = crossEntropy(logits, targets, ignoreIndex);
  const gradLogits = zeros64(logits.shape);
  const counted = targets.reduce((count, target) => count + (target === ignoreIndex ? 0 : 1), 0);
  for (let row = 0; row < targets.length; row++) {
    if (targets[row] === ignoreIndex) continue;
    for (let c = 0; c < vocabulary; c++) {
      const probability = Math.exp(logits.data[row * vocabulary + c] - logSumExp.data[row]);
      const hit = c === targets[row] ? 1 : 0;
      gradLogits.data[row * vocabulary + c] = (gradLoss * (probability - hit)) / counted;
    }
  }
  return gradLogits;
}
