// Random small shapes against the float64 reference. The seed is fixed: a failure is found again.
import fc from 'fast-check';
import { afterAll, describe, it } from 'vitest';
import {
  type AttentionShape,
  attentionName,
  attentionProblem,
  attentionTruth,
  disposeAttention,
  runAttention,
} from '../helpers/attention_cases.js';
import { summary } from '../helpers/compare.js';
import {
  disposeExpand,
  type ExpandShape,
  expandName,
  expandProblem,
  expandTruth,
  runExpand,
} from '../helpers/expand_cases.js';
import {
  type LinearShape,
  linearNaiveErrors,
  linearName,
  linearProblem,
  linearTruth,
  runLinear,
} from '../helpers/linear_cases.js';
import { errorsOf, expectWithinLimits, floatTypes, takeResults, timeout } from '../helpers/parity.js';

const settings = { seed: 2507, numRuns: 60 };
const integer = (min: number, max: number) => fc.integer({ min, max });
const dataSeed = integer(1, 1_000_000);

const expandShape: fc.Arbitrary<ExpandShape> = fc
  .record({
    batch: integer(1, 2),
    time: integer(1, 19),
    heads: integer(1, 4),
    groups: integer(1, 5),
    width: integer(1, 37),
    simWidth: integer(0, 37),
    kernel: integer(0, 3).map((half) => 2 * half + 1),
  })
  .map(({ groups, ...shape }) => ({ ...shape, simHeads: groups * shape.heads }));

const attentionShape: fc.Arbitrary<AttentionShape> = fc
  .record({
    batch: integer(1, 2),
    timeQ: integer(1, 70),
    timeK: integer(1, 70),
    keyHeads: integer(1, 3),
    group: integer(1, 3),
    width: integer(1, 37),
    valueWidth: integer(1, 37),
    causal: fc.boolean(),
  })
  .map(({ group, ...shape }) => ({ ...shape, heads: group * shape.keyHeads }));

const linearShape: fc.Arbitrary<LinearShape> = fc.record({
  rows: fc.array(integer(1, 9), { minLength: 1, maxLength: 3 }),
  width: integer(1, 70),
  outWidth: integer(1, 70),
  bias: fc.boolean(),
});

afterAll(() => console.log(summary()));

describe.each(floatTypes)('random shapes %s', (dtype) => {
  it('expand', { timeout }, async () => {
    const property = fc.asyncProperty(expandShape, dataSeed, async (shape, seed) => {
      const problem = expandProblem(shape, dtype, seed);
      const truth = expandTruth(problem);
      const naive = errorsOf(await takeResults(runExpand('naive', problem)), truth);
      const results = await takeResults(runExpand('fused', problem));
      expectWithinLimits(`random expand ${dtype}`, expandName(shape), dtype, results, truth, naive);
      disposeExpand(problem);
    });
    await fc.assert(property, settings);
  });

  it('attention', { timeout }, async () => {
    const property = fc.asyncProperty(attentionShape, dataSeed, async (shape, seed) => {
      const problem = attentionProblem(shape, dtype, seed);
      const truth = attentionTruth(problem);
      const naive = errorsOf(await takeResults(runAttention('naive', problem)), truth);
      const results = await takeResults(runAttention('fused', problem));
      expectWithinLimits(`random attention ${dtype}`, attentionName(shape), dtype, results, truth, naive);
      disposeAttention(problem);
    });
    await fc.assert(property, settings);
  });

  it('linear', { timeout }, async () => {
    const property = fc.asyncProperty(linearShape, dataSeed, async (shape, seed) => {
      const problem = linearProblem(shape, dtype, seed);
      const truth = linearTruth(problem);
      const naive = linearNaiveErrors(problem, truth, dtype);
      expectWithinLimits(
        `random linear ${dtype}`,
        linearName(shape),
        dtype,
        await takeResults(runLinear(problem)),
        truth,
        naive,
      );
    });
    await fc.assert(property, settings);
  });
});
