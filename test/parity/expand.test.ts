import { afterAll, describe, expect, it } from 'vitest';
import { summary } from '../helpers/compare.js';
import {
  disposeExpand,
  type ExpandShape,
  expandEmulated,
  expandName,
  expandProblem,
  expandTruth,
  runExpand,
} from '../helpers/expand_cases.js';
import { errorsOf, floatTypes, judge, takeResults, timeout } from '../helpers/parity.js';

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
    judge(`expand ${dtype}`, name, dtype, await takeResults(fused), truth, errorsOf(naive, truth));

    const emulated = expandEmulated(problem, dtype);
    judge(`naive.expand ${dtype}`, name, dtype, naive, truth, errorsOf(emulated, truth));
    disposeExpand(problem);
  });
});
