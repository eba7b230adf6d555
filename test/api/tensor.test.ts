import { describe, expect, test } from 'vitest';
import { ArgumentError, type DType, DTypeError, getDevice, ShapeError, Tensor } from '../../lib/index.js';
import { expectRefusal, f32, i32, type Refusal, values, zeros } from './helpers.js';

describe('from', () => {
  test('numbers become f32 on the default device', async () => {
    const t = Tensor.from([1, 2.5, -3, 4, 5, 6], [2, 3]);
    expect(t).toMatchObject({ shape: [2, 3], dtype: 'f32', size: 6, byteLength: 24, disposed: false });
    expect(t.device).toBe(getDevice());
    expect(await t.data()).toEqual(Float32Array.of(1, 2.5, -3, 4, 5, 6));
  });

  test('takes its copy before it returns', async () => {
    const source = Float32Array.of(1, 2);
    const t = Tensor.from(source, [2]);
    source.fill(9);
    expect(await values(t)).toEqual([1, 2]);
  });

  test('reads a part of a buffer', async () => {
    const whole = Float32Array.of(0, 1, 2, 3);
    expect(await values(Tensor.from(whole.subarray(1, 3), [2]))).toEqual([1, 2]);
  });

  test('integers', async () => {
    const t = Tensor.from(Int32Array.of(-1, 2 ** 31 - 1), [2]);
    expect(t.dtype).toBe('i32');
    expect(await t.data()).toEqual(Int32Array.of(-1, 2 ** 31 - 1));
    expect(await Tensor.from([7, -8], [2], { dtype: 'i32' }).data()).toEqual(Int32Array.of(7, -8));
  });

  test('a Uint16Array is raw bits', async () => {
    const bf16 = Tensor.from(Uint16Array.of(0x3f80, 0xc000), [2], { dtype: 'bf16' });
    expect(bf16.byteLength).toBe(4);
    expect(await bf16.data()).toEqual(Float32Array.of(1, -2));
    const f16 = Tensor.from(Uint16Array.of(0x3c00, 0xc000), [2], { dtype: 'f16' });
    expect(await f16.data()).toEqual(Float32Array.of(1, -2));
    expect(await f16.raw()).toEqual(Uint16Array.of(0x3c00, 0xc000));
    for (const [dtype, infinity] of [
      ['bf16', 0x7f80],
      ['f16', 0x7c00],
    ] as const) {
      const special = Tensor.from(Uint16Array.of(infinity, infinity | 0x8000, infinity | 1), [3], { dtype });
      expect(await special.data()).toEqual(Float32Array.of(Infinity, -Infinity, Number.NaN));
    }
  });

  test.each<[DType, number[]]>([
    ['bf16', [1, 1.0078125, -0.333984375, 0]],
    ['f16', [1, 1.00390625, -0.333251953125, 0]],
  ])('floats round to nearest even %s', async (dtype, rounded) => {
    const source = [1, 1.004, -1 / 3, 0];
    for (const data of [source, Float32Array.from(source)]) {
      expect(await values(Tensor.from(data, [4], { dtype }))).toEqual(rounded);
    }
  });

  test('a scalar, and nothing at all', async () => {
    expect(await values(Tensor.from([5], []))).toEqual([5]);
    const none = Tensor.from([], [3, 0]);
    expect(none.size).toBe(0);
    expect(await values(none)).toEqual([]);
    expect((await zeros('bf16', 0).raw()).length).toBe(0);
  });

  test('memory shared between threads is copied like any other', async () => {
    const shared = new Float32Array(new SharedArrayBuffer(8));
    shared.set([3, 4]);
    expect(await values(Tensor.from(shared, [2]))).toEqual([3, 4]);
  });
});

