/** Memory that is short while work is queued: on every device and instruction set. */
import { expect, test } from 'vitest';
import type { Tensor as AnyTensor } from '../../lib/index.js';

process.env.SAS_MEMORY_LIMIT = '8M'; // before the device is opened
const { getDevice, OutOfMemoryError, ops, scope, Tensor } = await import('../../lib/index.js');

const MIB = 2 ** 20;
const device = getDevice();
const emulated = device.info.name.startsWith('emulated');

/** Keeps the queue busy for some milliseconds, so that what follows is queued when the next call is made. */
function occupy(): void {
  scope(() => {
    const x = Tensor.randn([1, emulated ? 64 : 512, 4, 16], { seed: 1 });
    ops.attention(x, x, x);
  });
}

test('memory that only queued work holds is waited for', async () => {
  let most = 0;
  for (let i = 0; i < 20; i++) {
    await device.synchronize();
    await device.trim();
    const before = device.memory().live;
    occupy();
    Tensor.zeros([(6 * MIB) / 4]).dispose();
    most = Math.max(most, device.memory().live - before);
    const other = Tensor.from(new Float32Array(MIB).fill(i), [MIB]); // 4 MiB: no room beside the other
    other.dispose();
  }
  expect(most).toBeGreaterThanOrEqual(6 * MIB);
  await device.synchronize();
  expect(device.memory().live).toBe(0);
});

test('what queued work uses is not given back: many sizes in turn, results as ever', async () => {
  const count = emulated ? 24 : 120;
  const sizeOf = (i: number) => (emulated ? 40_000 : 150_000) + 3000 * i;
  const norms: AnyTensor[] = [];
  for (let i = 0; i < count; i++) {
    if (i % 10 === 0) occupy();
    norms.push(
      scope(() => {
        const a = Tensor.from(new Float32Array(sizeOf(i)).fill(i + 1), [sizeOf(i)]);
        return ops.clipGradNorm([ops.add(ops.add(a, a), a)], 1e30);
      }),
    );
  }
  const values = await Promise.all(norms.map(async (norm) => (await norm.data())[0] as number));
  for (const [i, value] of values.entries()) {
    expect(value / (3 * (i + 1) * Math.sqrt(sizeOf(i))), `norm ${i}`).toBeCloseTo(1, 5);
  }
  for (const norm of norms) norm.dispose();
});

test('where waiting would not make room, it fails at once, and says what is in use', async () => {
  await device.synchronize();
  const kept = Tensor.zeros([(6 * MIB) / 4]);
  for (let i = 0; i < 3; i++) occupy();
  const started = performance.now();
  expect(() => Tensor.zeros([MIB])).toThrow(OutOfMemoryError);
  expect(performance.now() - started).toBeLessThan(1000);
  expect(() => Tensor.zeros([MIB])).toThrow(
    /^Tensor\.zeros: out of memory on \S+: 4194304 bytes requested, \d+ in use, limit 8388608$/,
  );
  expect(() => Tensor.zeros([2 ** 31])).toThrow(OutOfMemoryError);
  kept.dispose();
  Tensor.zeros([MIB]).dispose();
  await device.synchronize();
});
