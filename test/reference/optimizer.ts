import { type Array64, map64, zeros64 } from './array64.js';

/** Global norm over all gradients; all are scaled by min(1, maxNorm / (norm + 1e-6)), as PyTorch does. */
export function clipGradNorm(gradients: readonly Array64[], maxNorm: number): { norm: Array64; gradients: Array64[] } {
  const norm = zeros64([]);
  for (const gradient of gradients) {
    for (const value of gradient.data) norm.data[0] += value * value;
  }
  norm.data[0] = Math.sqrt(norm.data[0]);
  const factor = Math.min(1, maxNorm / (norm.data[0] + 1e-6));
  return { norm, gradients: gradients.map((gradient) => map64(gradient, (value) => value * factor)) };
}

export interface AdamWState64 {
  parameter: Array64;
  gradient: Array64;
  firstMoment: Array64;
  secondMoment: Array64;
}

export interface AdamWOptions64 {
  lr: number;
  beta1?: number;
  beta2?: number;
  eps?: number;
  weightDecay?: number;
  step: number; // 1-based
}

/** One step of AdamW (decoupled weight decay, PyTorch's equations); returns the new state. */
export function adamW(state: AdamWState64, options: AdamWOptions64): AdamWState64 {
  const { lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weightDecay = 0.01, step } = options;
  const { parameter, gradient, firstMoment, secondMoment } = state;
  const first = map64(firstMoment, (m, i) => beta1 * m + (1 - beta1) * gradient.data[i]);
  const second = map64(secondMoment, (s, i) => beta2 * s + (1 - beta2) * gradient.data[i] ** 2);
  const updated = map64(parameter, (value, i) => {
    const denominator = Math.sqrt(second.data[i]) / Math.sqrt(1 - beta2 ** step) + eps;
    return value * (1 - lr * weightDecay) - ((lr / (1 - beta1 ** step)) * first.data[i]) / denominator;
  });
  return { parameter: updated, gradient, firstMoment: first, secondMoment: second };
}