describe('zeros and randn', () => {
  test.each<DType>(['f32', 'bf16', 'f16', 'i32'])('zeros of %s', async (dtype) => {
    expect(await values(zeros(dtype, 3, 2))).toEqual([0, 0, 0, 0, 0, 0]);
  });

  test('randn repeats for a seed and differs for another', async () => {
    const [a, b, c] = await Promise.all([1, 1, 2].map((seed) => values(Tensor.randn([100], { seed }))));
    expect(a).toEqual(b);
    expect(a).not.toEqual(c);
  });

  test('randn has mean 0 and deviation 1', async () => {
    const n = 100_000;
    const x = await values(Tensor.randn([n], { seed: 3 }));
    const mean = x.reduce((sum, value) => sum + value, 0) / n;
    const variance = x.reduce((sum, value) => sum + (value - mean) ** 2, 0) / n;
    expect(Math.abs(mean)).toBeLessThan(0.02);
    expect(Math.abs(variance - 1)).toBeLessThan(0.03);
  });

  test('randn of a narrow dtype is the rounded one', async () => {
    const wide = Tensor.randn([64], { seed: 5 });
    const narrow = Tensor.randn([64], { seed: 5, dtype: 'bf16' });
    expect(await narrow.raw()).toEqual(await wide.to({ dtype: 'bf16' }).raw());
  });
});

describe('reshape, to, copyFrom', () => {
  test('reshape shares memory', async () => {
    const t = Tensor.from([1, 2, 3, 4, 5, 6], [2, 3]);
    const view = t.reshape([3, -1]);
    expect(view.shape).toEqual([3, 2]);
    t.copyFrom([6, 5, 4, 3, 2, 1]);
    expect(await values(view)).toEqual([6, 5, 4, 3, 2, 1]);
    expect(Tensor.from([1], []).reshape([1, 1]).shape).toEqual([1, 1]);
    expect(f32(0, 4).reshape([2, 0]).shape).toEqual([2, 0]);
  });

  test('to converts, or shares where nothing changes', async () => {
    const t = Tensor.from([1, 2], [2]);
    const half = t.to({ dtype: 'f16' });
    expect(half.dtype).toBe('f16');
    const same = t.to({ dtype: 'f32', device: t.device });
    t.copyFrom([3, 4]);
    expect(await values(same)).toEqual([3, 4]);
    expect(await values(half)).toEqual([1, 2]);
    expect(await values(half.to({ dtype: 'bf16' }))).toEqual([1, 2]);
  });

  test('copyFrom takes its copy before it returns, in order with the ops around it', async () => {
    const t = Tensor.from([1, 2], [2], { dtype: 'bf16' });
    const before = t.to({ dtype: 'f32' });
    const source = Float32Array.of(3, 4);
    t.copyFrom(source);
    source.fill(9);
    const after = t.to({ dtype: 'f32' });
    t.copyFrom(Uint16Array.of(0, 0));
    expect(await values(before)).toEqual([1, 2]);
    expect(await values(after)).toEqual([3, 4]);
    expect(await values(t)).toEqual([0, 0]);
  });

  test('the shape cannot be changed from outside', () => {
    const shape = [2, 3];
    const t = f32(...shape);
    const u = Tensor.zeros(shape);
    shape[0] = 7;
    expect(u.shape).toEqual([2, 3]);
    expect(Object.isFrozen(t.shape)).toBe(true);
  });
});

