/** What the SAS ops refuse, and how they say so. */
import { describe, expect, test } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, expectRefusal, f32, i32, type Refusal } from './helpers.js';

/** Weights that fit x [B, T, 2, 4]: H' = 6, k = 3, D' = 5. */
const weights = () => ({
  headWeight: f32(6, 2, 3),
  headBias: f32(6),
  headResidualWeight: f32(6, 6, 3),
  headResidualBias: f32(6),
});
const features = () => ({
  featureWeight: f32(5, 4),
  featureBias: f32(5),
  featureResidualWeight: f32(5, 5),
  featureResidualBias: f32(5),
});
const all = () => ({ ...weights(), ...features() });
const x = () => f32(1, 3, 2, 4);

describe.each([
  ['attention', ops.attention],
  ['naive.attention', ops.naive.attention],
] as const)('%s', (op, attention) => {
  test.each<Refusal>([
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
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const { output, logSumExp } = attention(bf16(2, 5, 6, 8), bf16(2, 7, 3, 8), bf16(2, 7, 3, 4));
    expect(output).toMatchObject({ shape: [2, 5, 6, 4], dtype: 'bf16' });
    expect(logSumExp).toMatchObject({ shape: [2, 6, 5], dtype: 'f32' });
  });
});

describe.each([
  ['attentionBackward', ops.attentionBackward],
  ['naive.attentionBackward', ops.naive.attentionBackward],
] as const)('%s', (op, attentionBackward) => {
  const saved = () => ({ q: x(), k: x(), v: x(), output: x(), logSumExp: f32(1, 2, 3) });
  test.each<Refusal>([
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
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const [q, k, v] = [f32(2, 5, 6, 8), f32(2, 7, 3, 8), f32(2, 7, 3, 4)];
    const grads = attentionBackward(f32(2, 5, 6, 4), { q, k, v, output: f32(2, 5, 6, 4), logSumExp: f32(2, 6, 5) });
    expect(grads.gradQ.shape).toEqual(q.shape);
    expect(grads.gradK.shape).toEqual(k.shape);
    expect(grads.gradV.shape).toEqual(v.shape);
  });
});

