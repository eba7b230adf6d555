// What latent attention (MLA) joins to queries and keys: a part of every head, and one that all heads may share.
import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { activation, type Case, defineOp } from '../helpers/op.js';
import { activation as pairOf } from '../helpers/parity.js';
import * as reference from '../reference/index.js';

/** a [B, T, Ha, Da], b [B, T, Hb, Db] */
function concat([batch, time, headsA, widthA, headsB, widthB]: readonly number[], scale = 1): Case {
  return {
    label: `B=${batch} T=${time} Ha=${headsA} Da=${widthA} Hb=${headsB} Db=${widthB} x${scale}`,
    options: {},
    inputs: {
      a: activation([batch, time, headsA, widthA], scale),
      b: activation([batch, time, headsB, widthB], scale),
      gradOutput: activation([batch, time, Math.max(headsA, headsB), widthA + widthB], scale),
    },
  };
}

type Shaped = Record<'a' | 'b', { shape: readonly number[] }>;
const sizesOf = ({ a, b }: Shaped) => ({ widthA: a.shape[3], headsA: a.shape[2], headsB: b.shape[2] });

const a = () => f32(1, 3, 4, 5);

export default defineOp({
  name: 'concat',
  // B, T, Ha, Da, Hb, Db
  cases: [
    concat([1, 1, 1, 1, 1, 1]),
    concat([1, 1, 3, 5, 3, 7]),
    concat([2, 31, 4, 64, 1, 32]), // keys of latent attention: the rotary part is shared
    concat([2, 31, 1, 32, 4, 64]),
    concat([1, 64, 12, 40, 12, 24]),
    concat([1, 97, 1, 13, 6, 3]),
    concat([3, 2, 128, 8, 1, 160]),
    concat([2, 5, 1, 256, 128, 1]),
    concat([1, 257, 1, 8, 1, 112], 100),
    concat([1, 1023, 5, 16, 1, 12]), // one part of whole vectors, one not
  ],
  repeated: [concat([3, 67, 5, 24, 1, 16])], // the gradient of b is a sum over heads
  small: [concat([1, 4, 2, 8, 1, 8])],
  random: (draw) => {
    const heads = draw.size(12);
    const [headsA, headsB] = [draw.chance(0.3) ? 1 : heads, draw.chance(0.3) ? 1 : heads];
    return concat([1, draw.size(19), headsA, draw.size(37), headsB, draw.size(37)]);
  },

  forward: { call: ops.concat, args: ({ a, b }) => [a, b] },
  backward: { call: ops.concatBackward, args: ({ gradOutput, a, b }) => [gradOutput, sizesOf({ a, b })] },
  reference: {
    forward: ({ a, b }) => ({ output: reference.concat(a, b) }),
    backward: ({ gradOutput, a, b }) => {
      const { gradA, gradB } = reference.concatBackward(gradOutput, sizesOf({ a, b }));
      return { a: gradA, b: gradB };
    },
  },
  special: { forward: {}, backward: {} },

  arguments: {
    concat: {
      refuses: [
        ['concat: a is undefined, expected a Tensor', ArgumentError, () => ops.concat(undefined as never, a())],
        ['concat: a has shape [3, 4, 5], expected [B, T, Ha, Da]', ShapeError, () => ops.concat(f32(3, 4, 5), a())],
        [
          'concat: a has shape [1, 3, 4, 0], expected [B, T, Ha, Da] with every size at least 1',
          ShapeError,
          () => ops.concat(f32(1, 3, 4, 0), a()),
        ],
        [
          'concat: b has shape [1, 2, 4, 5], expected [1, 3, Hb, Db] (a has shape [1, 3, 4, 5])',
          ShapeError,
          () => ops.concat(a(), f32(1, 2, 4, 5)),
        ],
        [
          'concat: the number of heads of b is 2, expected 1 or 4 (a has 4 heads)',
          ShapeError,
          () => ops.concat(a(), f32(1, 3, 2, 5)),
        ],
        ['concat: a has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.concat(i32(1, 3, 4, 5), a())],
        [
          'concat: b has dtype bf16, expected f32 (a has dtype f32)',
          DTypeError,
          () => ops.concat(a(), bf16(1, 3, 4, 5)),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.concat(bf16(2, 3, 4, 5), bf16(2, 3, 1, 7))).toMatchObject({ shape: [2, 3, 4, 12], dtype: 'bf16' });
          expect(ops.concat(f32(2, 3, 1, 5), f32(2, 3, 6, 7))).toMatchObject({ shape: [2, 3, 6, 12], dtype: 'f32' });
        },
      },
    },
    concatBackward: {
      refuses: [
        [
          'concatBackward: gradOutput has shape [3, 4, 5], expected [B, T, H, Da+Db]',
          ShapeError,
          () => ops.concatBackward(f32(3, 4, 5), { widthA: 2 }),
        ],
        [
          'concatBackward: gradOutput has dtype i32, expected f32, bf16, f16',
          DTypeError,
          () => ops.concatBackward(i32(1, 3, 4, 5), { widthA: 2 }),
        ],
        [
          'concatBackward: widthA is undefined, expected an integer at least 1 and below 5',
          ArgumentError,
          () => ops.concatBackward(a(), undefined as never),
        ],
        [
          'concatBackward: widthA is 5, expected an integer at least 1 and below 5',
          ArgumentError,
          () => ops.concatBackward(a(), { widthA: 5 }),
        ],
        [
          'concatBackward: headsA is 0, expected an integer at least 1',
          ArgumentError,
          () => ops.concatBackward(a(), { widthA: 2, headsA: 0 }),
        ],
        [
          'concatBackward: headsB is 2, expected 1 or 4 (gradOutput has 4 heads)',
          ShapeError,
          () => ops.concatBackward(a(), { widthA: 2, headsB: 2 }),
        ],
        [
          'concatBackward: headsA and headsB are 1, expected one of them to be 4 (gradOutput has 4 heads)',
          ShapeError,
          () => ops.concatBackward(a(), { widthA: 2, headsA: 1, headsB: 1 }),
        ],
        [
          "concatBackward: there is no option 'widthB'; known: widthA, headsA, headsB",
          ArgumentError,
          () => ops.concatBackward(a(), { widthA: 2, widthB: 3 } as never),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          const all = ops.concatBackward(bf16(2, 3, 4, 12), { widthA: 5 });
          expect(all.gradA).toMatchObject({ shape: [2, 3, 4, 5], dtype: 'bf16' });
          expect(all.gradB).toMatchObject({ shape: [2, 3, 4, 7], dtype: 'bf16' });
          expect(ops.concatBackward(f32(2, 3, 4, 12), { widthA: 5, headsB: 1 }).gradB.shape).toEqual([2, 3, 1, 7]);
          expect(ops.concatBackward(f32(2, 3, 4, 12), { widthA: 5, headsA: 1 }).gradA.shape).toEqual([2, 3, 1, 5]);
        },
      },
    },
  },

  extra: (dtype) => {
    it('copies, to the bit, and gives a tensor of all heads its gradient so', async () => {
      const [first, second] = [pairOf([2, 3, 4, 5], 1, dtype), pairOf([2, 3, 4, 3], 2, dtype)];
      const { gradA, gradB } = ops.concatBackward(ops.concat(first.tensor, second.tensor), { widthA: 5 });
      expect(await gradA.raw()).toEqual(await first.tensor.raw());
      expect(await gradB.raw()).toEqual(await second.tensor.raw());
    });
  },
});
