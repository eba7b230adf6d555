import { afterAll, describe, expect, test } from 'vitest';
import {
  MatrixFactorizationAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  SimulatedAttention,
  TensorProductAttention,
} from '../../lib/attentions/index.js';
import { ArgumentError, DisposedError, DTypeError, getDevice, ShapeError, scope, Tensor } from '../../lib/index.js';
import { bf16, expectRefusal, f32, type Refusal, thrownBy } from './helpers.js';

const sizes = { width: 8, heads: 2 };
const simulated = { ...sizes, simHeads: 4, simHeadDim: 6, kernelSize: 3 };
const modules = {
  multiHead: new MultiHeadAttention({ ...sizes, kvHeads: 1, rope: { base: 500 } }),
  latent: new MultiHeadLatentAttention({ ...sizes, kvRank: 3, ropeDim: 2, queryRank: 5 }),
  tensorProduct: new TensorProductAttention(sizes),
  matrixFactorization: new MatrixFactorizationAttention({ ...sizes, headDim: 6 }),
  simulated: new SimulatedAttention({ ...simulated, rope: {}, expansion: 'features', simHeads: 2, residual: false }),
};
afterAll(() => {
  for (const module of Object.values(modules)) module.dispose();
});

describe('config', () => {
  test('is resolved and frozen', () => {
    const common = { ...sizes, causal: true, dtype: 'f32', device: getDevice(), seed: 0 };
    const rotation = { base: 10000, offset: 0, interleaved: false };
    expect(modules.multiHead.config).toEqual({
      ...common,
      kvHeads: 1,
      headDim: 4,
      bias: true,
      rope: { ...rotation, base: 500 },
    });
    expect(modules.latent.config).toEqual({
      ...common,
      kvRank: 3,
      ropeDim: 2,
      queryRank: 5,
      headDim: 4,
      rope: rotation,
    });
    expect(modules.tensorProduct.config).toEqual({
      ...common,
      headDim: 4,
      queryRank: 6,
      keyRank: 2,
      valueRank: 2,
      rope: rotation,
    });
    expect(modules.matrixFactorization.config).toEqual({ ...common, headDim: 6, queryRank: 6, rope: rotation });
    expect(modules.simulated.config).toEqual({
      ...common,
      simHeads: 2,
      simHeadDim: 6,
      kernelSize: 1,
      rope: { base: 10000, offset: 0 },
      ropeAt: 'expanded',
      expansion: 'features',
      recompute: true,
      residual: false,
      aggregation: true,
    });
    for (const { config } of Object.values(modules)) {
      expect(Object.isFrozen(config)).toBe(true);
      expect(Object.isFrozen(config.rope)).toBe(true);
    }
  });

  const head = (change: object) => () => new MultiHeadAttention({ ...sizes, ...change });
  const latent = (change: object) => () => new MultiHeadLatentAttention({ ...sizes, kvRank: 3, ropeDim: 2, ...change });
  const product = (change: object) => () => new TensorProductAttention({ ...sizes, ...change });
  const factored = (change: object) => () => new MatrixFactorizationAttention({ ...sizes, headDim: 4, ...change });
  const sas = (change: object) => () => new SimulatedAttention({ ...simulated, ...change });
  test.each<Refusal>([
    ['MultiHeadAttention: config is 3, expected an object', ArgumentError, () => new MultiHeadAttention(3 as never)],
    ['MultiHeadAttention: width is 0, expected an integer at least 1', ArgumentError, head({ width: 0 })],
    ['MultiHeadAttention: heads is 2, expected a multiple of 3 (kvHeads is 3)', ShapeError, head({ kvHeads: 3 })],
    [
      'MultiHeadAttention: width is 9, expected a multiple of 2 (heads is 2 and headDim not given)',
      ShapeError,
      head({ width: 9 }),
    ],
    ['MultiHeadAttention: bias is 1, expected true or false', ArgumentError, head({ bias: 1 })],
    [
      'MultiHeadAttention: headDim is 3, expected a multiple of 2 (rotary positions rotate pairs of features)',
      ShapeError,
      head({ headDim: 3, rope: {} }),
    ],
    ['MultiHeadAttention: rope is true, expected an object', ArgumentError, head({ rope: true })],
    [
      'MultiHeadAttention: rope.base is 0, expected a finite number above 0',
      ArgumentError,
      head({ rope: { base: 0 } }),
    ],
    [
      "MultiHeadAttention: there is no option 'rope.theta'; known: rope.base, rope.offset, rope.interleaved",
      ArgumentError,
      head({ rope: { theta: 1 } }),
    ],
    [
      "MultiHeadAttention: there is no option 'queryRank'; known: width, heads, causal, dtype, device, seed, kvHeads, headDim, rope, bias",
      ArgumentError,
      head({ queryRank: 2 }),
    ],
    ["MultiHeadAttention: dtype is 'i32', expected f32, bf16, f16", DTypeError, head({ dtype: 'i32' })],
    [
      'MultiHeadLatentAttention: kvRank is undefined, expected an integer at least 1',
      ArgumentError,
      latent({ kvRank: undefined }),
    ],
    [
      'MultiHeadLatentAttention: ropeDim is 3, expected a multiple of 2 (rotary positions rotate pairs of features)',
      ShapeError,
      latent({ ropeDim: 3 }),
    ],
    [
      'MultiHeadLatentAttention: queryRank is 0, expected an integer at least 1',
      ArgumentError,
      latent({ queryRank: 0 }),
    ],
    [
      'TensorProductAttention: valueRank is 0.5, expected an integer at least 1',
      ArgumentError,
      product({ valueRank: 0.5 }),
    ],
    [
      'MatrixFactorizationAttention: queryRank is -1, expected an integer at least 1',
      ArgumentError,
      factored({ queryRank: -1 }),
    ],
    ['SimulatedAttention: width is 9, expected a multiple of 2 (heads is 2)', ShapeError, sas({ width: 9 })],
    ['SimulatedAttention: simHeads is 5, expected a multiple of 2 (heads is 2)', ShapeError, sas({ simHeads: 5 })],
    [
      'SimulatedAttention: the width that rope rotates is 5, expected a multiple of 2 (rotary positions rotate pairs of features)',
      ShapeError,
      sas({ simHeadDim: 5, rope: {} }),
    ],
    [
      "SimulatedAttention: ropeAt is 'keys', expected 'expanded' or 'projected'",
      ArgumentError,
      sas({ ropeAt: 'keys' }),
    ],
    [
      "SimulatedAttention: simHeads is 4, expected 2 (expansion is 'features' and heads 2)",
      ShapeError,
      sas({ expansion: 'features' }),
    ],
    [
      "SimulatedAttention: simHeadDim is 6, expected 4 (expansion is 'heads', width / heads 4)",
      ShapeError,
      sas({ expansion: 'heads' }),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));
});

describe.each(Object.entries(modules))('%s', (_, module) => {
  const name = module.constructor.name;
  const x = Tensor.randn([2, 5, 8], { seed: 1 });

  test('refuses what does not fit it', () => {
    const { output, saved } = module.forward(x);
    output.dispose();
    const refusals: Refusal[] = [
      [
        `${name}.forward: x has shape [2, 5, 7], expected [B, T, 8] (width is 8)`,
        ShapeError,
        () => module.forward(f32(2, 5, 7)),
      ],
      [
        `${name}.forward: x has dtype bf16, expected f32 (the dtype of the module)`,
        DTypeError,
        () => module.forward(bf16(2, 5, 8)),
      ],
      [
        `${name}.forward: save is 1, expected true or false`,
        ArgumentError,
        () => module.forward(x, { save: 1 as never }),
      ],
      [
        `${name}.backward: saved is null, expected what forward returned as saved`,
        ArgumentError,
        () => module.backward(x, null as never),
      ],
      [
        `${name}.backward: gradOutput has shape [1, 5, 8], expected [2, 5, 8] (the shape of x)`,
        ShapeError,
        () => module.backward(f32(1, 5, 8), saved as never),
      ],
    ];
    for (const refusal of refusals) expectRefusal(refusal);
    saved.dispose();
    expect(thrownBy(() => module.backward(x, saved as never)).message).toBe(
      `${name}.backward: saved has been disposed`,
    );
  });

  test('forward keeps nothing without save, and what it keeps goes with saved', async () => {
    await module.parameters.values().next().value?.device.synchronize();
    const device = getDevice();
    const before = device.memory().live;
    const inference = module.forward(x, { save: false });
    expect(inference.saved).toBeNull();
    expect(device.memory().live - before).toBe(x.byteLength);
    const { output, saved } = module.forward(x);
    scope(() => void module.backward(output, saved as never));
    saved.dispose();
    for (const tensor of [inference.output, output]) tensor.dispose();
    await device.synchronize();
    expect(device.memory().live).toBe(before);
  });
});

test('saved of another module is refused', () => {
  const twin = new MultiHeadAttention({ ...sizes, kvHeads: 1 });
  const { output, saved } = twin.forward(f32(1, 2, 8));
  expectRefusal([
    "MultiHeadAttention.backward: saved was returned by a different module's forward",
    ArgumentError,
    () => modules.multiHead.backward(output, saved),
  ]);
  twin.dispose();
});

test('a disposed module says so, and its constants are gone too', async () => {
  const before = getDevice().memory().live;
  const module = new SimulatedAttention({ ...simulated, residual: false });
  module.dispose();
  expectRefusal([
    'SimulatedAttention.forward: the module has been disposed (its parameter query.weight is gone)',
    DisposedError,
    () => module.forward(f32(1, 2, 8)),
  ]);
  await getDevice().synchronize();
  expect(getDevice().memory().live).toBe(before);
});
