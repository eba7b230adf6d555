import { expect } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { type NormOptions, normCases, normOf } from '../helpers/norm_cases.js';
import { defineOp, normalParameter } from '../helpers/op.js';
import * as reference from '../reference/index.js';

const layerNorm = normOf((width) => ({ bias: normalParameter([width]) }));
const saved = () => ({ x: f32(2, 3), weight: f32(3), mean: f32(2), rstd: f32(2) });

export default defineOp<NormOptions>({
  name: 'layerNorm',
  cases: normCases(layerNorm),
  repeated: [layerNorm([517], 96)],
  small: [layerNorm([8], 16)],
  random: (draw) => layerNorm([draw.size()], 3 + draw.size(), {}, { eps: 0.1 }),

  forward: { call: ops.layerNorm, args: ({ x, weight, bias }, options) => [x, weight, bias, options] },
  backward: {
    call: ops.layerNormBackward,
    args: ({ gradOutput, x, weight }, _, { mean, rstd }) => [gradOutput, { x, weight, mean, rstd }],
  },
  f32Outputs: ['mean', 'rstd'],
  reference: {
    forward: ({ x, weight, bias }, { eps }) => ({ ...reference.layerNorm(x, weight, bias, eps) }),
    backward: ({ gradOutput, x, weight }, { eps }) => {
      const { gradX, gradWeight, gradBias } = reference.layerNormBackward(gradOutput, x, weight, eps);
      return { x: gradX, weight: gradWeight, bias: gradBias };
    },
  },
  special: { forward: {} },

  arguments: {
    layerNorm: {
      refuses: [
        [
          'layerNorm: weight has shape [2], expected [3] (x has width 3)',
          ShapeError,
          () => ops.layerNorm(f32(2, 3), f32(2), f32(3)),
        ],
        [
          'layerNorm: bias has shape [1, 3], expected [3] (x has width 3)',
          ShapeError,
          () => ops.layerNorm(f32(2, 3), f32(3), f32(1, 3)),
        ],
        [
          'layerNorm: eps is -1, expected a finite number at least 0',
          ArgumentError,
          () => ops.layerNorm(f32(2, 3), f32(3), f32(3), { eps: -1 }),
        ],
        [
          "layerNorm: there is no option 'epsilon'; known: eps",
          ArgumentError,
          () => ops.layerNorm(f32(2, 3), f32(3), f32(3), { epsilon: 1 } as never),
        ],
        [
          'layerNorm: x has dtype i32, expected f32, bf16, f16',
          DTypeError,
          () => ops.layerNorm(i32(2, 3), f32(3), f32(3)),
        ],
        [
          'layerNormBackward: mean has shape [3], expected [2] (x has 2 rows)',
          ShapeError,
          () => ops.layerNormBackward(f32(2, 3), { ...saved(), mean: f32(3) }),
        ],
        [
          'layerNormBackward: rstd has dtype bf16, expected f32',
          DTypeError,
          () => ops.layerNormBackward(f32(2, 3), { ...saved(), rstd: bf16(2) }),
        ],
        [
          'layerNormBackward: gradOutput has shape [6], expected [2, 3] (the shape of x)',
          ShapeError,
          () => ops.layerNormBackward(f32(6), saved()),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          const normed = ops.layerNorm(bf16(2, 5, 3), f32(3), f32(3));
          expect(normed.output).toMatchObject({ shape: [2, 5, 3], dtype: 'bf16' });
          expect([normed.mean.shape, normed.rstd.shape, normed.rstd.dtype]).toEqual([[10], [10], 'f32']);
          const grads = ops.layerNormBackward(f32(2, 3), saved());
          expect([grads.gradX.shape, grads.gradWeight.shape, grads.gradBias.shape]).toEqual([[2, 3], [3], [3]]);
        },
      },
    },
  },
});
