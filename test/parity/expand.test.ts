import { afterAll, describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import { limit, relativeError, summary } from '../helpers/compare.js';
import {
  disposeExpand,
  type ExpandShape,
  expandEmulated,
  expandName,
  expandProblem,
  expandTruth,
  runExpand,
} from '../helpers/expand_cases.js';
import { activation, errorsOf, expectWithinLimits, floatTypes, takeResults, timeout } from '../helpers/parity.js';

/** [B, T, H, D, H', D' (0: none), k, input scale] */
const shapes: [number, number, number, number, number, number, number, number?][] = [
  [1, 1, 1, 8, 1, 8, 1], // B*T = 1, one head
  [1, 31, 12, 64, 36, 96, 5], // the reference size
  [2, 2, 4, 40, 20, 24, 3], // D' < D
  [1, 64, 2, 8, 6, 40, 7],
  [1, 97, 3, 24, 6, 8, 5], // D' < D
  [1, 128, 1, 112, 3, 160, 3],
  [1, 257, 2, 8, 4, 24, 1],
  [1, 1023, 1, 8, 2, 8, 3],
  [2, 3, 2, 2, 6, 5, 7], // k > D
  [1, 5, 3, 1, 3, 4, 3], // k > D
  [1, 3, 2, 160, 2, 112, 5], // r = 1, D' < D
  [1, 4, 2, 96, 4, 96, 7],
  [1, 31, 12, 64, 36, 0, 5], // values: heads only
  [1, 128, 4, 24, 20, 0, 3],
  [1, 1, 1, 8, 1, 0, 1],
  [2, 3, 2, 3, 6, 0, 7], // k > D
  [1, 64, 4, 40, 20, 24, 5, 100],
  [1, 64, 4, 40, 20, 0, 5, 100],
];

const cases = shapes.map(
  ([batch, time, heads, width, simHeads, simWidth, kernel, inputScale]): [string, ExpandShape] => {
    const shape: ExpandShape = { batch, time, heads, width, simHeads, simWidth, kernel, inputScale };
    return [expandName(shape), shape];
  },
);

afterAll(() => console.log(summary()));

describe.each(floatTypes)('expand %s', (dtype) => {
  it.each(cases)('%s', { timeout }, async (name, shape) => {
    const problem = expandProblem(shape, dtype, 100);
    const truth = expandTruth(problem);
    const fused = runExpand('fused', problem);
    expect(fused.outputs.output.dtype).toBe(dtype);
    expect(fused.gradients.x.dtype).toBe(dtype);
    expect(fused.gradients.headWeight.dtype).toBe('f32');
    const naive = await takeResults(runExpand('naive', problem));
    expectWithinLimits(`expand ${dtype}`, name, dtype, await takeResults(fused), truth, errorsOf(naive, truth));

    const emulated = expandEmulated(problem, dtype);
    expectWithinLimits(`naive.expand ${dtype}`, name, dtype, naive, truth, errorsOf(emulated, truth));
    disposeExpand(problem);
  });
});

const turned: ExpandShape[] = [
  { batch: 1, time: 31, heads: 12, width: 64, simHeads: 36, simWidth: 96, kernel: 5, rope: {} }, // the reference size
  { batch: 3, time: 7, heads: 2, width: 8, simHeads: 6, simWidth: 12, kernel: 3, rope: { offset: 1000 } },
  { batch: 5, time: 1, heads: 3, width: 6, simHeads: 3, simWidth: 2, kernel: 1, rope: { base: 500, offset: 9 } },
  { batch: 2, time: 129, heads: 1, width: 24, simHeads: 5, simWidth: 22, kernel: 3, rope: { base: 100 } }, // H' odd
  { batch: 2, time: 70, heads: 4, width: 40, simHeads: 20, simWidth: 40, kernel: 5, inputScale: 100, rope: {} },
  { batch: 2, time: 31, heads: 12, width: 64, simHeads: 36, simWidth: 0, kernel: 5, rope: { offset: 3 } }, // heads only
  { batch: 7, time: 3, heads: 3, width: 12, simHeads: 9, simWidth: 0, kernel: 3, rope: { offset: 70 } },
  { batch: 4, time: 1, heads: 1, width: 2, simHeads: 7, simWidth: 0, kernel: 1, rope: { offset: 5 } },
  { batch: 2, time: 129, heads: 2, width: 22, simHeads: 2, simWidth: 0, kernel: 7, rope: { base: 100 } },
];

describe.each(floatTypes)('expand with rope %s', (dtype) => {
  it.each(turned.map((shape): [string, ExpandShape] => [expandName(shape), shape]))(
    '%s',
    { timeout },
    async (name, shape) => {
      const problem = expandProblem(shape, dtype, 200);
      const truth = expandTruth(problem);
      const fused = await takeResults(runExpand('fused', problem));
      const composed = await takeResults(runExpand('naive', problem));
      const errors = errorsOf(composed, truth);
      expectWithinLimits(`expand with rope ${dtype}`, name, dtype, fused, truth, errors);

      // The same rotation as the op's, also where the angles' own rounding is what differs from the truth.
      const { x, tensors, rope } = problem;
      const expanded = ops.expand(x.tensor, tensors);
      const apart = ops.rope(expanded, { ...rope, interleaved: true });
      const difference = relativeError(fused.outputs.output.data, await apart.data());
      expect(difference).toBeLessThanOrEqual(limit(dtype, 'output', errors.output));
      for (const tensor of [expanded, apart]) tensor.dispose();
      disposeExpand(problem);
    },
  );

  it.each([12, 0])("gradOutput in f32, D'=%i", { timeout }, async (simWidth) => {
    const shape: ExpandShape = {
      ...{ batch: 2, time: 9, heads: 3, width: 10, simHeads: 9, simWidth, kernel: 3 },
      rope: { offset: 4 },
    };
    const rounded = expandProblem(shape, dtype, 300);
    const naive = errorsOf(await takeResults(runExpand('naive', rounded)), expandTruth(rounded));
    const problem = { ...rounded, gradOutput: activation(rounded.gradOutput.exact.shape, 306, 'f32') };
    const results = await takeResults(runExpand('fused', problem));
    expectWithinLimits(`expand with rope ${dtype}`, expandName(shape), dtype, results, expandTruth(problem), naive);
  });
});
