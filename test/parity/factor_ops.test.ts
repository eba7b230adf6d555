// What latent (MLA) and tensor-product (TPA) attention make queries, keys and values of.
import { afterAll, describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import { summary } from '../helpers/compare.js';
import {
  activation,
  expectDtype,
  expectWithinLimits,
  floatTypes,
  roundingErrors,
  type Truth,
  takeResults,
  timeout,
} from '../helpers/parity.js';
import * as reference from '../reference/index.js';

afterAll(() => console.log(summary()));

describe.each(floatTypes)('concat %s', (dtype) => {
  // [B, T, Ha, Da, Hb, Db, input scale]
  it.each([
    [1, 1, 1, 1, 1, 1, 1],
    [1, 1, 3, 5, 3, 7, 1],
    [2, 31, 4, 64, 1, 32, 1], // keys of latent attention: the rotary part is shared
    [2, 31, 1, 32, 4, 64, 1],
    [1, 64, 12, 40, 12, 24, 1],
    [1, 97, 1, 13, 6, 3, 1],
    [3, 2, 128, 8, 1, 160, 1],
    [2, 5, 1, 256, 128, 1, 1],
    [1, 257, 1, 8, 1, 112, 100],
    [1, 1023, 5, 16, 1, 12, 1], // one part of whole vectors, one not
  ])(
    'B=%d T=%d Ha=%d Da=%d Hb=%d Db=%d x%d',
    { timeout },
    async (batch, time, headsA, widthA, headsB, widthB, scale) => {
      const a = activation([batch, time, headsA, widthA], 1, dtype, scale);
      const b = activation([batch, time, headsB, widthB], 2, dtype, scale);
      const heads = Math.max(headsA, headsB);
      const gradOutput = activation([batch, time, heads, widthA + widthB], 3, dtype, scale);
      const sizes = { widthA, headsA, headsB };
      const { gradA, gradB } = ops.concatBackward(gradOutput.tensor, sizes);
      const results = { outputs: { output: ops.concat(a.tensor, b.tensor) }, gradients: { a: gradA, b: gradB } };
      expectDtype({ ...results.outputs, ...results.gradients }, dtype);
      const expected = reference.concatBackward(gradOutput.exact, sizes);
      const truth: Truth = {
        outputs: { output: reference.concat(a.exact, b.exact) },
        gradients: { a: expected.gradA, b: expected.gradB },
      };
      const name = `Ha=${headsA} Da=${widthA} Hb=${headsB} Db=${widthB}`;
      expectWithinLimits(
        `concat ${dtype}`,
        name,
        dtype,
        await takeResults(results),
        truth,
        roundingErrors(truth, dtype),
      );
    },
  );

  it('copies, to the bit, and gives a tensor of all heads its gradient so', async () => {
    const [a, b] = [activation([2, 3, 4, 5], 1, dtype), activation([2, 3, 4, 3], 2, dtype)];
    const { gradA, gradB } = ops.concatBackward(ops.concat(a.tensor, b.tensor), { widthA: 5 });
    expect(await gradA.raw()).toEqual(await a.tensor.raw());
    expect(await gradB.raw()).toEqual(await b.tensor.raw());
  });
});

describe.each(floatTypes)('tensorProduct %s', (dtype) => {
  // [B, T, R, H, D, input scale]
  it.each([
    [1, 1, 1, 1, 1, 1],
    [1, 1, 1, 7, 5, 1],
    [2, 31, 6, 12, 64, 1],
    [1, 64, 2, 16, 128, 1],
    [2, 97, 3, 1, 40, 1],
    [1, 128, 16, 5, 24, 1],
    [1, 257, 5, 9, 13, 100],
    [1, 3, 16, 128, 256, 1],
    [2, 2, 1, 33, 160, 1],
    [1, 2, 19, 6, 515, 1], // wider and of higher rank than any tile
    [1, 1023, 2, 3, 8, 1],
  ])('B=%d T=%d R=%d H=%d D=%d x%d', { timeout }, async (batch, time, rank, heads, width, scale) => {
    const headFactors = activation([batch, time, rank, heads], 1, dtype, scale);
    const featureFactors = activation([batch, time, rank, width], 2, dtype);
    const gradOutput = activation([batch, time, heads, width], 3, dtype);
    const factors = [headFactors.tensor, featureFactors.tensor] as const;
    const { gradHeadFactors, gradFeatureFactors } = ops.tensorProductBackward(gradOutput.tensor, ...factors);
    const results = {
      outputs: { output: ops.tensorProduct(...factors) },
      gradients: { headFactors: gradHeadFactors, featureFactors: gradFeatureFactors },
    };
    expectDtype({ ...results.outputs, ...results.gradients }, dtype);
    const exact = [headFactors.exact, featureFactors.exact] as const;
    const expected = reference.tensorProductBackward(gradOutput.exact, ...exact);
    const truth: Truth = {
      outputs: { output: reference.tensorProduct(...exact) },
      gradients: { headFactors: expected.gradHeadFactors, featureFactors: expected.gradFeatureFactors },
    };
    const name = `R=${rank} H=${heads} D=${width}`;
    expectWithinLimits(
      `tensorProduct ${dtype}`,
      name,
      dtype,
      await takeResults(results),
      truth,
      roundingErrors(truth, dtype),
    );
  });
});
