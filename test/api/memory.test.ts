/** Device memory, counted: every tensor here is made in a scope, so that no collection disturbs the count. */
import { expect, test } from 'vitest';
import { getDevice, ops, SasAttention, ShapeError, scope, Tensor } from '../../lib/index.js';
import { externalMemoryCounter } from '../hardening/strangers.js';
import { f32, small } from './helpers.js';

const device = getDevice();
const MIB = 2 ** 20;

/** Keeps the queue busy for a tenth of a second: what follows is queued when the next line runs. */
function occupy(): void {
  scope(() => {
    const x = Tensor.randn([1, 1536, 4, 16], { seed: 1 });
    ops.attention(x, x, x);
  });
}

/** Dead objects are found, and what their finalizers release is settled. */
async function collect(): Promise<void> {
  for (let i = 0; i < 3; i++) {
    (globalThis as { gc?: () => void }).gc?.();
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Ends a turn of the event loop, callbacks of native code included. */
const turn = () => new Promise((resolve) => setTimeout(() => setImmediate(resolve), 5));

async function live(): Promise<number> {
  await device.synchronize();
  return device.memory().live;
}

test('dispose gives the memory back', async () => {
  const before = await live();
  const t = f32(1 << 18);
  expect(device.memory().live).toBe(before + (1 << 20));
  expect(device.memory().peak).toBeGreaterThanOrEqual(before + (1 << 20));
  t.dispose();
  expect(await live()).toBe(before);
  expect(device.memory().peak).toBeGreaterThanOrEqual(before + (1 << 20));
});

test('memory that queued work still uses is live until that is done', async () => {
  const before = await live();
  occupy();
  f32(1 << 18).dispose();
  const wrapped = Tensor.wrap(new Float32Array(1 << 18), [1 << 18]);
  ops.gelu(wrapped).dispose();
  wrapped.dispose();
  expect(device.memory().live).toBeGreaterThanOrEqual(before + 2 * MIB); // gelu's output may be the first one's memory
  expect(device.memory().peak).toBeGreaterThanOrEqual(before + 2 * MIB);
  expect(await live()).toBe(before);
});

test('trim gives back what is idle, also what is still in use when it is called', async () => {
  await device.trim();
  const before = device.memory();
  const [kept, value] = [Tensor.from([5], [1]), f32(1 << 20)];
  ops.naive.attention(f32(1, 256, 1, 8), f32(1, 256, 1, 8), f32(1, 256, 1, 8)); // has intermediates
  value.dispose();
  await device.synchronize();
  expect(device.memory().reserved).toBeGreaterThanOrEqual(before.reserved + 4 * MIB);
  occupy();
  f32(1 << 21).dispose();
  await device.trim();
  const { reserved, live } = device.memory();
  expect(reserved).toBeLessThan(live + MIB);
  expect(await kept.data()).toEqual(Float32Array.of(5));
  kept.dispose();
});

test('trim does not take the failure of work from those who wait for it', async () => {
  ops.embedding(Tensor.from([9], [1, 1], { dtype: 'i32' }), f32(4, 2)).dispose();
  await expect(device.trim()).resolves.toBeUndefined();
  await expect(device.synchronize()).rejects.toThrow(/^embedding: /);
});

test('V8 hears of memory that is taken, and of it going back, when a turn of the event loop ends', async () => {
  await collect();
  const external = externalMemoryCounter();
  const before = external();
  const tensors = Array.from({ length: 4 }, () => f32(1 << 22));
  await turn();
  expect(external() - before).toBeGreaterThan(63 * MIB);
  const view = (tensors[0] as Tensor).reshape([1 << 11, 1 << 11]);
  for (const tensor of tensors) tensor.dispose();
  await turn();
  expect(external() - before).toBeGreaterThan(15 * MIB); // the view's
  expect(external() - before).toBeLessThan(17 * MIB);
  view.dispose();
  await turn();
  expect(external() - before).toBeLessThan(MIB);
  (() => {
    for (let i = 0; i < 4; i++) f32(1 << 22);
  })();
  await turn();
  expect(external() - before).toBeGreaterThan(15 * MIB);
  for (let i = 0; i < 50 && external() - before > MIB; i++) await collect();
  expect(external() - before).toBeLessThan(MIB);
});

test('what a turn of the event loop takes and gives back, V8 does not hear of', async () => {
  await collect();
  const external = externalMemoryCounter();
  const before = external();
  let most = 0;
  for (let i = 0; i < 5; i++) {
    scope(() => {
      f32(1 << 24);
      most = Math.max(most, external() - before);
    });
    await turn();
    most = Math.max(most, external() - before);
  }
  expect(most).toBeLessThan(8 * MIB); // one is of 64 MiB
});

test('wrapped memory lives as long as queued work that reads it', async () => {
  const size = 1 << 18;
  const sums: Tensor[] = [];
  for (let i = 0; i < 8; i++) {
    occupy();
    (() => {
      const wrapped = Tensor.wrap(new Float32Array(size).fill(i + 1), [size]);
      sums.push(ops.add(wrapped, wrapped));
      wrapped.dispose();
      sums.push(ops.gelu(Tensor.wrap(new Float32Array(size).fill(30 + i), [size]))); // dropped without dispose
    })();
  }
  (globalThis as { gc?: () => void }).gc?.();
  // Memory that is free by now is overwritten.
  const others = Array.from({ length: 64 }, () => new Float32Array(size).fill(-1));
  for (const [i, sum] of sums.entries()) {
    const expected = i % 2 === 0 ? i + 2 : 30 + (i - 1) / 2;
    expect(
      (await sum.data()).every((value) => value === expected),
      `${i}`,
    ).toBe(true);
    sum.dispose();
  }
  expect(others.length).toBe(64);
});

test('a view holds the memory it shares, once', async () => {
  const before = await live();
  const t = f32(1 << 18);
  const view = t.reshape([1 << 9, 1 << 9]);
  expect(await live()).toBe(before + (1 << 20));
  t.dispose();
  expect(await live()).toBe(before + (1 << 20));
  view.dispose();
  expect(await live()).toBe(before);
});

test('a call that fails leaves nothing behind', async () => {
  const before = await live();
  scope(() => {
    const [q, v] = [f32(1, 2, 3, 4), f32(1, 2, 2, 4)];
    const made = device.memory().live;
    expect(() => ops.attention(q, q, v)).toThrow(ShapeError);
    expect(() => Tensor.from([1], [1], { dtype: 'f64' as never })).toThrow();
    expect(() => ops.clipGradNorm([q, q], 1)).toThrow('share memory'); // known once the norm has its memory
    expect(device.memory().live).toBe(made);
  });
  expect(await live()).toBe(before);
});

test('inference keeps the output only; training keeps what backward needs until saved goes', async () => {
  const module = new SasAttention(small);
  const x = Tensor.randn([2, 8, 2, 4], { seed: 1 });
  const before = await live();
  const inference = module.forward(x, x, x, { save: false });
  expect(inference.saved).toBeNull();
  expect(await live()).toBe(before + inference.output.byteLength);
  const training = module.forward(x, x, x);
  expect(await live()).toBeGreaterThan(before + 2 * inference.output.byteLength);
  training.saved.dispose();
  expect(await live()).toBe(before + 2 * inference.output.byteLength);
  for (const t of [inference.output, training.output, x]) t.dispose();
  module.dispose();
});

test('3000 steps hold live memory constant and resident memory bounded', async () => {
  const module = new SasAttention(small);
  const x = Tensor.randn([1, 16, 2, 4], { seed: 1 });
  const step = () =>
    scope(() => {
      const { output, saved } = module.forward(x, x, x);
      const { gradParameters } = module.backward(output, saved);
      ops.clipGradNorm([...gradParameters.values()], 1);
    });
  for (let i = 0; i < 500; i++) step();
  const before = await live();
  const resident = process.memoryUsage().rss;
  for (let i = 0; i < 3000; i++) {
    step();
    if (i % 100 === 0) expect(await live()).toBe(before);
  }
  expect(await live()).toBe(before);
  expect(process.memoryUsage().rss - resident).toBeLessThan(80 * 2 ** 20);
  x.dispose();
  module.dispose();
}, 30_000);

test('tensors that are only forgotten are collected', async () => {
  const before = await live();
  let most = 0;
  for (let i = 0; i < 600; i++) {
    f32(1 << 20);
    if (i % 20 === 0) await device.synchronize();
    await new Promise(setImmediate);
    most = Math.max(most, device.memory().live - before);
  }
  // 2.4 GiB were made; V8 knows of the memory and collects long before that.
  expect(most).toBeLessThan(1.2 * 2 ** 30);
}, 30_000);
