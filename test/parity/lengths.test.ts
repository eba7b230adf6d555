/** Lengths that vary do not pile up memory. The pool is the same on every device and instruction set; what ops take beside it is not. */
import { expect, test } from 'vitest';
import { getDevice } from '../../lib/index.js';
import { chain, copies, follow, loops } from '../helpers/lengths.js';

const device = getDevice();
const emulated = device.info.name.startsWith('emulated');
const MIB = 2 ** 20;

test.each([
  ['rising', 3000],
  ['random', 1000],
] as const)('%s lengths: what is reserved stays near the peak of what is live', async (loop, most) => {
  await device.trim();
  const steps = emulated ? most / 10 : most;
  const { peak, reserved } = await follow(device, steps, loops[loop](steps), (emulated ? copies : chain)(device));
  console.info(`${loop}: peak ${(peak / MIB).toFixed(1)} MiB, reserved ${(reserved / MIB).toFixed(1)} MiB`);
  expect(peak).toBeGreaterThan(20 * MIB);
  expect(reserved).toBeLessThanOrEqual(1.5 * peak + 16e6);
});
