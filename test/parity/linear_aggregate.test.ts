import { afterAll, describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import { summary } from '../helpers/compare.js';
import {
  type LinearShape,
  linearNaiveErrors,
  linearName,
  linearProblem,
  linearTruth,
  runLinear,
} from '../helpers/linear_cases.js';
import { activation, expectWithinLimits, floatTypes, roundingErrors, takeResults, timeout } from '../helpers/parity.js';
import { aggregate, aggregateBackward } from '../reference/index.js';

/** [rows, K, N, bias, input scale] */
const shapes: [number[], number, number, boolean, number?][] = [
  [[1, 1], 1, 1, true],
  [[1], 7, 3, true],
  [[2], 8, 24, false],
  [[2, 31], 40, 96, true],
  [[64], 112, 160, true],
  [[97], 96, 40, false],
  [[128], 160, 8, true],
  [[257], 24, 112, true],
  [[1, 1023], 8, 8, true],
  [[5], 768, 768, true], // the output projection of the reference size
  [[3], 9, 515, true], // a vocabulary that fills no vector
  [[64], 112, 40, true, 100],
];

const linearCases = shapes.map(([rows, width, outWidth, bias, inputScale]): [string, LinearShape] => {
  const shape = { rows, width, outWidth, bias, inputScale };
  return [linearName(shape), shape];
});

afterAll(() => console.log(summary()));

describe.each(floatTypes)('linear %s', (dtype) => {
  it.each(linearCases)('%s', { timeout }, async (name, shape) => {
    const problem = linearProblem(shape, dtype, 700);
    const truth = linearTruth(problem);
    const results = runLinear(problem);
    expect(results.outputs.output.dtype).toBe(dtype);
    expect(results.gradients.x.dtype).toBe(dtype);
    expect(results.gradients.weight.dtype).toBe('f32');
    expectWithinLimits(
      `linear ${dtype}`,
      name,
      dtype,
      await takeResults(results),
      truth,
      linearNaiveErrors(problem, truth, dtype),
    );
  });
});

describe.each(floatTypes)('aggregate %s', (dtype) => {
  // [B, T, H, r, D, input scale]
  it.each([
    [1, 1, 1, 1, 8, 1],
    [1, 1, 1, 3, 1, 1],
    [2, 2, 12, 3, 64, 1],
    [1, 31, 4, 5, 40, 1],
    [1, 64, 3, 1, 24, 1],
    [2, 97, 3, 2, 5, 1],
    [1, 128, 1, 6, 112, 1],
    [1, 257, 2, 7, 8, 100],
    [1, 1023, 1, 2, 8, 1],
  ])('B=%d T=%d H=%d r=%d D=%d x%d', async (batch, time, heads, groups, width, scale) => {
    const x = activation([batch, time, groups * heads, width], 1, dtype, scale);
    const gradOutput = activation([batch, time, heads * width], 2, dtype, scale);
    const results = {
      outputs: { output: ops.aggregate(x.tensor, heads) },
      gradients: { x: ops.aggregateBackward(gradOutput.tensor, heads, groups * heads) },
    };
    expect(results.outputs.output.dtype).toBe(dtype);
    expect(results.gradients.x.dtype).toBe(dtype);
    const truth = {
      outputs: { output: aggregate(x.exact, heads) },
      gradients: { x: aggregateBackward(gradOutput.exact, heads, groups * heads) },
    };
    const name = `B=${batch} T=${time} H=${heads} r=${groups} D=${width}`;
    expectWithinLimits(
      `aggregate ${dtype}`,
      name,
      dtype,
      await takeResults(results),
      truth,
      roundingErrors(truth, dtype),
    );
  });
});
