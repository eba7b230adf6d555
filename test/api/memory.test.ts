/** Device memory, counted: every tensor here is made in a scope, so that no collection disturbs the count. */
import { expect, test } from 'vitest';
import { getDevice, ops, SasAttention, ShapeError, scope, Tensor } from '../../lib/index.js';
import { f32, small } from './helpers.js';

const device = getDevice();

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
