import { afterAll, describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import {
  type AttentionProblem,
  type AttentionShape,
  attentionName,
  attentionProblem,
  disposeAttention,
} from '../helpers/attention_cases.js';
import { summary } from '../helpers/compare.js';
import {
  errorsOf,
  expectWithinLimits,
  floatTypes,
  type Truth,
  takeResults,
  timeout,
  valuesOf,
} from '../helpers/parity.js';
import * as reference from '../reference/index.js';

/** [B, Tq, Tk, H, r, Hkv, Dqk, Dv, causal, scale] */
const rows: [number, number, number, number, number, number, number, number, boolean, number?][] = [
  [1, 1, 1, 1, 1, 1, 8, 8, true], // one row, one head
  [1, 1, 97, 2, 3, 6, 96, 64, true], // one new token, all keys: the groups side by side on CUDA
  [2, 70, 70, 2, 1, 2, 96, 64, true],
  [1, 128, 128, 4, 3, 12, 96, 64, true], // the widths of the reference size
  [1, 97, 97, 3, 2, 6, 24, 40, false],
  [2, 31, 97, 2, 3, 6, 24, 40, true], // Tq < Tk
  [1, 97, 31, 3, 3, 9, 24, 40, true], // 66 fully masked rows, whole tiles among them
  [1, 130, 64, 2, 2, 4, 96, 64, false],
  [1, 65, 65, 3, 2, 6, 160, 112, true],
  [1, 33, 70, 3, 3, 9, 160, 112, false],
  [1, 65, 65, 3, 2, 6, 256, 256, true],
  [1, 70, 33, 4, 3, 12, 13, 7, true], // widths that fill no vector, masked rows
  [1, 97, 97, 3, 4, 6, 40, 24, true], // GQA: neighbours share k and v, across groups
  [1, 64, 64, 4, 3, 12, 24, 24, true, -0.3],
];

interface MeanCase extends AttentionShape {
  meanHeads: number; // H
}

const cases = rows.map(
  ([batch, timeQ, timeK, meanHeads, groups, keyHeads, width, valueWidth, causal, scale]): [string, MeanCase] => {
    const heads = meanHeads * groups;
    const shape = { batch, timeQ, timeK, heads, keyHeads, width, valueWidth, causal, scale, meanHeads };
    return [`${attentionName(shape)} r=${groups}`, shape];
  },
);

function truthOf({ q, k, v, options }: AttentionProblem, heads: number): Truth {
  const { output } = reference.attention(q.exact, k.exact, v.exact, options);
  return { outputs: { output: reference.aggregate(output, heads) }, gradients: {} };
}

afterAll(() => console.log(summary()));

describe.each(floatTypes)('attentionMean %s', (dtype) => {
  it.each(cases)('%s', { timeout }, async (name, { meanHeads, ...shape }) => {
    const problem = attentionProblem(shape, dtype, 900);
    const [q, k, v] = [problem.q.tensor, problem.k.tensor, problem.v.tensor];
    const truth = truthOf(problem, meanHeads);
    const output = ops.attentionMean(q, k, v, { ...problem.options, heads: meanHeads });
    expect(output.dtype).toBe(dtype);
    const again = await valuesOf(ops.attentionMean(q, k, v, { ...problem.options, heads: meanHeads }));
    const attended = ops.naive.attention(q, k, v, problem.options);
    const naive = { outputs: { output: ops.aggregate(attended.output, meanHeads) }, gradients: {} };
    const naiveErrors = errorsOf(await takeResults(naive), truth);
    const results = await takeResults({ outputs: { output }, gradients: {} });
    expectWithinLimits(`attentionMean ${dtype}`, name, dtype, results, truth, naiveErrors);
    expect(again).toEqual(results.outputs.output);
    disposeAttention(problem);
  });

  it('a row that sees no key is exactly 0', async () => {
    const [timeQ, timeK, heads, width] = [70, 33, 4, 24];
    const shape = { batch: 1, timeQ, timeK, heads: 3 * heads, keyHeads: 3 * heads, width, valueWidth: width };
    const problem = attentionProblem({ ...shape, causal: true }, dtype, 300);
    const { data } = await valuesOf(ops.attentionMean(problem.q.tensor, problem.k.tensor, problem.v.tensor, { heads }));
    const isZero = (value: number) => value === 0;
    const values = Array.from(data);
    const rows = Array.from({ length: timeQ }, (_, i) => values.slice(i * heads * width, (i + 1) * heads * width));
    expect(rows.map((row) => row.every(isZero))).toEqual(rows.map((_, i) => i < timeQ - timeK));
    disposeAttention(problem);
  });
});
