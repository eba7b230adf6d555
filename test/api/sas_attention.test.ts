import { afterAll, describe, expect, test } from 'vitest';
import {
  ArgumentError,
  DisposedError,
  DTypeError,
  getDevice,
  ops,
  SasAttention,
  ShapeError,
  Tensor,
} from '../../lib/index.js';
import { bf16, expectRefusal, f32, type Refusal, small, thrownBy, values } from './helpers.js';

const module = new SasAttention(small);
afterAll(() => module.dispose());
const input = (seed: number, length = 5) => Tensor.randn([2, length, 2, 4], { seed });

describe('config', () => {
  test('is resolved and frozen', () => {
    expect(module.config).toEqual({
      ...small,
      causal: true,
      scale: 1 / Math.sqrt(6),
      recompute: true,
      dtype: 'f32',
      device: getDevice(),
      seed: 0,
    });
    expect(Object.isFrozen(module.config)).toBe(true);
    expect(new SasAttention({ heads: 1, headDim: 2, simHeads: 1, simHeadDim: 2 }).config.kernelSize).toBe(5);
  });

  const make = (change: object) => () => new SasAttention({ ...small, ...change });
  test.each<Refusal>([
    [
      'SasAttention: config is undefined, expected an object',
      ArgumentError,
      () => new SasAttention(undefined as never),
    ],
    ['SasAttention: heads is 0, expected an integer at least 1', ArgumentError, make({ heads: 0 })],
    ['SasAttention: headDim is undefined, expected an integer at least 1', ArgumentError, make({ headDim: undefined })],
    ['SasAttention: simHeads is 5, expected a multiple of 2 (heads is 2)', ShapeError, make({ simHeads: 5 })],
    [
      'SasAttention: kernelSize is 4, expected an odd number (the convolution is centred)',
      ShapeError,
      make({ kernelSize: 4 }),
    ],
    ['SasAttention: scale is Infinity, expected a finite number', ArgumentError, make({ scale: Infinity })],
    ["SasAttention: causal is 'no', expected true or false", ArgumentError, make({ causal: 'no' })],
    ['SasAttention: recompute is 0, expected true or false', ArgumentError, make({ recompute: 0 })],
    ["SasAttention: dtype is 'i32', expected f32, bf16, f16", DTypeError, make({ dtype: 'i32' })],
    ['SasAttention: seed is 1.5, expected an integer at least 0', ArgumentError, make({ seed: 1.5 })],
    ["SasAttention: device is 'cpu', expected a Device (from getDevice)", ArgumentError, make({ device: 'cpu' })],
    [
      "SasAttention: there is no option 'numHeads'; known: heads, headDim, simHeads, simHeadDim, kernelSize, causal, scale, recompute, dtype, device, seed",
      ArgumentError,
      make({ numHeads: 2 }),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));
});

describe('parameters', () => {
  test('are named and shaped as in the published module', () => {
    const shapes = Object.fromEntries([...module.parameters].map(([name, { shape }]) => [name, shape]));
    const heads = (x: string) => ({
      [`sas_${x}.0.weight`]: [4, 2, 3],
      [`sas_${x}.0.bias`]: [4],
      [`sas_${x}.1.process.weight`]: [4, 4, 3],
      [`sas_${x}.1.process.bias`]: [4],
    });
    const features = (x: string) => ({
      [`sas_${x}.2.weight`]: [6, 4],
      [`sas_${x}.2.bias`]: [6],
      [`sas_${x}.3.process.weight`]: [6, 6],
      [`sas_${x}.3.process.bias`]: [6],
    });
    expect(shapes).toEqual({
      ...heads('q'),
      ...features('q'),
      ...heads('k'),
      ...features('k'),
      ...heads('v'),
      'output_dense.weight': [8, 8],
      'output_dense.bias': [8],
    });
    for (const parameter of module.parameters.values()) expect(parameter.dtype).toBe('f32');
  });

  test('are uniform within 1/sqrt(fan_in)', async () => {
    const wide = new SasAttention({ heads: 4, headDim: 16, simHeads: 8, simHeadDim: 24 });
    const bounds: [string, number][] = [
      ['sas_q.0.weight', 1 / Math.sqrt(4 * 5)],
      ['sas_q.0.bias', 1 / Math.sqrt(4 * 5)],
      ['sas_v.1.process.weight', 1 / Math.sqrt(8 * 5)],
      ['sas_k.2.weight', 1 / Math.sqrt(16)],
      ['sas_k.3.process.bias', 1 / Math.sqrt(24)],
      ['output_dense.weight', 1 / Math.sqrt(64)],
    ];
    for (const [name, bound] of bounds) {
      const x = await values(wide.parameters.get(name) as Tensor);
      const largest = Math.max(...x.map(Math.abs));
      expect(largest).toBeLessThanOrEqual(bound);
      expect(largest).toBeGreaterThan(0.6 * bound);
      if (x.length >= 160) expect(largest).toBeGreaterThan(0.95 * bound);
    }
    const q = await values(wide.parameters.get('sas_q.0.weight') as Tensor);
    expect(await values(wide.parameters.get('sas_k.0.weight') as Tensor)).not.toEqual(q);
    wide.dispose();
  });

  test('repeat for a seed and differ for another', async () => {
    const [a, b, c] = [0, 0, 7].map((seed) => new SasAttention({ ...small, seed }));
    const read = (m?: SasAttention) => values(m?.parameters.get('sas_q.2.weight') as Tensor);
    expect(await read(a)).toEqual(await read(b));
    expect(await read(a)).not.toEqual(await read(c));
  });
});

describe('forward and backward', () => {
  const parameter = (name: string) => module.parameters.get(name) as Tensor;
  const weights = (x: string) => ({
    headWeight: parameter(`sas_${x}.0.weight`),
    headBias: parameter(`sas_${x}.0.bias`),
    headResidualWeight: parameter(`sas_${x}.1.process.weight`),
    headResidualBias: parameter(`sas_${x}.1.process.bias`),
    featureWeight: module.parameters.get(`sas_${x}.2.weight`),
    featureBias: module.parameters.get(`sas_${x}.2.bias`),
    featureResidualWeight: module.parameters.get(`sas_${x}.3.process.weight`),
    featureResidualBias: module.parameters.get(`sas_${x}.3.process.bias`),
  });

  test('are the ops in order', async () => {
    const [q, k, v] = [input(1), input(2), input(3)];
    const { output, saved } = module.forward(q, k, v);
    expect(output).toMatchObject({ shape: [2, 5, 8], dtype: 'f32' });
    const expanded = { q: ops.expand(q, weights('q')), k: ops.expand(k, weights('k')), v: ops.expand(v, weights('v')) };
    const attended = ops.attention(expanded.q, expanded.k, expanded.v);
    const mean = ops.aggregate(attended.output, 2);
    const expected = ops.linear(mean, parameter('output_dense.weight'), parameter('output_dense.bias'));
    expect(await output.data()).toEqual(await expected.data());
    const fusedMean = ops.attentionMean(expanded.q, expanded.k, expanded.v, { heads: 2 });
    const inferred = ops.linear(fusedMean, parameter('output_dense.weight'), parameter('output_dense.bias'));
    expect(await module.forward(q, k, v, { save: false }).output.data()).toEqual(await inferred.data());

    const gradOutput = Tensor.randn([2, 5, 8], { seed: 4 });
    const { gradQ, gradK, gradV, gradParameters } = module.backward(gradOutput, saved);
    const dense = ops.linearBackward(gradOutput, mean, parameter('output_dense.weight'));
    const grads = ops.attentionBackward(ops.aggregateBackward(dense.gradX, 2, 4), { ...expanded, ...attended });
    const back = ops.expandBackward(grads.gradK, k, weights('k'));
    expect(await gradK.data()).toEqual(await back.gradX.data());
    expect(await gradQ.data()).toEqual(await ops.expandBackward(grads.gradQ, q, weights('q')).gradX.data());
    expect(await gradV.data()).toEqual(await ops.expandBackward(grads.gradV, v, weights('v')).gradX.data());
    expect([...gradParameters.keys()].sort()).toEqual([...module.parameters.keys()].sort());
    for (const [name, gradient] of gradParameters) {
      expect(gradient).toMatchObject({ shape: parameter(name).shape, dtype: 'f32' });
    }
    const named = gradParameters.get('sas_k.1.process.weight') as Tensor;
    expect(await named.data()).toEqual(await back.gradWeights.headResidualWeight.data());
    expect(await gradParameters.get('output_dense.bias')?.data()).toEqual(await dense.gradBias.data());
  });

  test('saved outlives the inputs and serves more than one backward', async () => {
    const inputs = [input(1), input(2), input(3)] as const;
    const { output, saved } = module.forward(...inputs);
    for (const x of inputs) x.dispose();
    const first = await module.backward(output, saved).gradQ.data();
    expect(await module.backward(output, saved).gradQ.data()).toEqual(first);
    saved.dispose();
    saved[Symbol.dispose]();
    expect(thrownBy(() => module.backward(output, saved)).message).toBe(
      'SasAttention.backward: saved has been disposed',
    );
  });

  test('queries and keys may differ in length', () => {
    const { output, saved } = module.forward(input(1, 3), input(2, 7), input(3, 7));
    expect(output.shape).toEqual([2, 3, 8]);
    const { gradQ, gradK } = module.backward(output, saved);
    expect([gradQ.shape, gradK.shape]).toEqual([
      [2, 3, 2, 4],
      [2, 7, 2, 4],
    ]);
  });

  test('bf16 activations, f32 parameters', () => {
    const narrow = new SasAttention({ ...small, dtype: 'bf16' });
    const x = Tensor.randn([1, 3, 2, 4], { seed: 1, dtype: 'bf16' });
    const { output, saved } = narrow.forward(x, x, x);
    const { gradV, gradParameters } = narrow.backward(output, saved);
    expect([output.dtype, gradV.dtype]).toEqual(['bf16', 'bf16']);
    for (const gradient of gradParameters.values()) expect(gradient.dtype).toBe('f32');
  });

  const x = () => f32(2, 5, 2, 4);
  const saved = () => module.forward(x(), x(), x()).saved;
  test.each<Refusal>([
    [
      'SasAttention.forward: k is undefined, expected a Tensor',
      ArgumentError,
      () => module.forward(x(), undefined as never, x()),
    ],
    [
      'SasAttention.forward: q has shape [2, 5, 8], expected [B, Tq, 2, 4] (heads is 2 and headDim 4)',
      ShapeError,
      () => module.forward(f32(2, 5, 8), x(), x()),
    ],
    [
      'SasAttention.forward: k has shape [1, 5, 2, 4], expected [2, Tk, 2, 4] (q has shape [2, 5, 2, 4])',
      ShapeError,
      () => module.forward(x(), f32(1, 5, 2, 4), x()),
    ],
    [
      'SasAttention.forward: v has shape [2, 6, 2, 4], expected [2, 5, 2, 4] (k has shape [2, 5, 2, 4])',
      ShapeError,
      () => module.forward(x(), x(), f32(2, 6, 2, 4)),
    ],
    [
      'SasAttention.forward: q has dtype bf16, expected f32 (the dtype of the module)',
      DTypeError,
      () => module.forward(bf16(2, 5, 2, 4), x(), x()),
    ],
    [
      'SasAttention.forward: save is 0, expected true or false',
      ArgumentError,
      () => module.forward(x(), x(), x(), { save: 0 as never }),
    ],
    [
      "SasAttention.forward: there is no option 'causal'; known: save",
      ArgumentError,
      () => module.forward(x(), x(), x(), { causal: false } as never),
    ],
    [
      'SasAttention.backward: saved is null, expected what forward returned as saved',
      ArgumentError,
      () => module.backward(f32(2, 5, 8), null as never),
    ],
    [
      "SasAttention.backward: saved was returned by a different module's forward",
      ArgumentError,
      () => new SasAttention(small).backward(f32(2, 5, 8), saved()),
    ],
    [
      'SasAttention.backward: gradOutput has shape [2, 5, 2, 4], expected [2, 5, 8] (the shape of the output)',
      ShapeError,
      () => module.backward(x(), saved()),
    ],
    [
      'SasAttention.backward: gradOutput has dtype bf16, expected f32 (the dtype of the module)',
      DTypeError,
      () => module.backward(bf16(2, 5, 8), saved()),
    ],
    [
      'SasAttention.forward: the module has been disposed (its parameter sas_q.0.weight is gone)',
      DisposedError,
      () => {
        const gone = new SasAttention(small);
        gone.dispose();
        gone.dispose();
        gone.forward(x(), x(), x());
      },
    ],
  ])('refuses: %s', (...refusal) => expectRefusal(refusal));
});

describe('state dict', () => {
  test('travels from one module to another', async () => {
    const target = new SasAttention({ ...small, seed: 9 });
    const state = await module.stateDict();
    expect(state.get('sas_q.0.weight')?.shape).toEqual([4, 2, 3]);
    target.loadStateDict(state);
    const x = input(1);
    expect(await target.forward(x, x, x).output.data()).toEqual(await module.forward(x, x, x).output.data());
    expect(await target.stateDict()).toEqual(state);
    target.loadStateDict([...state].reverse());
    target.loadStateDict(state.entries());
    expect(await target.stateDict()).toEqual(state);
  });

  test('narrow weights widen', async () => {
    const target = new SasAttention(small);
    const state = await module.stateDict();
    const ones = { shape: [4], dtype: 'bf16' as const, data: new Uint16Array(4).fill(0x3f80) };
    target.loadStateDict([...state].map(([name, entry]) => [name, name === 'sas_v.0.bias' ? ones : entry] as const));
    expect((await target.stateDict()).get('sas_v.0.bias')?.data).toEqual(Float32Array.of(1, 1, 1, 1));
  });

  test('is refused as a whole before anything is written', async () => {
    const target = new SasAttention({ ...small, seed: 9 });
    const before = await target.stateDict();
    const state = await module.stateDict();
    const withChange = (change: Record<string, unknown>) => () =>
      target.loadStateDict(Object.entries({ ...Object.fromEntries(state), ...change }) as never);
    const without = (name: string) => [...state].filter(([other]) => other !== name);
    const op = 'SasAttention.loadStateDict';
    const bias = { shape: [8], data: new Float32Array(8) };
    const refusals: Refusal[] = [
      [
        `${op}: expected exactly the module's 22 parameters; missing: sas_q.0.bias`,
        ArgumentError,
        () => target.loadStateDict(without('sas_q.0.bias')),
      ],
      [
        `${op}: expected exactly the module's 22 parameters; missing: sas_q.0.bias; unexpected: sas_q.9, x`,
        ArgumentError,
        () => target.loadStateDict([...without('sas_q.0.bias'), ['sas_q.9', bias], ['x', bias]]),
      ],
      [
        `${op}: expected exactly the module's 22 parameters; twice: output_dense.bias`,
        ArgumentError,
        () => target.loadStateDict([...state, ['output_dense.bias', bias]]),
      ],
      [
        `${op}: output_dense.bias has shape [8, 1], expected [8]`,
        ShapeError,
        withChange({ 'output_dense.bias': { ...bias, shape: [8, 1] } }),
      ],
      [
        `${op}: output_dense.bias has 7 elements, expected 8 (shape [8])`,
        ShapeError,
        withChange({ 'output_dense.bias': { ...bias, data: new Float32Array(7) } }),
      ],
      [
        `${op}: output_dense.bias has a Float64Array, expected a Float32Array (f32)`,
        DTypeError,
        withChange({ 'output_dense.bias': { ...bias, data: new Float64Array(8) } }),
      ],
      [
        `${op}: output_dense.bias is null, expected an object`,
        ArgumentError,
        withChange({ 'output_dense.bias': null }),
      ],
      [
        `${op}: output_dense.bias.dtype is 'i32', expected f32, bf16, f16`,
        DTypeError,
        withChange({ 'output_dense.bias': { ...bias, dtype: 'i32' } }),
      ],
    ];
    for (const refusal of refusals) expectRefusal(refusal);
    expect(await target.stateDict()).toEqual(before);
  });
});
