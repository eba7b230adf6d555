import { afterAll, describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import {
  type AttentionShape,
  attentionEmulated,
  attentionName,
  attentionProblem,
  attentionTruth,
  disposeAttention,
  runAttention,
  widened,
} from '../helpers/attention_cases.js';
import { summary } from '../helpers/compare.js';
import { errorsOf, expectWithinLimits, floatTypes, pair, takeResults, timeout, valuesOf } from '../helpers/parity.js';

/** [B, Tq, Tk, Hq, Hkv, Dqk, Dv, causal, options] */
const shapes: [
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  boolean,
  { scale?: number; inputScale?: number }?,
][] = [
  [1, 1, 1, 1, 1, 8, 8, true], // B*T = 1, one head
  [1, 1, 1, 1, 1, 8, 24, false],
  [2, 2, 2, 6, 6, 24, 40, true],
  [1, 31, 31, 20, 20, 40, 24, false],
  [1, 31, 31, 36, 36, 96, 64, true],
  [1, 64, 64, 12, 12, 96, 64, true],
  [1, 97, 97, 6, 2, 112, 96, true], // GQA
  [1, 128, 128, 4, 1, 96, 160, false], // MQA
  [1, 128, 128, 1, 1, 160, 112, true],
  [1, 257, 257, 6, 6, 24, 8, true],
  [1, 257, 257, 1, 1, 160, 112, false],
  [1, 1023, 1023, 2, 2, 8, 24, true],
  [1, 1023, 1023, 1, 1, 24, 8, false],
  [2, 1, 257, 6, 2, 40, 24, true], // one new token, all keys
  [1, 31, 97, 4, 4, 24, 24, true], // Tq < Tk
  [1, 64, 257, 2, 2, 8, 8, false],
  [1, 128, 64, 3, 3, 24, 40, true], // Tq > Tk: 64 fully masked rows
  [1, 97, 1, 2, 1, 8, 8, true], // 96 fully masked rows, the last one sees a single key
  [2, 128, 31, 2, 2, 40, 8, false],
  [1, 97, 97, 3, 3, 24, 24, true, { scale: 0.5 }],
  // Inputs x100 saturate: only the rare rows whose two best scores are close have an error or a gradient at all. There must
  // be enough of them (rows, and width for scores without heavy tails), or chance decides between the kernel and the naive one.
  [8, 64, 64, 36, 36, 24, 8, true, { inputScale: 100 }],
  [8, 64, 64, 36, 36, 24, 40, false, { inputScale: 100 }],
];

const cases = shapes.map(
  ([batch, timeQ, timeK, heads, keyHeads, width, valueWidth, causal, options]): [string, AttentionShape] => {
    const shape: AttentionShape = { batch, timeQ, timeK, heads, keyHeads, width, valueWidth, causal, ...options };
    return [attentionName(shape), shape];
  },
);

afterAll(() => console.log(summary()));

describe.each(floatTypes)('attention %s', (dtype) => {
  it.each(cases)('%s', { timeout }, async (name, shape) => {
    const problem = attentionProblem(shape, dtype, 200);
    const truth = attentionTruth(problem);
    const fused = runAttention('fused', problem);
    expect(fused.outputs.output.dtype).toBe(dtype);
    expect(fused.outputs.logSumExp.dtype).toBe('f32');
    for (const gradient of Object.values(fused.gradients)) expect(gradient.dtype).toBe(dtype);
    const naive = await takeResults(runAttention('naive', problem));
    const emulated = errorsOf(attentionEmulated(problem, dtype), truth);
    let naiveErrors = errorsOf(naive, truth);

    // Scores of inputs x100 overflow f16: the unfused pipeline has no result there. What f32 arithmetic makes of the same
    // values then gives the scale: a fused kernel keeps f32 inside.
    const overflows = Object.values(emulated).some((error) => !Number.isFinite(error));
    expect(overflows).toBe(dtype === 'f16' && shape.inputScale === 100);
    if (overflows) {
      const wide = widened(problem);
      naiveErrors = errorsOf(await takeResults(runAttention('naive', wide)), truth);
      disposeAttention(wide);
    } else {
      expectWithinLimits(`naive.attention ${dtype}`, name, dtype, naive, truth, emulated);
    }
    expectWithinLimits(`attention ${dtype}`, name, dtype, await takeResults(fused), truth, naiveErrors);
    disposeAttention(problem);
  });

  it.each(['fused', 'naive'] as const)('%s: a row that sees no key is exactly 0', async (implementation) => {
    const [timeQ, timeK, heads, width] = [70, 33, 2, 24];
    const shape = { batch: 1, timeQ, timeK, heads, keyHeads: heads, width, valueWidth: width, causal: true };
    const problem = attentionProblem(shape, dtype, 300);
    const { outputs, gradients } = await takeResults(runAttention(implementation, problem));
    const hidden = (timeQ - timeK) * heads * width;
    const isZero = (value: number) => value === 0;
    expect(Array.from(outputs.output.data).slice(0, hidden).every(isZero)).toBe(true);
    expect(Array.from(outputs.output.data).slice(hidden).some(isZero)).toBe(false);
    expect(Array.from(gradients.q.data).slice(0, hidden).every(isZero)).toBe(true);
    for (let head = 0; head < heads; head++) {
      const row = Array.from(outputs.logSumExp.data).slice(head * timeQ, (head + 1) * timeQ);
      expect(row.map((value) => value === Number.NEGATIVE_INFINITY)).toEqual(row.map((_, i) => i < timeQ - timeK));
    }
    disposeAttention(problem);
  });

  it('causal with scale 1/sqrt(Dqk) is the default', async () => {
    const shape = { batch: 1, timeQ: 33, timeK: 33, heads: 2, keyHeads: 2, width: 24, valueWidth: 8, causal: true };
    const { q, k, v } = attentionProblem(shape, dtype, 400);
    const plain = await valuesOf(ops.attention(q.tensor, k.tensor, v.tensor).output);
    const options = { causal: true, scale: 1 / Math.sqrt(24) };
    const explicit = await valuesOf(ops.attention(q.tensor, k.tensor, v.tensor, options).output);
    expect(plain).toEqual(explicit);
  });
});

describe('attention, many equal keys', () => {
  it('keeps f32 accuracy where every key has the same score', async () => {
    // Softmax is uniform: the output is the mean of the values seen so far, which here is known in closed form.
    const time = 1023;
    const ones = pair(new Float32Array(time).fill(1), [1, time, 1, 1], 'f32').tensor;
    const values = pair(
      Float32Array.from({ length: time }, (_, i) => i),
      [1, time, 1, 1],
      'f32',
    ).tensor;
    const { data } = await valuesOf(ops.attention(ones, ones, values).output);
    const worst = Math.max(...Array.from(data).map((value, i) => Math.abs(value - i / 2) / (1 + i / 2)));
    expect(worst).toBeLessThanOrEqual(2e-6);
  });
});