describe('wrap', () => {
  test('shares the memory of the caller', async () => {
    const data = Float32Array.of(1, 2, 3, 4);
    const t = Tensor.wrap(data, [2, 2]);
    expect(t.device.info.id).toBe('cpu');
    data[0] = 10;
    expect(await values(t)).toEqual([10, 2, 3, 4]);
    t.copyFrom([5, 6, 7, 8]);
    await t.device.synchronize();
    expect(data).toEqual(Float32Array.of(5, 6, 7, 8));
    const copy = await t.data();
    copy.fill(0);
    expect(data[0]).toBe(5);
  });

  test('shares a part of a buffer', async () => {
    const whole = Int32Array.of(1, 2, 3, 4);
    expect(await values(Tensor.wrap(whole.subarray(1, 3), [2]))).toEqual([2, 3]);
  });

  test('a Uint16Array is bf16 unless said otherwise', async () => {
    expect(Tensor.wrap(Uint16Array.of(0x3f80), [1]).dtype).toBe('bf16');
    expect(await values(Tensor.wrap(Uint16Array.of(0x3c00), [1], { dtype: 'f16' }))).toEqual([1]);
  });

  test('the buffer cannot be transferred away', async () => {
    const data = Float32Array.of(1, 2);
    const t = Tensor.wrap(data, [2]);
    const { port1, port2 } = new MessageChannel();
    try {
      port1.postMessage(data, [data.buffer]);
    } catch {
      // Later versions of Node throw instead of copying.
    }
    port1.close();
    port2.close();
    expect(data.length).toBe(2);
    expect(await values(t)).toEqual([1, 2]);
  });

  test('keeps the memory alive, also for a view', async () => {
    const view = (() => {
      using t = Tensor.wrap(new Float32Array(1 << 16).fill(7), [1 << 16]);
      return t.reshape([256, 256]);
    })();
    for (let i = 0; i < 50; i++) new Float32Array(1 << 20).fill(i);
    expect((await view.data()).every((value) => value === 7)).toBe(true);
  });

  test.each<Refusal>([
    [
      'Tensor.wrap: data has a resizable buffer, expected a plain ArrayBuffer of fixed length',
      ArgumentError,
      () => Tensor.wrap(new Float32Array(new ArrayBuffer(8, { maxByteLength: 16 })), [2]),
    ],
    [
      'Tensor.wrap: data has a shared buffer, expected a plain ArrayBuffer of fixed length',
      ArgumentError,
      () => Tensor.wrap(new Float32Array(new SharedArrayBuffer(8)), [2]),
    ],
    [
      'Tensor.wrap: data has a detached buffer, expected a plain ArrayBuffer of fixed length',
      ArgumentError,
      () => {
        const data = new Float32Array(2);
        structuredClone(data, { transfer: [data.buffer] });
        Tensor.wrap(data, [0]);
      },
    ],
    [
      'Tensor.wrap: data has 2 elements, expected 3 (shape [3])',
      ShapeError,
      () => Tensor.wrap(new Float32Array(2), [3]),
    ],
    [
      'Tensor.wrap: data is a Float32Array and dtype is i32, expected dtype f32, bf16, f16',
      DTypeError,
      () => Tensor.wrap(new Float32Array(2), [2], { dtype: 'i32' }),
    ],
    [
      'Tensor.wrap: data holds f32 and dtype is bf16, expected f32',
      DTypeError,
      () => Tensor.wrap(new Float32Array(2), [2], { dtype: 'bf16' }),
    ],
    [
      'Tensor.wrap: data is an array, expected a typed array (its memory is shared)',
      DTypeError,
      () => Tensor.wrap([1, 2] as never, [2]),
    ],
    [
      "Tensor.wrap: there is no option 'device'; known: dtype",
      ArgumentError,
      () => Tensor.wrap(new Float32Array(2), [2], { device: getDevice('cpu') } as never),
    ],
  ])('refuses: %s', (...refusal) => expectRefusal(refusal));
});

