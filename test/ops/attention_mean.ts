import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError, type Tensor } from '../../lib/index.js';
import { bf16, f32 } from '../api/helpers.js';
import {
  type AttentionOptions,
  type AttentionSizes,
  attentionOf,
  hugeScores,
  scales,
} from '../helpers/attention_shapes.js';
import { type Case, defineOp } from '../helpers/op.js';
import { dispose, problemOf } from '../helpers/op_run.js';
import { timeout, valuesOf } from '../helpers/parity.js';
import * as reference from '../reference/index.js';

interface Options extends AttentionOptions {
  heads: number; // H, r of which share an output
}

/** `heads`: [H, r, Hkv] */
type Sizes = Omit<AttentionSizes, 'heads'> & { heads: readonly [number, number, number]; sample?: boolean };

function mean({ heads: [heads, groups, keyHeads], sample, ...sizes }: Sizes): Case<Options> {
  const { label, options, inputs } = attentionOf({ ...sizes, heads: [heads * groups, keyHeads] });
  const { q, k, v } = inputs;
  return { label: `${label} r=${groups}`, options: { ...options, heads }, seed: 901, sample, inputs: { q, k, v } };
}

const huge = ({ heads: [heads, groups, keyHeads], scale, ...sizes }: Sizes & { scale: number }): Case<Options> => {
  const { label, options, inputs, dtypes } = hugeScores({ ...sizes, scale, heads: [heads * groups, keyHeads] });
  const { q, k, v } = inputs;
  return { label: `${label} r=${groups}`, options: { ...options, heads }, dtypes, inputs: { q, k, v } };
};

const masked = mean({ time: [70, 33], heads: [4, 3, 12], width: 24 });
const six = () => f32(1, 3, 6, 4);

