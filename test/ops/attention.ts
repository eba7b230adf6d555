import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import {
  type AttentionOptions,
  type AttentionSizes,
  attentionOf,
  hugeScores,
  scales,
} from '../helpers/attention_shapes.js';
import {
  activation,
  type Calls,
  type Case,
  defineOp,
  type Named,
  type Op,
  type Special,
  smallerOnEmulator,
  wideTypes,
} from '../helpers/op.js';
import { compare, digest, dispose, problemOf, run, truthOf } from '../helpers/op_run.js';
import { emulated, expectWithinLimits, pair, takeResults, timeout, valuesOf } from '../helpers/parity.js';
import { type FloatType, normal } from '../helpers/random.js';
import * as reference from '../reference/index.js';
import { roundedAttention } from '../reference/rounded_pipeline.js';

/** The emulated GPU takes a minute for these: there they have fewer of the same tiles, and the same tails. */
const shorter = (sizes: AttentionSizes, less: Partial<AttentionSizes>) =>
  smallerOnEmulator(attentionOf(sizes), attentionOf({ ...sizes, ...less }));

/** x100: scores overflow f16. */
const largeInputs = (sizes: AttentionSizes): Case<AttentionOptions> => {
  const large = (more: Partial<AttentionSizes>): Case<AttentionOptions> => ({
    ...attentionOf({ ...sizes, ...more, inputScale: 100 }),
    overflows: ['f16'],
  });
  return smallerOnEmulator(large({}), large({ time: 31 }));
};
/** Softmax saturates; enough rows, as for large inputs. */
const largeScale = (scale: number, causal = true) =>
  shorter({ batch: 8, time: 64, heads: 36, width: [24, 8], scale, causal }, { batch: 2, time: 31 });
const hugeValues = (sizes: AttentionSizes, size: number): Case<AttentionOptions> => {
  const { label, inputs, ...item } = attentionOf(sizes);
  const v = activation(inputs.v.shape, size);
  return { ...item, label: `${label} v x${size}`, dtypes: wideTypes, inputs: { ...inputs, v } };
};
const sample = (sizes: AttentionSizes) => ({ ...attentionOf(sizes), sample: true });

const cases: Case<AttentionOptions>[] = [
  attentionOf({ time: 1, heads: 1, width: 8 }), // B*T = 1, one head
  attentionOf({ time: 1, heads: 1, width: [8, 24], causal: false }),
  attentionOf({ batch: 2, time: 2, heads: 6, width: [24, 40] }),
  attentionOf({ time: 31, heads: 20, width: [40, 24], causal: false }),
  sample({ time: 31, heads: 36, width: [96, 64] }),
  attentionOf({ time: 64, heads: 12, width: [96, 64] }),
  attentionOf({ time: 97, heads: [6, 2], width: [112, 96] }), // GQA
  attentionOf({ time: 128, heads: [4, 1], width: [96, 160], causal: false }), // MQA
  attentionOf({ time: 128, heads: 1, width: [160, 112] }),
  attentionOf({ time: 257, heads: 6, width: [24, 8] }),
  attentionOf({ time: 257, heads: 1, width: [160, 112], causal: false }),
  shorter({ time: 1023, heads: 2, width: [8, 24] }, { time: 319 }),
  shorter({ time: 1023, heads: 1, width: [24, 8], causal: false }, { time: 319 }),
  sample({ batch: 2, time: [1, 257], heads: [6, 2], width: [40, 24] }), // one new token, all keys
  attentionOf({ time: [31, 97], heads: 4, width: 24 }), // Tq < Tk
  attentionOf({ time: [64, 257], heads: 2, width: 8, causal: false }),
  sample({ time: [128, 64], heads: 3, width: [24, 40] }), // Tq > Tk: 64 fully masked rows
  attentionOf({ time: [97, 1], heads: [2, 1], width: 8 }), // 96 fully masked rows, the last one sees a single key
  attentionOf({ batch: 2, time: [128, 31], heads: 2, width: [40, 8], causal: false }),
  attentionOf({ time: 97, heads: 3, width: 24, scale: 0.5 }),
  attentionOf({ time: [64, 97], heads: [4, 2], width: [24, 40], scale: -0.3 }),
  attentionOf({ time: [97, 64], heads: 3, width: 24, scale: -0.3, causal: false }),
  attentionOf({ time: [33, 70], heads: [4, 2], width: [40, 24], scale: 0 }),
  attentionOf({ time: 97, heads: 2, width: [96, 64], scale: 1e-3 }),
  hugeScores({ time: [33, 70], heads: [4, 2], width: [2, 8], scale: 10 }),
  hugeScores({ time: 97, heads: 2, width: [2, 24], scale: -1e5 }),
  hugeScores({ time: [64, 33], heads: 2, width: [8, 8], scale: 1e20, causal: false }),
  hugeValues({ time: [31, 64], heads: [4, 2], width: [24, 40] }, 1e36),
  // Of many keys, with scores far apart: the one that weights are measured from changes from block to block.
  attentionOf({ time: [40, 200], heads: 3, width: [8, 24], scale: 4, causal: false }),
  largeScale(30),
  largeScale(-30, false),
  // Inputs x100 saturate: only the rare rows whose two best scores are close have an error or a gradient at all. There must
  // be enough of them (rows, and width for scores without heavy tails), or chance decides between the kernel and the naive one.
  largeInputs({ batch: 8, time: 64, heads: 36, width: [24, 8] }),
  largeInputs({ batch: 8, time: 64, heads: 36, width: [24, 40], causal: false }),
];

