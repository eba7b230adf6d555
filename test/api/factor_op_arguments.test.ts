/** What the ops of latent and tensor-product attention refuse, and how they say so. */
import { describe, expect, test } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError, type Tensor } from '../../lib/index.js';
import { bf16, expectRefusal, f32, i32, type Refusal } from './helpers.js';

describe('concat', () => {
  const a = () => f32(1, 3, 4, 5);
  test.each<Refusal>([
    ['concat: a is undefined, expected a Tensor', ArgumentError, () => ops.concat(undefined as never, a())],
    ['concat: a has shape [3, 4, 5], expected [B, T, Ha, Da]', ShapeError, () => ops.concat(f32(3, 4, 5), a())],
    [
      'concat: a has shape [1, 3, 4, 0], expected [B, T, Ha, Da] with every size at least 1',
      ShapeError,
      () => ops.concat(f32(1, 3, 4, 0), a()),
    ],
    [
      'concat: b has shape [1, 2, 4, 5], expected [1, 3, Hb, Db] (a has shape [1, 3, 4, 5])',
      ShapeError,
      () => ops.concat(a(), f32(1, 2, 4, 5)),
    ],
    [
      'concat: the number of heads of b is 2, expected 1 or 4 (a has 4 heads)',
      ShapeError,
      () => ops.concat(a(), f32(1, 3, 2, 5)),
    ],
    ['concat: a has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.concat(i32(1, 3, 4, 5), a())],
    ['concat: b has dtype bf16, expected f32 (a has dtype f32)', DTypeError, () => ops.concat(a(), bf16(1, 3, 4, 5))],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.concat(bf16(2, 3, 4, 5), bf16(2, 3, 1, 7))).toMatchObject({ shape: [2, 3, 4, 12], dtype: 'bf16' });
    expect(ops.concat(f32(2, 3, 1, 5), f32(2, 3, 6, 7))).toMatchObject({ shape: [2, 3, 6, 12], dtype: 'f32' });
  });
});

describe('concatBackward', () => {
  const op = 'concatBackward';
  const g = () => f32(1, 3, 4, 5);
  test.each<Refusal>([
    [
      `${op}: gradOutput has shape [3, 4, 5], expected [B, T, H, Da+Db]`,
      ShapeError,
      () => ops.concatBackward(f32(3, 4, 5), { widthA: 2 }),
    ],
    [
      `${op}: gradOutput has dtype i32, expected f32, bf16, f16`,
      DTypeError,
      () => ops.concatBackward(i32(1, 3, 4, 5), { widthA: 2 }),
    ],
    [
      `${op}: widthA is undefined, expected an integer at least 1 and below 5`,
      ArgumentError,
      () => ops.concatBackward(g(), undefined as never),
    ],
    [
      `${op}: widthA is 5, expected an integer at least 1 and below 5`,
      ArgumentError,
      () => ops.concatBackward(g(), { widthA: 5 }),
    ],
    [
      `${op}: headsA is 0, expected an integer at least 1`,
      ArgumentError,
      () => ops.concatBackward(g(), { widthA: 2, headsA: 0 }),
    ],
    [
      `${op}: headsB is 2, expected 1 or 4 (gradOutput has 4 heads)`,
      ShapeError,
      () => ops.concatBackward(g(), { widthA: 2, headsB: 2 }),
    ],
    [
      `${op}: headsA and headsB are 1, expected one of them to be 4 (gradOutput has 4 heads)`,
      ShapeError,
      () => ops.concatBackward(g(), { widthA: 2, headsA: 1, headsB: 1 }),
    ],
    [
      `${op}: there is no option 'widthB'; known: widthA, headsA, headsB`,
      ArgumentError,
      () => ops.concatBackward(g(), { widthA: 2, widthB: 3 } as never),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const all = ops.concatBackward(bf16(2, 3, 4, 12), { widthA: 5 });
    expect(all.gradA).toMatchObject({ shape: [2, 3, 4, 5], dtype: 'bf16' });
    expect(all.gradB).toMatchObject({ shape: [2, 3, 4, 7], dtype: 'bf16' });
    expect(ops.concatBackward(f32(2, 3, 4, 12), { widthA: 5, headsB: 1 }).gradB.shape).toEqual([2, 3, 1, 7]);
    expect(ops.concatBackward(f32(2, 3, 4, 12), { widthA: 5, headsA: 1 }).gradA.shape).toEqual([2, 3, 1, 5]);
  });
});

describe.each([
  ['tensorProduct', ops.tensorProduct],
  ['tensorProductBackward', (a: Tensor, b: Tensor) => ops.tensorProductBackward(f32(1, 3, 4, 5), a, b)],
] as const)('%s', (op, product) => {
  const heads = () => f32(1, 3, 2, 4);
  const features = () => f32(1, 3, 2, 5);
  test.each<Refusal>([
    [
      `${op}: featureFactors is undefined, expected a Tensor`,
      ArgumentError,
      () => product(heads(), undefined as never),
    ],
    [
      `${op}: headFactors has shape [3, 2, 4], expected [B, T, R, H]`,
      ShapeError,
      () => product(f32(3, 2, 4), features()),
    ],
    [
      `${op}: headFactors has shape [1, 3, 0, 4], expected [B, T, R, H] with every size at least 1`,
      ShapeError,
      () => product(f32(1, 3, 0, 4), features()),
    ],
    [
      `${op}: featureFactors has shape [1, 3, 3, 5], expected [1, 3, 2, D] (headFactors has shape [1, 3, 2, 4])`,
      ShapeError,
      () => product(heads(), f32(1, 3, 3, 5)),
    ],
    [
      `${op}: headFactors has dtype i32, expected f32, bf16, f16`,
      DTypeError,
      () => product(i32(1, 3, 2, 4), features()),
    ],
    [
      `${op}: featureFactors has dtype bf16, expected f32 (headFactors has dtype f32)`,
      DTypeError,
      () => product(heads(), bf16(1, 3, 2, 5)),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));
});

describe('tensorProductBackward, the gradient', () => {
  const factors = () => [f32(1, 3, 2, 4), f32(1, 3, 2, 5)] as const;
  test.each<Refusal>([
    [
      'tensorProductBackward: gradOutput has shape [1, 3, 2, 5], expected [1, 3, 4, 5] (the shape of the output)',
      ShapeError,
      () => ops.tensorProductBackward(f32(1, 3, 2, 5), ...factors()),
    ],
    [
      'tensorProductBackward: gradOutput has dtype bf16, expected f32 (headFactors has dtype f32)',
      DTypeError,
      () => ops.tensorProductBackward(bf16(1, 3, 4, 5), ...factors()),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const [headFactors, featureFactors] = [bf16(2, 3, 6, 4), bf16(2, 3, 6, 5)];
    const output = ops.tensorProduct(headFactors, featureFactors);
    expect(output).toMatchObject({ shape: [2, 3, 4, 5], dtype: 'bf16' });
    const gradients = ops.tensorProductBackward(output, headFactors, featureFactors);
    expect(gradients.gradHeadFactors).toMatchObject({ shape: [2, 3, 6, 4], dtype: 'bf16' });
    expect(gradients.gradFeatureFactors).toMatchObject({ shape: [2, 3, 6, 5], dtype: 'bf16' });
  });
});