const attentionMean = defineOp<Options>({
  name: 'attentionMean',
  cases: [
    mean({ time: 1, heads: [1, 1, 1], width: 8 }), // one row, one head
    mean({ time: [1, 97], heads: [2, 3, 6], width: [96, 64] }), // one new token, all keys: the groups side by side on CUDA
    mean({ batch: 2, time: 70, heads: [2, 1, 2], width: [96, 64] }),
    mean({ time: 128, heads: [4, 3, 12], width: [96, 64] }), // the widths of the reference size
    mean({ time: 97, heads: [3, 2, 6], width: [24, 40], causal: false, sample: true }),
    mean({ batch: 2, time: [31, 97], heads: [2, 3, 6], width: [24, 40] }), // Tq < Tk
    mean({ time: [97, 31], heads: [3, 3, 9], width: [24, 40] }), // 66 fully masked rows, whole tiles among them
    mean({ time: [130, 64], heads: [2, 2, 4], width: [96, 64], causal: false }),
    mean({ time: 65, heads: [3, 2, 6], width: [160, 112] }),
    mean({ time: [33, 70], heads: [3, 3, 9], width: [160, 112], causal: false }),
    mean({ time: 65, heads: [3, 2, 6], width: 256 }),
    mean({ time: [70, 33], heads: [4, 3, 12], width: [13, 7], sample: true }), // widths that fill no vector, masked rows
    mean({ batch: 2, time: 70, heads: [3, 3, 9], width: [8, 120] }), // in tf32 on CUDA the result outgrows its operands
    mean({ time: 97, heads: [3, 4, 6], width: [40, 24] }), // GQA: neighbours share k and v, across groups
    mean({ time: 64, heads: [4, 3, 12], width: 24, scale: -0.3 }),
    mean({ time: 33, heads: [2, 2, 2], width: 24, scale: 0 }),
    huge({ time: [33, 70], heads: [2, 2, 4], width: [2, 8], scale: 10 }),
    huge({ time: 70, heads: [2, 3, 6], width: [2, 24], scale: -1e5, causal: false }),
  ],
  repeated: [mean({ batch: 2, time: 97, heads: [2, 3, 6], width: [40, 24] })],
  small: [mean({ time: 4, heads: [2, 2, 4], width: 8 })],
  random: (draw) => {
    const [heads, groups] = [1 + draw.below(3), 1 + draw.below(3)];
    return mean({
      time: [draw.size(70), draw.size(70)],
      heads: [heads, groups, draw.pick([heads * groups, 1])],
      width: [draw.size(37), draw.size(37)],
      causal: draw.chance(0.5),
      ...(draw.chance(0.7) && { scale: draw.pick(scales) }),
    });
  },

  forward: { call: ops.attentionMean, args: ({ q, k, v }, options) => [q, k, v, options] },
  naive: {
    forward: {
      call: (q: Tensor, k: Tensor, v: Tensor, { heads, ...options }: Options) =>
        ops.aggregate(ops.naive.attention(q, k, v, options).output, heads),
      args: ({ q, k, v }, options) => [q, k, v, options],
    },
  },
  reference: {
    forward: ({ q, k, v }, { heads, ...options }) => ({
      output: reference.aggregate(reference.attention(q, k, v, options).output, heads),
    }),
  },
  /** Once more, the same bits. */
  also: async ({ q, k, v }, options, { outputs }) => {
    expect(await valuesOf(ops.attentionMean(q, k, v, options))).toEqual(outputs.output);
  },

  noFixtures: "attention's and a mean",
  arguments: {
    attentionMean: {
      refuses: [
        [
          'attentionMean: q is undefined, expected a Tensor',
          ArgumentError,
          () => ops.attentionMean(undefined as never, six(), six(), { heads: 2 }),
        ],
        [
          'attentionMean: k has shape [1, 3, 6, 5], expected [1, 3, Hkv, 4] (q has width 4)',
          ShapeError,
          () => ops.attentionMean(six(), f32(1, 3, 6, 5), six(), { heads: 2 }),
        ],
        [
          'attentionMean: v has dtype bf16, expected f32 (q has dtype f32)',
          DTypeError,
          () => ops.attentionMean(six(), six(), bf16(1, 3, 6, 4), { heads: 2 }),
        ],
        [
          'attentionMean: the number of heads of q is 6, expected a multiple of 4 (heads is 4)',
          ShapeError,
          () => ops.attentionMean(six(), six(), six(), { heads: 4 }),
        ],
        [
          'attentionMean: heads is 0, expected an integer at least 1',
          ArgumentError,
          () => ops.attentionMean(six(), six(), six(), { heads: 0 }),
        ],
        [
          'attentionMean: heads is undefined, expected an integer at least 1',
          ArgumentError,
          () => ops.attentionMean(six(), six(), six(), undefined as never),
        ],
        [
          'attentionMean: scale is NaN, expected a finite number',
          ArgumentError,
          () => ops.attentionMean(six(), six(), six(), { heads: 2, scale: Number.NaN }),
        ],
        [
          "attentionMean: there is no option 'gradDtype'; known: causal, scale, heads",
          ArgumentError,
          () => ops.attentionMean(six(), six(), six(), { heads: 2, gradDtype: 'f32' } as never),
        ],
      ],
      tests: {
        'shape of the result': () => {
          const output = ops.attentionMean(bf16(2, 5, 6, 8), bf16(2, 7, 3, 8), bf16(2, 7, 3, 4), { heads: 2 });
          expect(output).toMatchObject({ shape: [2, 5, 8], dtype: 'bf16' });
        },
      },
    },
  },

  extra: (dtype) => {
    it('a row that sees no key is exactly 0', { timeout }, async () => {
      const [timeQ, timeK, heads, width] = [70, 33, 4, 24];
      const problem = problemOf(attentionMean, masked, dtype);
      const { q, k, v } = problem.tensors;
      const { data } = await valuesOf(ops.attentionMean(q, k, v, { heads }));
      const isZero = (value: number) => value === 0;
      const values = Array.from(data);
      const rows = Array.from({ length: timeQ }, (_, i) => values.slice(i * heads * width, (i + 1) * heads * width));
      expect(rows.map((row) => row.every(isZero))).toEqual(rows.map((_, i) => i < timeQ - timeK));
      dispose(problem);
    });
  },
});

export default attentionMean;
