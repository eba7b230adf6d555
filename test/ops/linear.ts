import { expect } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32 } from '../api/helpers.js';
import {
  activation,
  type Case,
  defineOp,
  type Named,
  normalParameter,
  parameter,
  type Reference,
  wideTypes,
} from '../helpers/op.js';
import * as reference from '../reference/index.js';
import { round64 } from '../reference/rounded_pipeline.js';

interface Shape {
  rows: readonly number[]; // leading shape of x
  width: number; // K
  outWidth: number; // N
  bias?: boolean;
  inputScale?: number; // of x
  weightScale?: number;
  dtypes?: Case['dtypes'];
  sample?: boolean;
}

function linear(shape: Shape): Case {
  const { rows, width, outWidth, bias = false, inputScale = 1, weightScale = 1, dtypes, sample } = shape;
  const scale = `${inputScale === 1 ? '' : ` x${inputScale}`}${weightScale === 1 ? '' : ` W x${weightScale}`}`;
  return {
    label: `[${rows.join(', ')}] K=${width} N=${outWidth}${bias ? ' bias' : ''}${scale}`,
    options: {},
    seed: 701,
    sample,
    dtypes,
    inputs: {
      x: activation([...rows, width], inputScale),
      weight: weightScale === 1 ? parameter([outWidth, width], width) : normalParameter([outWidth, width], weightScale),
      ...(bias && { bias: parameter([outWidth], width) }),
      gradOutput: activation([...rows, outWidth]),
    },
  };
}

/** Numbers from either end of the range of f32, and products beyond that of the parts into which CUDA splits f32. */
const extremes: Case[] = [
  [1e36, 1e-20],
  [1e-36, 1e10],
  [1e-10, 1e-24],
  [1e20, 1e15],
].flatMap(([inputScale, weightScale]) => [
  linear({ rows: [31], width: 40, outWidth: 96, inputScale, weightScale, dtypes: wideTypes }),
  linear({ rows: [130], width: 160, outWidth: 130, inputScale, weightScale, dtypes: wideTypes }),
]);

const exact: Required<Reference<unknown>> = {
  forward: ({ x, weight, bias }) => ({ output: reference.linear(x, weight, bias) }),
  backward: ({ gradOutput, x, weight, bias }) => {
    const { gradX, gradWeight, gradBias } = reference.linearBackward(gradOutput, x, weight);
    return { x: gradX, weight: gradWeight, ...(bias && { bias: gradBias }) };
  },
};

export default defineOp({
  name: 'linear',
  cases: [
    linear({ rows: [1, 1], width: 1, outWidth: 1, bias: true }),
    linear({ rows: [1], width: 7, outWidth: 3, bias: true }),
    linear({ rows: [2], width: 8, outWidth: 24 }),
    linear({ rows: [2, 31], width: 40, outWidth: 96, bias: true, sample: true }),
    linear({ rows: [64], width: 112, outWidth: 160, bias: true }),
    linear({ rows: [97], width: 96, outWidth: 40 }),
    linear({ rows: [128], width: 160, outWidth: 8, bias: true }),
    linear({ rows: [257], width: 24, outWidth: 112, bias: true }),
    linear({ rows: [1, 1023], width: 8, outWidth: 8, bias: true }),
    linear({ rows: [5], width: 768, outWidth: 768, bias: true }), // the output projection of the reference size
    linear({ rows: [3], width: 9, outWidth: 515, bias: true, sample: true }), // a vocabulary that fills no vector
    linear({ rows: [64], width: 112, outWidth: 40, bias: true, inputScale: 100 }),
    // Several blocks of rows and as many of columns, which threads of the CPU share out; then ones that share out rows.
    linear({ rows: [200], width: 96, outWidth: 520 }),
    linear({ rows: [300], width: 24, outWidth: 520 }),
    ...extremes,
  ],
  repeated: [linear({ rows: [517], width: 112, outWidth: 96, bias: true })],
  small: [linear({ rows: [8], width: 16, outWidth: 24, bias: true })],
  random: (draw) => {
    const rows = Array.from({ length: 1 + draw.below(draw.wide ? 3 : 1) }, () => draw.size(9));
    return linear({ rows, width: draw.size(70), outWidth: draw.size(70), bias: draw.chance(0.5) });
  },

  forward: { call: ops.linear, args: ({ x, weight, bias }) => [x, weight, ...(bias ? [bias] : [])] },
  backward: {
    call: ops.linearBackward,
    args: ({ gradOutput, x, weight, bias }) => [gradOutput, x, weight, { bias: bias !== undefined }],
  },
  reference: exact,
  /** The weight rounded once, activations rounded; gradients of parameters are f32. */
  rounded: (x, options, dtype) => {
    const round = (value: reference.Array64) => round64(value, dtype);
    const rounded: Named<reference.Array64> = { ...x, weight: round(x.weight) };
    const gradients = exact.backward(rounded, options);
    return {
      outputs: { output: round(exact.forward(rounded, options).output) },
      gradients: { ...gradients, x: round(gradients.x) },
    };
  },
  special: { forward: {}, backward: {} },

  arguments: {
    linear: {
      refuses: [
        ['linear: x has shape [], expected [..., K]', ShapeError, () => ops.linear(f32(), f32(4, 3))],
        [
          'linear: weight has shape [3, 4], expected [N, 3] (x has width 3)',
          ShapeError,
          () => ops.linear(f32(2, 3), f32(3, 4)),
        ],
        [
          'linear: bias has shape [3], expected [4] (weight has shape [4, 3])',
          ShapeError,
          () => ops.linear(f32(2, 3), f32(4, 3), f32(3)),
        ],
        [
          'linear: weight has dtype bf16, expected f32 (parameters are f32)',
          DTypeError,
          () => ops.linear(bf16(2, 3), bf16(4, 3)),
        ],
        [
          'linear: bias is null, expected a Tensor',
          ArgumentError,
          () => ops.linear(f32(2, 3), f32(4, 3), null as never),
        ],
        [
          'linearBackward: gradOutput has shape [2, 3], expected [2, 4] (the shape of the output)',
          ShapeError,
          () => ops.linearBackward(f32(2, 3), f32(2, 3), f32(4, 3)),
        ],
        [
          'linearBackward: bias is a Tensor, expected true or false',
          ArgumentError,
          () => ops.linearBackward(f32(2, 4), f32(2, 3), f32(4, 3), { bias: f32(4) as never }),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.linear(bf16(2, 5, 3), f32(4, 3), f32(4))).toMatchObject({ shape: [2, 5, 4], dtype: 'bf16' });
          const { gradX, gradWeight, gradBias } = ops.linearBackward(bf16(2, 5, 4), bf16(2, 5, 3), f32(4, 3));
          expect(gradX).toMatchObject({ shape: [2, 5, 3], dtype: 'bf16' });
          expect(gradWeight).toMatchObject({ shape: [4, 3], dtype: 'f32' });
          expect(gradBias).toMatchObject({ shape: [4], dtype: 'f32' });
          expect(ops.linearBackward(f32(4), f32(3), f32(4, 3), { bias: false })).not.toHaveProperty('gradBias');
        },
      },
    },
  },
});
