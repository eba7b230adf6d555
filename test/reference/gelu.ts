import { type Array64, map64 } from './array64.js';

/** erf(x) for 0 <= x < 2: 2/sqrt(pi) exp(-x^2) sum_n 2^n x^(2n+1) / (1*3*...*(2n+1)); all terms positive, no cancellation. */
function erfSeries(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; term > sum * 1e-18; n++) {
    term *= (2 * x * x) / (2 * n + 1);
    sum += term;
  }
  return (2 / Math.sqrt(Math.PI)) * Math.exp(-x * x) * sum;
}

/** erfc(x) for x >= 2: exp(-x^2)/sqrt(pi) / (x + (1/2)/(x + 1/(x + (3/2)/(x + ...)))), evaluated from the inside. */
function erfcFraction(x: number): number {
  let tail = x;
  for (let n = 120; n >= 1; n--) tail = x + n / 2 / tail;
  return Math.exp(-x * x) / Math.sqrt(Math.PI) / tail;
}

export function erf(x: number): number {
  if (Number.isNaN(x)) return x;
  const magnitude = Math.abs(x);
  return Math.sign(x) * (magnitude < 2 ? erfSeries(magnitude) : 1 - erfcFraction(magnitude));
}

/** 1 - erf(x), without cancellation for x >> 0. */
export function erfc(x: number): number {
  return x >= 2 ? erfcFraction(x) : 1 - erf(x);
}

export type GeluApproximation = 'none' | 'tanh';

const tanhScale = Math.sqrt(2 / Math.PI);
const tanhCubic = 0.044715;

/** At infinite x the formula says infinity times 0: the limit. */
function geluValue(x: number, approximate: GeluApproximation): number {
  if (Math.abs(x) === Number.POSITIVE_INFINITY) return Math.max(x, 0);
  if (approximate === 'none') return 0.5 * x * erfc(-x / Math.SQRT2);
  return 0.5 * x * (1 + Math.tanh(tanhScale * (x + tanhCubic * x ** 3)));
}

function geluSlope(x: number, approximate: GeluApproximation): number {
  if (Math.abs(x) === Number.POSITIVE_INFINITY) return x > 0 ? 1 : 0;
  if (approximate === 'none') {
    return 0.5 * erfc(-x / Math.SQRT2) + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI);
  }
  const t = Math.tanh(tanhScale * (x + tanhCubic * x ** 3));
  return 0.5 * (1 + t) + 0.5 * x * (1 - t * t) * tanhScale * (1 + 3 * tanhCubic * x * x);
}

export function gelu(x: Array64, approximate: GeluApproximation = 'none'): Array64 {
  return map64(x, (value) => geluValue(value, approximate));
}

export function geluBackward(gradOutput: Array64, x: Array64, approximate: GeluApproximation = 'none'): Array64 {
  return map64(x, (value, i) => gradOutput.data[i] * geluSlope(value, approximate));
}