const fused: Calls<AttentionOptions> = {
  forward: { call: ops.attention, args: ({ q, k, v }, options) => [q, k, v, options] },
  backward: {
    call: ops.attentionBackward,
    args: ({ gradOutput, q, k, v }, options, { output, logSumExp }) => [
      gradOutput,
      { q, k, v, output, logSumExp },
      options,
    ],
  },
};
const naive: NonNullable<Op<AttentionOptions>['naive']> = {
  name: 'naive.attention',
  forward: { ...fused.forward, call: ops.naive.attention },
  backward: fused.backward && { ...fused.backward, call: ops.naive.attentionBackward },
};

const backward = (omitMean: boolean) => (x: Named<reference.Array64>, options: AttentionOptions) => {
  const { gradQ, gradK, gradV } = reference.attentionBackward(x.gradOutput, x.q, x.k, x.v, { ...options, omitMean });
  return { q: gradQ, k: gradK, v: gradV };
};

const hidden: Special<AttentionOptions> = {
  exception: 'a masked key times its weight of 0 is NaN where the product is computed',
  excepted: ({ causal }) => causal,
};

const x = () => f32(1, 3, 2, 4);

const forwardArguments = (op: string, attention: typeof ops.attention): Op['arguments'][string] => ({
  refuses: [
    [`${op}: q is undefined, expected a Tensor`, ArgumentError, () => attention(undefined as never, x(), x())],
    [
      `${op}: k is a Float32Array, expected a Tensor`,
      ArgumentError,
      () => attention(x(), new Float32Array(1) as never, x()),
    ],
    [`${op}: q has shape [3, 2, 4], expected [B, Tq, Hq, Dqk]`, ShapeError, () => attention(f32(3, 2, 4), x(), x())],
    [
      `${op}: q has shape [1, 0, 2, 4], expected [B, Tq, Hq, Dqk] with every size at least 1`,
      ShapeError,
      () => attention(f32(1, 0, 2, 4), x(), x()),
    ],
    [
      `${op}: k has shape [2, 64, 12, 48], expected [2, 64, Hkv, 96] (q has width 96)`,
      ShapeError,
      () => attention(f32(2, 64, 12, 96), f32(2, 64, 12, 48), f32(2, 64, 12, 64)),
    ],
    [
      `${op}: v has shape [1, 3, 1, 4], expected [1, 3, 2, Dv] (k has shape [1, 3, 2, 4])`,
      ShapeError,
      () => attention(x(), x(), f32(1, 3, 1, 4)),
    ],
    [
      `${op}: the number of heads of q is 3, expected a multiple of 2 (k and v have 2 heads)`,
      ShapeError,
      () => attention(f32(1, 3, 3, 4), x(), x()),
    ],
    [`${op}: q has dtype i32, expected f32, bf16, f16`, DTypeError, () => attention(i32(1, 3, 2, 4), x(), x())],
    [
      `${op}: v has dtype bf16, expected f32 (q has dtype f32)`,
      DTypeError,
      () => attention(x(), x(), bf16(1, 3, 2, 4)),
    ],
    [
      `${op}: causal is 1, expected true or false`,
      ArgumentError,
      () => attention(x(), x(), x(), { causal: 1 as never }),
    ],
    [
      `${op}: scale is NaN, expected a finite number`,
      ArgumentError,
      () => attention(x(), x(), x(), { scale: Number.NaN }),
    ],
    [
      `${op}: there is no option 'mask'; known: causal, scale`,
      ArgumentError,
      () => attention(x(), x(), x(), { mask: x() } as never),
    ],
    [`${op}: options is null, expected an object`, ArgumentError, () => attention(x(), x(), x(), null as never)],
  ],
  tests: {
    'shapes of the results': () => {
      const { output, logSumExp } = attention(bf16(2, 5, 6, 8), bf16(2, 7, 3, 8), bf16(2, 7, 3, 4));
      expect(output).toMatchObject({ shape: [2, 5, 6, 4], dtype: 'bf16' });
      expect(logSumExp).toMatchObject({ shape: [2, 6, 5], dtype: 'f32' });
    },
  },
});

