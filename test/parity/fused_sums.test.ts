// Sums that another op takes on: three terms at once, and the gradient beside a layer norm. Rounded once, so at least as close to
// the exact result as the ops one by one.
import { describe, expect, test } from 'vitest';
import { ops, Tensor } from '../../lib/index.js';
import { relativeError } from '../../lib/measure/relative_error.js';
import { runAdd } from '../../lib/ops/add.js';
import { runLayerNormBackward } from '../../lib/ops/layer_norm.js';
import { activation, device, floatTypes, parameter, timeout } from '../helpers/parity.js';

const dataOf = async (tensor: Tensor) => [...(await tensor.data())];
/** Half of the last place, of the whole; sums of three are rounded twice in f32. */
const rounding = { f32: 2 ** -20, bf16: 2 ** -8, f16: 2 ** -11 };

describe.each(floatTypes)('%s', { timeout }, (dtype) => {
  test.each([[[1]], [[3, 5]], [[64, 8]], [[40, 513]]])('a + b + c of shape %j', async (shape) => {
    const [a, b, c] = [1, 2, 3].map((seed) => activation(shape, seed, dtype));
    const exact = a.exact.data.map((value, i) => value + b.exact.data[i] + c.exact.data[i]);
    const sum = await dataOf(runAdd('add', { a: a.tensor, b: b.tensor, c: c.tensor }));
    const error = relativeError(sum, exact);
    expect(error).toBeLessThan(rounding[dtype]);
    const apart = await dataOf(ops.add(ops.add(a.tensor, b.tensor), c.tensor));
    expect(error).toBeLessThanOrEqual(relativeError(apart, exact));
  });

  test.each([
    [3, 8],
    [70, 64],
    [5, 37], // not in whole vectors
    [4, 1536], // a row for a block
    [9, 601], // more than registers hold of single elements
  ])('layer norm, %i rows of %i', async (rows, width) => {
    const [x, gradOutput, residual] = [1, 2, 3].map((seed) => activation([rows, width], seed, dtype));
    const [weight, bias] = [4, 5].map((seed) => parameter([width], seed, 1).tensor);
    const { mean, rstd } = ops.layerNorm(x.tensor, weight, bias);
    const saved = { x: x.tensor, weight, mean, rstd };
    const plain = ops.layerNormBackward(gradOutput.tensor, saved);
    const fused = runLayerNormBackward('layerNormBackward', gradOutput.tensor, saved, residual.tensor);
    for (const name of ['gradWeight', 'gradBias'] as const) {
      expect(await dataOf(fused[name])).toEqual(await dataOf(plain[name]));
    }
    // The same values in f32, where rounding is of no account.
    const wide = [x, gradOutput].map(({ exact }) =>
      Tensor.from(Float32Array.from(exact.data), [rows, width], { device }),
    );
    const alone = ops.layerNormBackward(wide[1], { ...saved, x: wide[0] });
    const exact = (await dataOf(alone.gradX)).map((value, i) => value + residual.exact.data[i]);
    const error = relativeError(await dataOf(fused.gradX), exact);
    expect(error).toBeLessThan(rounding[dtype]);
    const apart = await dataOf(ops.add(plain.gradX, residual.tensor));
    expect(error).toBeLessThanOrEqual(relativeError(apart, exact) + 1e-7);
  });
});
