/** What the ops of a training step refuse, and how they say so. */
import { describe, expect, test } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, expectRefusal, f32, i32, type Refusal } from './helpers.js';

describe('linear', () => {
  test.each<Refusal>([
    ['linear: x has shape [], expected [..., K]', ShapeError, () => ops.linear(f32(), f32(4, 3))],
    [
      'linear: weight has shape [3, 4], expected [N, 3] (x has width 3)',
      ShapeError,
      () => ops.linear(f32(2, 3), f32(3, 4)),
    ],
    [
      'linear: bias has shape [3], expected [4] (weight has shape [4, 3])',
      ShapeError,
      () => ops.linear(f32(2, 3), f32(4, 3), f32(3)),
    ],
    [
      'linear: weight has dtype bf16, expected f32 (parameters are f32)',
      DTypeError,
      () => ops.linear(bf16(2, 3), bf16(4, 3)),
    ],
    ['linear: bias is null, expected a Tensor', ArgumentError, () => ops.linear(f32(2, 3), f32(4, 3), null as never)],
    [
      'linearBackward: gradOutput has shape [2, 3], expected [2, 4] (the shape of the output)',
      ShapeError,
      () => ops.linearBackward(f32(2, 3), f32(2, 3), f32(4, 3)),
    ],
    [
      'linearBackward: bias is a Tensor, expected true or false',
      ArgumentError,
      () => ops.linearBackward(f32(2, 4), f32(2, 3), f32(4, 3), { bias: f32(4) as never }),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.linear(bf16(2, 5, 3), f32(4, 3), f32(4))).toMatchObject({ shape: [2, 5, 4], dtype: 'bf16' });
    const { gradX, gradWeight, gradBias } = ops.linearBackward(bf16(2, 5, 4), bf16(2, 5, 3), f32(4, 3));
    expect(gradX).toMatchObject({ shape: [2, 5, 3], dtype: 'bf16' });
    expect(gradWeight).toMatchObject({ shape: [4, 3], dtype: 'f32' });
    expect(gradBias).toMatchObject({ shape: [4], dtype: 'f32' });
    expect(ops.linearBackward(f32(4), f32(3), f32(4, 3), { bias: false })).not.toHaveProperty('gradBias');
  });
});