const saved = () => ({ q: x(), k: x(), v: x(), output: x(), logSumExp: f32(1, 2, 3) });

const backwardArguments = (op: string, attentionBackward: typeof ops.attentionBackward): Op['arguments'][string] => ({
  refuses: [
    [`${op}: saved is undefined, expected an object`, ArgumentError, () => attentionBackward(x(), undefined as never)],
    [
      `${op}: logSumExp is undefined, expected a Tensor`,
      ArgumentError,
      () => attentionBackward(x(), { ...saved(), logSumExp: undefined as never }),
    ],
    [
      `${op}: gradOutput has shape [1, 3, 8], expected [1, 3, 2, 4] (the shape of the output)`,
      ShapeError,
      () => attentionBackward(f32(1, 3, 8), saved()),
    ],
    [
      `${op}: output has shape [1, 3, 2, 5], expected [1, 3, 2, 4] (the shape of the output)`,
      ShapeError,
      () => attentionBackward(x(), { ...saved(), output: f32(1, 3, 2, 5) }),
    ],
    [
      `${op}: gradOutput has dtype bf16, expected f32 (q has dtype f32)`,
      DTypeError,
      () => attentionBackward(bf16(1, 3, 2, 4), saved()),
    ],
    [
      `${op}: logSumExp has shape [1, 3, 2], expected [1, 2, 3] (the forward returned it)`,
      ShapeError,
      () => attentionBackward(x(), { ...saved(), logSumExp: f32(1, 3, 2) }),
    ],
    [
      `${op}: logSumExp has dtype bf16, expected f32`,
      DTypeError,
      () => attentionBackward(x(), { ...saved(), logSumExp: bf16(1, 2, 3) }),
    ],
  ],
  tests: {
    'shapes of the results': () => {
      const [q, k, v] = [f32(2, 5, 6, 8), f32(2, 7, 3, 8), f32(2, 7, 3, 4)];
      const grads = attentionBackward(f32(2, 5, 6, 4), { q, k, v, output: f32(2, 5, 6, 4), logSumExp: f32(2, 6, 5) });
      expect(grads.gradQ.shape).toEqual(q.shape);
      expect(grads.gradK.shape).toEqual(k.shape);
      expect(grads.gradV.shape).toEqual(v.shape);
    },
  },
});

