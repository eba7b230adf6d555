import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { activation, type Case, defineOp } from '../helpers/op.js';
import * as reference from '../reference/index.js';

interface Options {
  heads: number; // H
  simHeads: number; // r * H
}

/** x [B, T, r*H, D] */
function aggregate([batch, time, heads, groups, width]: readonly number[], scale = 1): Case<Options> {
  const simHeads = groups * heads;
  return {
    label: `B=${batch} T=${time} H=${heads} r=${groups} D=${width} x${scale}`,
    options: { heads, simHeads },
    inputs: {
      x: activation([batch, time, simHeads, width], scale),
      gradOutput: activation([batch, time, heads * width], scale),
    },
  };
}

export default defineOp<Options>({
  name: 'aggregate',
  // B, T, H, r, D
  cases: [
    aggregate([1, 1, 1, 1, 8]),
    aggregate([1, 1, 1, 3, 1]),
    aggregate([2, 2, 12, 3, 64]),
    aggregate([1, 31, 4, 5, 40]),
    aggregate([1, 64, 3, 1, 24]),
    aggregate([2, 97, 3, 2, 5]),
    aggregate([1, 128, 1, 6, 112]),
    aggregate([1, 257, 2, 7, 8], 100),
    aggregate([1, 1023, 1, 2, 8]),
  ],
  repeated: [aggregate([3, 67, 1, 3, 40]), aggregate([3, 67, 3, 3, 40])],
  small: [aggregate([2, 3, 2, 3, 4])],
  random: (draw) => aggregate([1, draw.size(), 1 + draw.below(3), 1 + draw.below(3), draw.size()]),

  forward: { call: ops.aggregate, args: ({ x }, { heads }) => [x, heads] },
  backward: {
    call: ops.aggregateBackward,
    args: ({ gradOutput }, { heads, simHeads }) => [gradOutput, heads, simHeads],
  },
  reference: {
    forward: ({ x }, { heads }) => ({ output: reference.aggregate(x, heads) }),
    backward: ({ gradOutput }, { heads, simHeads }) => ({
      x: reference.aggregateBackward(gradOutput, heads, simHeads),
    }),
  },
  special: { forward: {}, backward: {} },

  noFixtures: 'those of SasAttention go through it',
  arguments: {
    aggregate: {
      refuses: [
        ['aggregate: x has shape [3, 6, 4], expected [B, T, r*H, D]', ShapeError, () => ops.aggregate(f32(3, 6, 4), 2)],
        [
          'aggregate: the number of heads of x is 6, expected a multiple of 4 (heads is 4)',
          ShapeError,
          () => ops.aggregate(f32(1, 3, 6, 4), 4),
        ],
        [
          'aggregate: heads is 0, expected an integer at least 1',
          ArgumentError,
          () => ops.aggregate(f32(1, 3, 6, 4), 0),
        ],
        [
          'aggregate: heads is undefined, expected an integer at least 1',
          ArgumentError,
          () => ops.aggregate(f32(1, 3, 6, 4), undefined as never),
        ],
        ['aggregate: x has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.aggregate(i32(1, 3, 6, 4), 2)],
        [
          'aggregateBackward: simHeads is 5, expected a multiple of 2 (heads is 2)',
          ShapeError,
          () => ops.aggregateBackward(f32(1, 3, 8), 2, 5),
        ],
        [
          'aggregateBackward: the width of gradOutput is 9, expected a multiple of 2 (heads is 2)',
          ShapeError,
          () => ops.aggregateBackward(f32(1, 3, 9), 2, 6),
        ],
        [
          'aggregateBackward: gradOutput has shape [1, 3, 2, 4], expected [B, T, H*D]',
          ShapeError,
          () => ops.aggregateBackward(f32(1, 3, 2, 4), 2, 6),
        ],
        [
          'aggregateBackward: shape [1, 3, 4503599627370496, 4] of f32 is too large, expected fewer than 2^48 bytes',
          ShapeError,
          () => ops.aggregateBackward(f32(1, 3, 8), 2, 2 ** 52),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.aggregate(bf16(1, 3, 6, 4), 2)).toMatchObject({ shape: [1, 3, 8], dtype: 'bf16' });
          expect(ops.aggregateBackward(f32(1, 3, 8), 2, 6)).toMatchObject({ shape: [1, 3, 6, 4], dtype: 'f32' });
        },
      },
    },
  },

  referenceTests: () => {
    it('averages the groups of heads', () => {
      const x = reference.array64([1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 4, 2]);
      expect([...reference.aggregate(x, 2).data]).toEqual([3, 4, 5, 6]);
    });
  },
});
