/** Lengths that vary do not pile up memory. The pool is the same on every device and instruction set; what ops take beside it is not. */
import { expect, test } from 'vitest';
import { getDevice, ops, Tensor } from '../../lib/index.js';
import { chain, copies, follow, loops } from '../helpers/lengths.js';

const device = getDevice();
const emulated = device.info.name.startsWith('emulated');
const MIB = 2 ** 20;

test.each([
  ['rising', 3000],
  ['random', 1000],
] as const)('%s lengths: what is reserved stays near the peak of what is live', async (loop, most) => {
  await device.trim();
  const steps = most / (emulated ? 10 : 5); // all of them in test/api/reserve.test.ts
  const { peak, reserved } = await follow(device, steps, loops[loop](steps), (emulated ? copies : chain)(device));
  console.info(`${loop}: peak ${(peak / MIB).toFixed(1)} MiB, reserved ${(reserved / MIB).toFixed(1)} MiB`);
  expect(peak).toBeGreaterThan(20 * MIB);
  expect(reserved).toBeLessThanOrEqual(1.5 * peak + 16e6);
});

test('what the last 64 waits had no use for goes back', async () => {
  const wait = async (count: number) => {
    for (let i = 0; i < count; i++) {
      const one = Tensor.from([1], [1]);
      const result = ops.gelu(one);
      await result.data();
      for (const tensor of [one, result]) tensor.dispose();
    }
    await device.synchronize();
  };
  await wait(64);
  await device.trim();
  const before = device.memory().reserved;
  const large = [1, 2, 3].map((mib) => Tensor.from(new Float32Array(mib * MIB), [mib * MIB]));
  for (const tensor of large) tensor.dispose();
  await wait(50);
  expect(device.memory().reserved - before).toBeGreaterThanOrEqual(24 * MIB);
  await wait(20);
  expect(device.memory().reserved - before).toBeLessThan(6 * MIB);
});
