import { expect } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32 } from '../api/helpers.js';
import { type NormOptions, normCases, normOf } from '../helpers/norm_cases.js';
import { defineOp } from '../helpers/op.js';
import * as reference from '../reference/index.js';

const rmsNorm = normOf(() => ({}));

export default defineOp<NormOptions>({
  name: 'rmsNorm',
  cases: normCases(rmsNorm),
  repeated: [rmsNorm([517], 96)],
  small: [rmsNorm([8], 16)],
  random: (draw) => rmsNorm([draw.size()], 3 + draw.size(), {}, { eps: 0.1 }),

  forward: { call: ops.rmsNorm, args: ({ x, weight }, options) => [x, weight, options] },
  backward: {
    call: ops.rmsNormBackward,
    args: ({ gradOutput, x, weight }, _, { rstd }) => [gradOutput, { x, weight, rstd }],
  },
  f32Outputs: ['rstd'],
  reference: {
    forward: ({ x, weight }, { eps }) => ({ ...reference.rmsNorm(x, weight, eps) }),
    backward: ({ gradOutput, x, weight }, { eps }) => {
      const { gradX, gradWeight } = reference.rmsNormBackward(gradOutput, x, weight, eps);
      return { x: gradX, weight: gradWeight };
    },
  },
  special: { forward: {} },

  arguments: {
    rmsNorm: {
      refuses: [
        [
          'rmsNorm: weight has dtype bf16, expected f32 (parameters are f32)',
          DTypeError,
          () => ops.rmsNorm(f32(2, 3), bf16(3)),
        ],
        [
          'rmsNorm: weight is undefined, expected a Tensor',
          ArgumentError,
          () => ops.rmsNorm(f32(2, 3), undefined as never),
        ],
        [
          'rmsNormBackward: rstd has shape [1], expected [2] (x has 2 rows)',
          ShapeError,
          () => ops.rmsNormBackward(f32(2, 3), { x: f32(2, 3), weight: f32(3), rstd: f32(1) }),
        ],
        [
          'rmsNormBackward: saved is null, expected an object',
          ArgumentError,
          () => ops.rmsNormBackward(f32(2, 3), null as never),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.rmsNorm(f32(3), f32(3)).rstd.shape).toEqual([1]);
        },
      },
    },
  },
});
