// The attention modules as pipelines in a storage type: the reference's own steps, rounding what is stored. They set the limits of the
// modules as "naive" does the ops (compare.ts).
import type { FloatType } from '../helpers/random.js';
import { type Arithmetic64, type Array64, attention, attentionBackward, zeros64 } from './index.js';
import { round64, roundedAttention } from './rounded_pipeline.js';

/** The naive pipeline: every step rounds its result to `dtype`, weights are rounded to it once, their gradients to f32. */
export function naiveArithmetic(dtype: FloatType): Arithmetic64 {
  const stored = (value: Array64) => round64(value, dtype);
  return {
    stored,
    inside: stored,
    operand: stored,
    gradient: (value) => round64(value, 'f32'),
    attention: (q, k, v, options) => {
      const nothing = zeros64([...q.shape.slice(0, 3), v.shape[3]]);
      return {
        output: roundedAttention(nothing, q, k, v, dtype, options).output,
        backward: (gradOutput) => roundedAttention(gradOutput, q, k, v, dtype, options).gradients,
      };
    },
  };
}

/** Exact ops that store their results in `dtype` and read weights as `weights`: the least that a module of ops rounds. */
export function storingArithmetic(dtype: FloatType, weights: FloatType): Arithmetic64 {
  const stored = (value: Array64) => round64(value, dtype);
  return {
    stored,
    inside: (value) => value,
    operand: (parameter) => round64(parameter, weights),
    gradient: (value) => round64(value, 'f32'),
    attention: (q, k, v, options) => ({
      output: stored(attention(q, k, v, options).output),
      backward: (gradOutput) => {
        const { gradQ, gradK, gradV } = attentionBackward(gradOutput, q, k, v, options);
        return { gradQ: stored(gradQ), gradK: stored(gradK), gradV: stored(gradV) };
      },
    }),
  };
}