describe('bad arguments', () => {
  test.each<Refusal>([
    ['Tensor.from: data has 3 elements, expected 4 (shape [2, 2])', ShapeError, () => Tensor.from([1, 2, 3], [2, 2])],
    [
      'Tensor.from: data is a Float64Array, expected a Float32Array, Int32Array, Uint16Array or an array of numbers',
      DTypeError,
      () => Tensor.from(new Float64Array(2) as never, [2]),
    ],
    [
      'Tensor.from: data is undefined, expected a Float32Array, Int32Array, Uint16Array or an array of numbers',
      DTypeError,
      () => Tensor.from(undefined as never, [2]),
    ],
    [
      'Tensor.from: data is a Uint16Array (raw bits) and dtype is f32, expected dtype bf16, f16',
      DTypeError,
      () => Tensor.from(new Uint16Array(2), [2]),
    ],
    [
      'Tensor.from: data is an Int32Array and dtype is f32, expected dtype i32',
      DTypeError,
      () => Tensor.from(new Int32Array(2), [2], { dtype: 'f32' }),
    ],
    [
      'Tensor.from: data is a Float32Array and dtype is i32, expected dtype f32, bf16, f16',
      DTypeError,
      () => Tensor.from(new Float32Array(2), [2], { dtype: 'i32' }),
    ],
    ["Tensor.from: data[1] is '2', expected a number", ArgumentError, () => Tensor.from([1, '2'] as never, [2])],
    [
      'Tensor.from: data[0] is 1.5, expected a 32-bit integer',
      ArgumentError,
      () => Tensor.from([1.5], [1], { dtype: 'i32' }),
    ],
    [
      "Tensor.from: dtype is 'f64', expected f32, bf16, f16, i32",
      DTypeError,
      () => Tensor.from([1], [1], { dtype: 'f64' as never }),
    ],
    [
      "Tensor.from: device is 'cpu', expected a Device (from getDevice)",
      ArgumentError,
      () => Tensor.from([1], [1], { device: 'cpu' as never }),
    ],
    [
      "Tensor.from: there is no option 'type'; known: dtype, device",
      ArgumentError,
      () => Tensor.from([1], [1], { type: 'f32' } as never),
    ],
    ["Tensor.from: options is 'f32', expected an object", ArgumentError, () => Tensor.from([1], [1], 'f32' as never)],
    ['Tensor.zeros: shape is 3, expected an array of sizes', ArgumentError, () => Tensor.zeros(3 as never)],
    ['Tensor.zeros: shape is [2, -1], expected integers of at least 0', ShapeError, () => Tensor.zeros([2, -1])],
    ['Tensor.zeros: shape is [1.5], expected integers of at least 0', ShapeError, () => Tensor.zeros([1.5])],
    [
      'Tensor.zeros: shape [1, 1, 1, 1, 1, 1, 1, 1, 1] has 9 sizes, expected at most 8',
      ShapeError,
      () => Tensor.zeros(new Array(9).fill(1)),
    ],
    [
      'Tensor.zeros: shape [16777216, 16777216] of f32 is too large, expected fewer than 2^48 bytes',
      ShapeError,
      () => Tensor.zeros([2 ** 24, 2 ** 24]),
    ],
    [
      'Tensor.randn: seed is undefined, expected an integer at least 0',
      ArgumentError,
      () => Tensor.randn([2], {} as never),
    ],
    ['Tensor.randn: seed is -1, expected an integer at least 0', ArgumentError, () => Tensor.randn([2], { seed: -1 })],
    [
      "Tensor.randn: dtype is 'i32', expected f32, bf16, f16",
      DTypeError,
      () => Tensor.randn([2], { seed: 0, dtype: 'i32' }),
    ],
    ['Tensor.reshape: this has 6 elements, expected 4 (shape [2, 2])', ShapeError, () => f32(2, 3).reshape([2, 2])],
    [
      'Tensor.reshape: this has 6 elements, expected a multiple of 4 (shape [4, -1])',
      ShapeError,
      () => f32(2, 3).reshape([4, -1]),
    ],
    ['Tensor.reshape: shape is [-1, -1], expected integers of at least 0', ShapeError, () => f32(9).reshape([-1, -1])],
    [
      'Tensor.to: this has dtype i32, expected f32, bf16, f16 (conversion is between float types)',
      DTypeError,
      () => i32(2).to({ dtype: 'f32' }),
    ],
    ["Tensor.to: dtype is 'i32', expected f32, bf16, f16", DTypeError, () => f32(2).to({ dtype: 'i32' })],
    ['Tensor.copyFrom: data has 3 elements, expected 2 (shape [2])', ShapeError, () => f32(2).copyFrom([1, 2, 3])],
    [
      'Tensor.copyFrom: data is an Int32Array and dtype is f32, expected dtype i32',
      DTypeError,
      () => f32(2).copyFrom(new Int32Array(2)),
    ],
  ])('%s', (...refusal) => expectRefusal(refusal));
});
