// The attention modules as unfused pipelines in a storage type: the reference's own steps, each rounding what it stores. They
// judge the modules as "naive" does the ops (compare.ts).
import type { FloatType } from './random.js';
import { type Arithmetic64, type Array64, zeros64 } from './reference/index.js';
import { round64, roundedAttention } from './rounded_pipeline.js';

/** Activations and their gradients are rounded to `dtype`, f32 parameters once to it, gradients of parameters to f32. */
export function roundingArithmetic(dtype: FloatType): Arithmetic64 {
  const stored = (value: Array64) => round64(value, dtype);
  return {
    stored,
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