describe('layerNorm and rmsNorm', () => {
  const saved = () => ({ x: f32(2, 3), weight: f32(3), mean: f32(2), rstd: f32(2) });
  test.each<Refusal>([
    [
      'layerNorm: weight has shape [2], expected [3] (x has width 3)',
      ShapeError,
      () => ops.layerNorm(f32(2, 3), f32(2), f32(3)),
    ],
    [
      'layerNorm: bias has shape [1, 3], expected [3] (x has width 3)',
      ShapeError,
      () => ops.layerNorm(f32(2, 3), f32(3), f32(1, 3)),
    ],
    [
      'layerNorm: eps is -1, expected a finite number at least 0',
      ArgumentError,
      () => ops.layerNorm(f32(2, 3), f32(3), f32(3), { eps: -1 }),
    ],
    [
      "layerNorm: there is no option 'epsilon'; known: eps",
      ArgumentError,
      () => ops.layerNorm(f32(2, 3), f32(3), f32(3), { epsilon: 1 } as never),
    ],
    ['layerNorm: x has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.layerNorm(i32(2, 3), f32(3), f32(3))],
    [
      'layerNormBackward: mean has shape [3], expected [2] (x has 2 rows)',
      ShapeError,
      () => ops.layerNormBackward(f32(2, 3), { ...saved(), mean: f32(3) }),
    ],
    [
      'layerNormBackward: rstd has dtype bf16, expected f32',
      DTypeError,
      () => ops.layerNormBackward(f32(2, 3), { ...saved(), rstd: bf16(2) }),
    ],
    [
      'layerNormBackward: gradOutput has shape [6], expected [2, 3] (the shape of x)',
      ShapeError,
      () => ops.layerNormBackward(f32(6), saved()),
    ],
    [
      'rmsNorm: weight has dtype bf16, expected f32 (parameters are f32)',
      DTypeError,
      () => ops.rmsNorm(f32(2, 3), bf16(3)),
    ],
    [
      'rmsNorm: weight is undefined, expected a Tensor',
      ArgumentError,
      () => ops.rmsNorm(f32(2, 3), undefined as never),
    ],
    [
      'rmsNormBackward: rstd has shape [1], expected [2] (x has 2 rows)',
      ShapeError,
      () => ops.rmsNormBackward(f32(2, 3), { x: f32(2, 3), weight: f32(3), rstd: f32(1) }),
    ],
    [
      'rmsNormBackward: saved is null, expected an object',
      ArgumentError,
      () => ops.rmsNormBackward(f32(2, 3), null as never),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const normed = ops.layerNorm(bf16(2, 5, 3), f32(3), f32(3));
    expect(normed.output).toMatchObject({ shape: [2, 5, 3], dtype: 'bf16' });
    expect([normed.mean.shape, normed.rstd.shape, normed.rstd.dtype]).toEqual([[10], [10], 'f32']);
    const grads = ops.layerNormBackward(f32(2, 3), saved());
    expect([grads.gradX.shape, grads.gradWeight.shape, grads.gradBias.shape]).toEqual([[2, 3], [3], [3]]);
    expect(ops.rmsNorm(f32(3), f32(3)).rstd.shape).toEqual([1]);
  });
});

describe('gelu and add', () => {
  test.each<Refusal>([
    ['gelu: x is 3, expected a Tensor', ArgumentError, () => ops.gelu(3 as never)],
    ['gelu: x has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.gelu(i32(3))],
    ['gelu: x has shape [0], expected [...] with every size at least 1', ShapeError, () => ops.gelu(f32(0))],
    [
      "gelu: approximate is 'erf', expected 'none' or 'tanh'",
      ArgumentError,
      () => ops.gelu(f32(3), { approximate: 'erf' as never }),
    ],
    [
      'geluBackward: gradOutput has shape [2], expected [3] (the shape of x)',
      ShapeError,
      () => ops.geluBackward(f32(2), f32(3)),
    ],
    ['add: b has shape [3], expected [2, 3] (the shape of a)', ShapeError, () => ops.add(f32(2, 3), f32(3))],
    ['add: b has dtype bf16, expected f32 (a has dtype f32)', DTypeError, () => ops.add(f32(2), bf16(2))],
    ['add: a has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.add(i32(2), i32(2))],
    [
      'addBackward: gradOutput is undefined, expected a Tensor',
      ArgumentError,
      () => ops.addBackward(undefined as never),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.gelu(bf16(2, 3))).toMatchObject({ shape: [2, 3], dtype: 'bf16' });
    expect(ops.gelu(f32())).toMatchObject({ shape: [] });
    expect(ops.addBackward(f32(2, 3)).gradB.shape).toEqual([2, 3]);
  });
});

describe('embedding', () => {
  test.each<Refusal>([
    ['embedding: tokens has dtype f32, expected i32', DTypeError, () => ops.embedding(f32(1, 4), f32(5, 3))],
    ['embedding: tokens has shape [4], expected [B, T]', ShapeError, () => ops.embedding(i32(4), f32(5, 3))],
    [
      'embedding: tokenTable has dtype bf16, expected f32 (parameters are f32)',
      DTypeError,
      () => ops.embedding(i32(1, 4), bf16(5, 3)),
    ],
    [
      'embedding: positionTable has shape [4, 2], expected [Tmax, 3] (tokenTable has width 3)',
      ShapeError,
      () => ops.embedding(i32(1, 4), f32(5, 3), f32(4, 2)),
    ],
    [
      'embedding: positionTable has 3 positions, expected at least 4 (tokens has length 4)',
      ShapeError,
      () => ops.embedding(i32(1, 4), f32(5, 3), f32(3, 3)),
    ],
    [
      "embedding: dtype is 'i32', expected f32, bf16, f16",
      DTypeError,
      () => ops.embedding(i32(1, 4), f32(5, 3), undefined, { dtype: 'i32' }),
    ],
    [
      'embeddingBackward: vocabulary is 0, expected an integer at least 1',
      ArgumentError,
      () => ops.embeddingBackward(f32(1, 4, 3), i32(1, 4), { vocabulary: 0 }),
    ],
    [
      'embeddingBackward: vocabulary is undefined, expected an integer at least 1',
      ArgumentError,
      () => ops.embeddingBackward(f32(1, 4, 3), i32(1, 4), {} as never),
    ],
    [
      'embeddingBackward: positions has 3 positions, expected at least 4 (tokens has length 4)',
      ShapeError,
      () => ops.embeddingBackward(f32(1, 4, 3), i32(1, 4), { vocabulary: 5, positions: 3 }),
    ],
    [
      'embeddingBackward: gradOutput has shape [1, 5, 3], expected [1, 4, C] (tokens has shape [1, 4])',
      ShapeError,
      () => ops.embeddingBackward(f32(1, 5, 3), i32(1, 4), { vocabulary: 5 }),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.embedding(i32(2, 4), f32(5, 3), f32(9, 3), { dtype: 'bf16' })).toMatchObject({
      shape: [2, 4, 3],
      dtype: 'bf16',
    });
    const grads = ops.embeddingBackward(bf16(2, 4, 3), i32(2, 4), { vocabulary: 5, positions: 9 });
    expect([grads.gradTokenTable.shape, grads.gradPositionTable?.shape]).toEqual([
      [5, 3],
      [9, 3],
    ]);
    expect(ops.embeddingBackward(f32(2, 4, 3), i32(2, 4), { vocabulary: 5 })).not.toHaveProperty('gradPositionTable');
  });
});

describe('rope', () => {
  test.each<Refusal>([
    ['rope: x has shape [2, 3, 4], expected [B, T, H, D]', ShapeError, () => ops.rope(f32(2, 3, 4))],
    [
      'rope: the width of x is 5, expected a multiple of 2 (rotary positions rotate pairs of features)',
      ShapeError,
      () => ops.rope(f32(1, 2, 3, 5)),
    ],
    ['rope: base is 0, expected a finite number above 0', ArgumentError, () => ops.rope(f32(1, 2, 3, 4), { base: 0 })],
    [
      'rope: offset is 0.5, expected an integer at least 0',
      ArgumentError,
      () => ops.rope(f32(1, 2, 3, 4), { offset: 0.5 }),
    ],
    [
      "rope: interleaved is 'yes', expected true or false",
      ArgumentError,
      () => ops.rope(f32(1, 2, 3, 4), { interleaved: 'yes' as never }),
    ],
    [
      'ropeBackward: gradOutput has dtype i32, expected f32, bf16, f16',
      DTypeError,
      () => ops.ropeBackward(i32(1, 2, 3, 4)),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.rope(bf16(1, 2, 3, 4))).toMatchObject({ shape: [1, 2, 3, 4], dtype: 'bf16' });
    expect(ops.ropeBackward(f32(1, 2, 3, 4))).toMatchObject({ shape: [1, 2, 3, 4], dtype: 'f32' });
  });
});

describe('crossEntropy', () => {
  const saved = () => ({ logits: f32(2, 3, 5), targets: i32(2, 3), logSumExp: f32(6) });
  test.each<Refusal>([
    ['crossEntropy: targets has dtype f32, expected i32', DTypeError, () => ops.crossEntropy(f32(2, 5), f32(2))],
    [
      'crossEntropy: targets has shape [6], expected [2, 3] (logits has shape [2, 3, 5])',
      ShapeError,
      () => ops.crossEntropy(f32(2, 3, 5), i32(6)),
    ],
    [
      'crossEntropy: ignoreIndex is 0.5, expected an integer at least -2147483648 and at most 2147483647',
      ArgumentError,
      () => ops.crossEntropy(f32(2, 5), i32(2), { ignoreIndex: 0.5 }),
    ],
    [
      'crossEntropyBackward: gradLoss is 1, expected a Tensor',
      ArgumentError,
      () => ops.crossEntropyBackward(1 as never, saved()),
    ],
    [
      'crossEntropyBackward: gradLoss has shape [1], expected [] (the loss is a scalar)',
      ShapeError,
      () => ops.crossEntropyBackward(f32(1), saved()),
    ],
    [
      'crossEntropyBackward: logSumExp has shape [2, 3], expected [6] (logits has 6 rows)',
      ShapeError,
      () => ops.crossEntropyBackward(f32(), { ...saved(), logSumExp: f32(2, 3) }),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    const { loss, logSumExp } = ops.crossEntropy(bf16(2, 3, 5), i32(2, 3));
    expect([loss.shape, loss.dtype, logSumExp.shape, logSumExp.dtype]).toEqual([[], 'f32', [6], 'f32']);
    expect(ops.crossEntropyBackward(f32(), saved())).toMatchObject({ shape: [2, 3, 5], dtype: 'f32' });
    expect(ops.crossEntropy(f32(5), i32()).logSumExp.shape).toEqual([1]);
  });
});

describe('clipGradNorm and adamW', () => {
  const state = () => ({ parameter: f32(2), gradient: f32(2), firstMoment: f32(2), secondMoment: f32(2) });
  const settings = { lr: 1e-3, step: 1 };
  test.each<Refusal>([
    [
      'clipGradNorm: gradients is empty, expected an array of at least one',
      ArgumentError,
      () => ops.clipGradNorm([], 1),
    ],
    [
      'clipGradNorm: gradients is a Map, expected an array of at least one',
      ArgumentError,
      () => ops.clipGradNorm(new Map() as never, 1),
    ],
    [
      'clipGradNorm: gradients[1] has dtype bf16, expected f32 (gradients of parameters are f32)',
      DTypeError,
      () => ops.clipGradNorm([f32(2), bf16(2)], 1),
    ],
    [
      'clipGradNorm: maxNorm is -1, expected a finite number at least 0',
      ArgumentError,
      () => ops.clipGradNorm([f32(2)], -1),
    ],
    ['adamW: states is empty, expected an array of at least one', ArgumentError, () => ops.adamW([], settings)],
    ['adamW: states[0] is null, expected an object', ArgumentError, () => ops.adamW([null as never], settings)],
    [
      'adamW: states[1].gradient has shape [3], expected [2] (the shape of the parameter)',
      ShapeError,
      () => ops.adamW([state(), { ...state(), gradient: f32(3) }], settings),
    ],
    [
      'adamW: states[0].secondMoment is undefined, expected a Tensor',
      ArgumentError,
      () => ops.adamW([{ ...state(), secondMoment: undefined as never }], settings),
    ],
    [
      'adamW: states[0].gradient has dtype bf16, expected f32',
      DTypeError,
      () => ops.adamW([{ ...state(), gradient: bf16(2) }], settings),
    ],
    ['adamW: step is 0, expected an integer at least 1', ArgumentError, () => ops.adamW([state()], { lr: 1, step: 0 })],
    [
      'adamW: lr is undefined, expected a finite number at least 0',
      ArgumentError,
      () => ops.adamW([state()], { step: 1 } as never),
    ],
    [
      'adamW: beta1 is 1, expected a finite number at least 0 and below 1',
      ArgumentError,
      () => ops.adamW([state()], { ...settings, beta1: 1 }),
    ],
    [
      "adamW: there is no option 'betas'; known: lr, beta1, beta2, eps, weightDecay, step",
      ArgumentError,
      () => ops.adamW([state()], { ...settings, betas: [0.9, 0.95] } as never),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));

  test('shapes of the results', () => {
    expect(ops.clipGradNorm([f32(2), f32(3, 4)], 1)).toMatchObject({ shape: [], dtype: 'f32' });
    expect(ops.adamW([state()], settings)).toBeUndefined();
  });
});