/** Races show in a sum that another thread adds to now and then. */
function sameBitsOften(dtype: FloatType): void {
  const runs = emulated ? 10 : 250;
  it(`${runs} runs of attentionBackward give the same bits`, { timeout }, async () => {
    const item = attentionOf({ batch: 2, time: 97, heads: [6, 2], width: [24, 40], seed: 6 });
    const problem = problemOf(attention, item, dtype);
    const { gradOutput, q, k, v } = problem.tensors;
    const saved = { q, k, v, ...ops.attention(q, k, v) };
    const hashes = new Set<string>();
    for (let i = 0; i < runs; i++) {
      hashes.add(await digest({ outputs: {}, gradients: { ...ops.attentionBackward(gradOutput, saved) } }));
    }
    expect(hashes.size).toBe(1);
    dispose(problem);
  });
}

const attention: Op = defineOp<AttentionOptions>({
  name: 'attention',
  cases,
  // Many tiles, an uneven number of heads, masked rows; the gradients of k and v are sums over queries and heads.
  repeated: [
    shorter({ batch: 2, time: 193, heads: [6, 2], width: [40, 24] }, { time: 97 }),
    attentionOf({ time: [97, 64], heads: 3, width: [24, 40] }),
    shorter({ time: [70, 131], heads: [5, 1], width: [96, 64], causal: false }, { time: [37, 67] }),
  ],
  small: [true, false].map((causal) => attentionOf({ time: 4, heads: 2, width: 8, causal })),
  random: (draw) => {
    const keyHeads = 1 + draw.below(3);
    return attentionOf({
      batch: 1 + draw.below(2),
      time: [draw.size(70), draw.size(70)],
      heads: [keyHeads * (1 + draw.below(3)), keyHeads],
      width: [draw.size(37), draw.size(37)],
      causal: draw.chance(0.5),
      ...(draw.chance(0.7) && { scale: draw.pick(scales) }),
    });
  },
  ...fused,
  naive,
  f32Outputs: ['logSumExp'],
  reference: {
    forward: ({ q, k, v }, options) => ({ ...reference.attention(q, k, v, options) }),
    backward: backward(false),
    cancelling: backward(true), // rows that see a single key have no gradient of q and k
  },
  rounded: ({ gradOutput, q, k, v }, options, dtype) => {
    const { output, logSumExp, gradients } = roundedAttention(gradOutput, q, k, v, dtype, options);
    const { gradQ, gradK, gradV } = gradients;
    return { outputs: { output, logSumExp }, gradients: { q: gradQ, k: gradK, v: gradV } };
  },
  special: {
    forward: hidden,
    naive: hidden,
    backward: { exception: 'infinite gradients meet in the difference from their mean' },
  },
  arguments: {
    attention: forwardArguments('attention', ops.attention),
    'naive.attention': forwardArguments('naive.attention', ops.naive.attention),
    attentionBackward: backwardArguments('attentionBackward', ops.attentionBackward),
    'gradDtype of attentionBackward': {
      refuses: [
        [
          'attentionBackward: gradDtype is f16, expected bf16 (the dtype of q) or f32',
          DTypeError,
          () => {
            const half = () => bf16(1, 3, 2, 4);
            const saved = { q: half(), k: half(), v: half(), output: half(), logSumExp: f32(1, 2, 3) };
            return ops.attentionBackward(half(), saved, { gradDtype: 'f16' });
          },
        ],
        [
          "naive.attentionBackward: there is no option 'gradDtype'; known: causal, scale",
          ArgumentError,
          () => ops.naive.attentionBackward(x(), saved(), { gradDtype: 'f32' } as never),
        ],
      ],
    },
    'naive.attentionBackward': backwardArguments('naive.attentionBackward', ops.naive.attentionBackward),
  },

  extra: (dtype) => {
    it.each(['fused', 'naive'] as const)('%s: a row that sees no key is exactly 0', { timeout }, async (which) => {
      const [timeQ, timeK, heads, width] = [70, 33, 2, 24];
      const problem = problemOf(attention, attentionOf({ time: [timeQ, timeK], heads, width, seed: 301 }), dtype);
      const calls = which === 'fused' ? attention : (attention.naive as Calls<unknown>);
      const { outputs, gradients } = await takeResults(run(calls, problem));
      const hidden = (timeQ - timeK) * heads * width;
      const isZero = (value: number) => value === 0;
      expect(Array.from(outputs.output.data).slice(0, hidden).every(isZero)).toBe(true);
      expect(Array.from(outputs.output.data).slice(hidden).some(isZero)).toBe(false);
      expect(Array.from(gradients.q.data).slice(0, hidden).every(isZero)).toBe(true);
      for (let head = 0; head < heads; head++) {
        const row = Array.from(outputs.logSumExp.data).slice(head * timeQ, (head + 1) * timeQ);
        expect(row.map((value) => value === Number.NEGATIVE_INFINITY)).toEqual(row.map((_, i) => i < timeQ - timeK));
      }
      dispose(problem);
    });

    it.each([
      [1e5, 1e10],
      [1e7, 1e14],
    ])('q = k = [%d]: the only key has all the weight', { timeout }, async (value, score) => {
      if (dtype !== 'f32') return;
      const [x, minus, v] = [value, -value, 1].map((each) => pair(Float32Array.of(each), [1, 1, 1, 1], dtype).tensor);
      const results = [
        ops.attention(x, x, v, { scale: 1 }),
        ops.naive.attention(x, x, v, { scale: 1 }),
        ops.attention(x, minus, v, { scale: -1 }),
      ];
      for (const { output, logSumExp } of results) {
        expect([...(await output.data())]).toEqual([1]);
        expect(Math.abs((await logSumExp.data())[0] / score - 1)).toBeLessThanOrEqual(2e-7);
      }
      expect([...(await ops.attentionMean(x, x, v, { heads: 1, scale: 1 }).data())]).toEqual([1]);
    });

    it.each(['fused', 'naive'] as const)('%s: scores of -Infinity, and of NaN', { timeout }, async (which) => {
      const forward = which === 'fused' ? ops.attention : ops.naive.attention;
      const backward = which === 'fused' ? ops.attentionBackward : ops.naive.attentionBackward;
      // Queries -Infinity, NaN and 1, keys 1 and 2.
      const q = pair(Float32Array.of(Number.NEGATIVE_INFINITY, Number.NaN, 1), [1, 3, 1, 1], dtype).tensor;
      const k = pair(Float32Array.of(1, 2), [1, 2, 1, 1], dtype).tensor;
      const v = pair(Float32Array.of(3, 5), [1, 2, 1, 1], dtype).tensor;
      const { output, logSumExp } = forward(q, k, v, { causal: false, scale: 1 });
      const [none, lost, plain] = await output.data();
      expect([none, lost]).toEqual([0, Number.NaN]);
      expect(plain).toBeCloseTo((3 + 5 * Math.E) / (1 + Math.E), 1);
      const logs = await logSumExp.data();
      expect([...logs.slice(0, 2)]).toEqual([Number.NEGATIVE_INFINITY, Number.NaN]);
      // Alone, the first query leaves the values without a gradient; of keys it is 0 times infinity.
      const first = pair(Float32Array.of(Number.NEGATIVE_INFINITY), [1, 1, 1, 1], dtype).tensor;
      const saved = { q: first, k, v, ...forward(first, k, v, { causal: false, scale: 1 }) };
      const grads = backward(pair(Float32Array.of(1), [1, 1, 1, 1], dtype).tensor, saved, { causal: false, scale: 1 });
      expect([...(await grads.gradV.data())].map(Math.abs)).toEqual([0, 0]);
      expect([...(await grads.gradQ.data())].map(Math.abs)).toEqual([0]);
    });

    it('causal with scale 1/sqrt(Dqk) is the default', async () => {
      const problem = problemOf(attention, attentionOf({ time: 33, heads: 2, width: [24, 8], seed: 401 }), dtype);
      const { q, k, v } = problem.tensors;
      const plain = await valuesOf(ops.attention(q, k, v).output);
      const explicit = await valuesOf(ops.attention(q, k, v, { causal: true, scale: 1 / Math.sqrt(24) }).output);
      expect(plain).toEqual(explicit);
      dispose(problem);
    });

    it('gradients in f32 of inputs in any dtype', { timeout }, async () => {
      const item = attentionOf({ time: [33, 70], heads: [4, 2], width: [24, 8], seed: 501 });
      const problem = problemOf(attention, item, dtype);
      const truth = truthOf(problem);
      const { naiveErrors } = await compare(problem, truth, run(attention, problem));
      const { gradOutput, q, k, v } = problem.tensors;
      const saved = { q, k, v, ...ops.attention(q, k, v, { causal: true }) };
      const { gradQ, gradK, gradV } = ops.attentionBackward(gradOutput, saved, { causal: true, gradDtype: 'f32' });
      const results = { outputs: {}, gradients: { q: gradQ, k: gradK, v: gradV } };
      for (const gradient of Object.values(results.gradients)) expect(gradient.dtype).toBe('f32');
      const only = { ...truth, outputs: {} };
      expectWithinLimits(`attention ${dtype}`, item.label, dtype, await takeResults(results), only, naiveErrors);
      dispose(problem);
    });

    if (dtype !== 'f16') sameBitsOften(dtype);

    if (dtype !== 'f32') return;
    // Each weight by itself: a relative error over whole tensors would not show the last term of the exponential's
    // polynomial, which is 2.4e-6 at most.
    it.each(['fused', 'naive'] as const)('%s: weights are exponentials to the last digits', async (which) => {
      const forward = which === 'fused' ? ops.attention : ops.naive.attention;
      const steps = 1999;
      const falling = Float32Array.from({ length: steps }, (_, i) => (-4 * i) / (steps - 1));
      const q = pair(falling, [1, steps, 1, 1], 'f32').tensor;
      const [k, v] = [
        pair(Float32Array.of(0, 1), [1, 2, 1, 1], 'f32').tensor,
        pair(Float32Array.of(0, 1), [1, 2, 1, 1], 'f32').tensor,
      ];
      const { data } = await valuesOf(forward(q, k, v, { causal: false, scale: 1 }).output);
      const errors = Array.from(data).map((weight, i) =>
        Math.abs((weight * (1 + Math.exp(falling[i]))) / Math.exp(falling[i]) - 1),
      );
      expect(Math.max(...errors)).toBeLessThanOrEqual(1.2e-6);
    });

    it('keeps f32 accuracy where every key has the same score', async () => {
      // Softmax is uniform: the output is the mean of the values seen so far, which here is known in closed form.
      const time = 1023;
      const ones = pair(new Float32Array(time).fill(1), [1, time, 1, 1], 'f32').tensor;
      const rising = Float32Array.from({ length: time }, (_, i) => i);
      const values = pair(rising, [1, time, 1, 1], 'f32').tensor;
      const { data } = await valuesOf(ops.attention(ones, ones, values).output);
      const worst = Math.max(...Array.from(data).map((value, i) => Math.abs(value - i / 2) / (1 + i / 2)));
      expect(worst).toBeLessThanOrEqual(2e-6);
    });
  },

  referenceTests: () => {
    it('outputs 0, logSumExp -inf and zero gradients for a query that sees no key', () => {
      const random64 = (shape: number[], seed: number) => reference.array64(normal(shape, seed), shape);
      const [q, k, v] = [random64([1, 5, 1, 3], 1), random64([1, 2, 1, 3], 2), random64([1, 2, 1, 4], 3)];
      const { output, logSumExp } = reference.attention(q, k, v);
      expect([...output.data.subarray(0, 12)]).toEqual(new Array(12).fill(0));
      expect([...logSumExp.data.subarray(0, 4)].map(Number.isFinite)).toEqual([false, false, false, true]);
      const { gradQ } = reference.attentionBackward(random64([1, 5, 1, 4], 4), q, k, v);
      expect([...gradQ.data.subarray(0, 9)]).toEqual(new Array(9).fill(0));
    });
  },
});

export default attention;