describe('attentionMean', () => {
  const mean = ops.attentionMean;
  const six = () => f32(1, 3, 6, 4);
  test.each<Refusal>([
    [
      'attentionMean: q is undefined, expected a Tensor',
      ArgumentError,
      () => mean(undefined as never, x(), x(), { heads: 2 }),
    ],
    [
      'attentionMean: k has shape [1, 3, 6, 5], expected [1, 3, Hkv, 4] (q has width 4)',
      ShapeError,
      () => mean(six(), f32(1, 3, 6, 5), six(), { heads: 2 }),
    ],
    [
      'attentionMean: v has dtype bf16, expected f32 (q has dtype f32)',
      DTypeError,
      () => mean(six(), six(), bf16(1, 3, 6, 4), { heads: 2 }),
    ],
    [
      'attentionMean: the number of heads of q is 6, expected a multiple of 4 (heads is 4)',
      ShapeError,
      () => mean(six(), six(), six(), { heads: 4 }),
    ],
    [
      'attentionMean: heads is 0, expected an integer at least 1',
      ArgumentError,
      () => mean(six(), six(), six(), { heads: 0 }),
    ],
    [
      'attentionMean: heads is undefined, expected an integer at least 1',
      ArgumentError,
      () => mean(six(), six(), six(), undefined as never),
    ],
    [
      'attentionMean: scale is NaN, expected a finite number',
      ArgumentError,
      () => mean(six(), six(), six(), { heads: 2, scale: Number.NaN }),
    ],
    [
      "attentionMean: there is no option 'gradDtype'; known: causal, scale, heads",
      ArgumentError,
      () => mean(six(), six(), six(), { heads: 2, gradDtype: 'f32' } as never),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shape of the result', () => {
    const output = mean(bf16(2, 5, 6, 8), bf16(2, 7, 3, 8), bf16(2, 7, 3, 4), { heads: 2 });
    expect(output).toMatchObject({ shape: [2, 5, 8], dtype: 'bf16' });
  });
});

describe.each([
  ['expand', ops.expand],
  ['naive.expand', ops.naive.expand],
] as const)('%s', (op, expand) => {
  test.each<Refusal>([
    [`${op}: weights is undefined, expected an object`, ArgumentError, () => expand(x(), undefined as never)],
    [`${op}: x has shape [3, 2, 4], expected [B, T, H, D]`, ShapeError, () => expand(f32(3, 2, 4), all())],
    [
      `${op}: headBias is undefined, expected a Tensor`,
      ArgumentError,
      () => expand(x(), { ...all(), headBias: undefined as never }),
    ],
    [
      `${op}: featureBias is missing, expected all of featureWeight, featureBias, featureResidualWeight, featureResidualBias or none`,
      ArgumentError,
      () => expand(x(), { ...all(), featureBias: undefined }),
    ],
    [
      `${op}: headWeight has shape [6, 2, 3], expected [H', 3, k] (x has 3 heads)`,
      ShapeError,
      () => expand(f32(1, 3, 3, 4), all()),
    ],
    [
      `${op}: the kernel size is 4, expected an odd number (headWeight has shape [6, 2, 4])`,
      ShapeError,
      () => expand(x(), { ...all(), headWeight: f32(6, 2, 4) }),
    ],
    [
      `${op}: headResidualWeight has shape [6, 6, 5], expected [6, 6, 3] (headWeight has shape [6, 2, 3])`,
      ShapeError,
      () => expand(x(), { ...all(), headResidualWeight: f32(6, 6, 5) }),
    ],
    [
      `${op}: featureWeight has shape [5, 3], expected [D', 4] (x has width 4)`,
      ShapeError,
      () => expand(x(), { ...all(), featureWeight: f32(5, 3) }),
    ],
    [
      `${op}: featureResidualBias has shape [4], expected [5] (featureWeight has shape [5, 4])`,
      ShapeError,
      () => expand(x(), { ...all(), featureResidualBias: f32(4) }),
    ],
    [
      `${op}: headBias has dtype bf16, expected f32 (parameters are f32)`,
      DTypeError,
      () => expand(x(), { ...all(), headBias: bf16(6) }),
    ],
    [`${op}: x has dtype i32, expected f32, bf16, f16`, DTypeError, () => expand(i32(1, 3, 2, 4), all())],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(expand(bf16(1, 3, 2, 4), all())).toMatchObject({ shape: [1, 3, 6, 5], dtype: 'bf16' });
    expect(expand(x(), weights())).toMatchObject({ shape: [1, 3, 6, 4], dtype: 'f32' });
  });
});

describe.each([
  ['expandBackward', ops.expandBackward],
  ['naive.expandBackward', ops.naive.expandBackward],
] as const)('%s', (op, expandBackward) => {
  test.each<Refusal>([
    [
      `${op}: gradOutput has shape [1, 3, 6, 4], expected [1, 3, 6, 5] (the shape of the output)`,
      ShapeError,
      () => expandBackward(f32(1, 3, 6, 4), x(), all()),
    ],
    [
      `${op}: gradOutput has dtype bf16, expected f32 (x has dtype f32)`,
      DTypeError,
      () => expandBackward(bf16(1, 3, 6, 5), x(), all()),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const { gradX, gradWeights } = expandBackward(bf16(1, 3, 6, 5), bf16(1, 3, 2, 4), all());
    expect(gradX).toMatchObject({ shape: [1, 3, 2, 4], dtype: 'bf16' });
    for (const [name, weight] of Object.entries(all())) {
      expect(gradWeights).toHaveProperty(name, expect.objectContaining({ shape: weight.shape, dtype: 'f32' }));
    }
    const value = expandBackward(f32(1, 3, 6, 4), x(), weights());
    expect(Object.keys(value.gradWeights)).toEqual(Object.keys(weights()));
  });
});

describe.each([
  ['expand', (width: number, options: unknown) => ops.expand(f32(1, 3, 2, width), weights(), options as never)],
  [
    'expandBackward',
    (width: number, options: unknown) =>
      ops.expandBackward(f32(1, 3, 6, width), f32(1, 3, 2, width), weights(), options as never),
  ],
] as const)('rope of %s', (op, turn) => {
  test.each<Refusal>([
    [`${op}: options is null, expected an object`, ArgumentError, () => turn(4, null)],
    [`${op}: there is no option 'base'; known: rope`, ArgumentError, () => turn(4, { base: 100 })],
    [`${op}: rope is true, expected an object`, ArgumentError, () => turn(4, { rope: true })],
    [
      `${op}: there is no option 'rope.interleaved'; known: rope.base, rope.offset`,
      ArgumentError,
      () => turn(4, { rope: { interleaved: false } }),
    ],
    [`${op}: rope.base is 0, expected a finite number above 0`, ArgumentError, () => turn(4, { rope: { base: 0 } })],
    [
      `${op}: rope.offset is -1, expected an integer at least 0`,
      ArgumentError,
      () => turn(4, { rope: { offset: -1 } }),
    ],
    [
      `${op}: the width of the output is 5, expected a multiple of 2 (rotary positions rotate pairs of features)`,
      ShapeError,
      () => turn(5, { rope: {} }),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('the width of the output counts, not that of x', () => {
    expect(() => ops.expand(f32(1, 3, 2, 4), all(), { rope: {} })).toThrow('the width of the output is 5');
    expect(turn(4, { rope: undefined })).toBeDefined();
  });
});

describe('aggregate', () => {
  test.each<Refusal>([
    ['aggregate: x has shape [3, 6, 4], expected [B, T, r*H, D]', ShapeError, () => ops.aggregate(f32(3, 6, 4), 2)],
    [
      'aggregate: the number of heads of x is 6, expected a multiple of 4 (heads is 4)',
      ShapeError,
      () => ops.aggregate(f32(1, 3, 6, 4), 4),
    ],
    ['aggregate: heads is 0, expected an integer at least 1', ArgumentError, () => ops.aggregate(f32(1, 3, 6, 4), 0)],
    [
      'aggregate: heads is undefined, expected an integer at least 1',
      ArgumentError,
      () => ops.aggregate(f32(1, 3, 6, 4), undefined as never),
    ],
    ['aggregate: x has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.aggregate(i32(1, 3, 6, 4), 2)],
    [
      'aggregateBackward: simHeads is 5, expected a multiple of 2 (heads is 2)',
      ShapeError,
      () => ops.aggregateBackward(f32(1, 3, 8), 2, 5),
    ],
    [
      'aggregateBackward: the width of gradOutput is 9, expected a multiple of 2 (heads is 2)',
      ShapeError,
      () => ops.aggregateBackward(f32(1, 3, 9), 2, 6),
    ],
    [
      'aggregateBackward: gradOutput has shape [1, 3, 2, 4], expected [B, T, H*D]',
      ShapeError,
      () => ops.aggregateBackward(f32(1, 3, 2, 4), 2, 6),
    ],
    [
      'aggregateBackward: shape [1, 3, 4503599627370496, 4] of f32 is too large, expected fewer than 2^48 bytes',
      ShapeError,
      () => ops.aggregateBackward(f32(1, 3, 8), 2, 2 ** 52),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.aggregate(bf16(1, 3, 6, 4), 2)).toMatchObject({ shape: [1, 3, 8], dtype: 'bf16' });
    expect(ops.aggregateBackward(f32(1, 3, 8), 2, 6)).toMatchObject({ shape: [1, 3, 6, 4], dtype: 'f32' });
  });
});
