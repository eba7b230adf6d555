/** What the memory pool keeps: no test here leaves tensors, so that what is reserved is what is kept. */
import { execFileSync } from 'node:child_process';
import { beforeEach, describe, expect, test } from 'vitest';
import { getDevice, ops, scope, Tensor } from '../../lib/index.js';
import { root } from '../helpers/native_build.js';

const device = getDevice('cpu');
const MIB = 2 ** 20;

const make = (bytes: number): Tensor => Tensor.zeros([bytes / 4], { device });
const reserved = () => device.memory().reserved;
/** Ends a period: something is done, and waited for. */
async function wait(): Promise<void> {
  const one = make(4);
  await one.data();
  one.dispose();
}
async function waits(count: number): Promise<void> {
  for (let i = 0; i < count; i++) await wait();
  await device.synchronize();
}

beforeEach(async () => {
  await waits(64); // what earlier tests have needed is forgotten
  await device.trim();
});

describe('blocks', () => {
  const sizes = Array.from({ length: 200 }, (_, i) => 4 * Math.ceil(256 * 1.07 ** i)).filter(
    (size) => size < 300 * MIB,
  );

  test('are at most a quarter larger than the request', async () => {
    for (const size of sizes) {
      await device.trim();
      const before = reserved();
      const tensor = make(size);
      const taken = reserved() - before;
      expect(taken, `${size} bytes`).toBeGreaterThanOrEqual(size);
      expect(taken, `${size} bytes`).toBeLessThanOrEqual(1.25 * size);
      tensor.dispose();
    }
  });

  test('are whole huge pages where they are of 2 MB, or of 8 MB and more', async () => {
    for (const size of [2 * MIB, 8 * MIB + 4, 9 * MIB, 33 * MIB, 100 * MIB + 4]) {
      await device.trim();
      const before = reserved();
      make(size).dispose();
      expect((reserved() - before) % (2 * MIB), `${size} bytes`).toBe(0);
    }
  });

  test('serve smaller requests: small ones up to a fifth smaller, large ones give up a part', async () => {
    make(20 << 10).dispose();
    const small = reserved();
    make(16 << 10).dispose();
    expect(reserved()).toBe(small);
    make(15 << 10).dispose();
    expect(reserved()).toBe(small + (15 << 10));
    make(20 * MIB).dispose();
    const large = reserved();
    const parts = [15, 1, 2, 1].map((mib) => make(mib * MIB));
    expect(reserved()).toBe(large);
    for (const part of parts) part.dispose();
  });

  test('that were split become one again, and what is in use of them stays as it is', async () => {
    make(32 * MIB).dispose();
    const before = reserved();
    const filled = (mib: number, value: number) =>
      Tensor.from(new Float32Array(mib * 2 ** 18).fill(value), [mib * 2 ** 18], { device });
    await device.synchronize();
    const [a, b, c] = [filled(8, 1), filled(8, 2), filled(6, 3)];
    a.dispose();
    c.dispose();
    const d = filled(16, 4); // what was c, and the 10 MiB that were left
    const e = filled(7, 5);
    expect(reserved()).toBe(before);
    for (const [tensor, value] of [
      [b, 2],
      [d, 4],
      [e, 5],
    ] as const) {
      expect((await tensor.data()).every((x) => x === value)).toBe(true);
      tensor.dispose();
    }
    await device.synchronize();
    make(32 * MIB).dispose();
    expect(reserved()).toBe(before);
  });

  test('go back to the system in parts, while another part is in use', async () => {
    const before = reserved();
    make(32 * MIB).dispose();
    await device.synchronize();
    const kept = make(4 * MIB);
    await device.trim();
    expect(reserved()).toBe(before + 4 * MIB);
    expect((await kept.data()).every((x) => x === 0)).toBe(true);
    kept.dispose();
  });
});

describe('what is kept', () => {
  test('goes down to what the last 64 waits needed, and not before', async () => {
    make(64 * MIB).dispose();
    await wait();
    const high = reserved();
    expect(high).toBeGreaterThanOrEqual(64 * MIB);
    await waits(60);
    expect(reserved()).toBe(high);
    await waits(10);
    expect(reserved()).toBeLessThan(8 * MIB);
  });

  test('goes down to the highest of those that are left', async () => {
    const both = [make(64 * MIB), make(32 * MIB)];
    for (const each of both) each.dispose();
    await waits(30);
    make(32 * MIB).dispose();
    await waits(50); // the first period is forgotten, this one is not
    expect(reserved()).toBeGreaterThanOrEqual(32 * MIB);
    expect(reserved()).toBeLessThan(40 * MIB);
  });

  test('those that have been idle for longest go first', async () => {
    for (const size of [10, 14]) {
      make(size * MIB).dispose();
      await device.synchronize();
    }
    make(20 * MIB).dispose();
    expect(reserved()).toBe(34 * MIB); // 44 are more than 20, half of it and 8: no wait is needed
    make(14 * MIB).dispose();
    expect(reserved()).toBe(34 * MIB);
    make(10 * MIB).dispose();
    expect(reserved()).toBe(34 * MIB);
  });

  test('waits for which nothing was done do not count', async () => {
    make(64 * MIB).dispose();
    const one = make(4);
    for (let i = 0; i < 200; i++) await one.data();
    one.dispose();
    await device.synchronize();
    expect(reserved()).toBeGreaterThanOrEqual(64 * MIB);
  });

  test('scratch memory too', async () => {
    const run = (T: number) =>
      scope(() => {
        const x = Tensor.zeros([1, T, 1, 8], { device });
        ops.naive.attention(x, x, x); // has intermediates of 4 T^2 bytes
      });
    run(2048);
    await wait();
    expect(reserved()).toBeGreaterThan(16 * MIB);
    for (let i = 0; i < 70; i++) {
      run(4);
      await wait();
    }
    await device.synchronize();
    expect(reserved()).toBeLessThan(8 * MIB);
  });

  test('a new size takes the place of old ones', async () => {
    for (let i = 0; i < 20; i++) {
      make((10 + 3 * i) * MIB).dispose();
      await wait();
      expect(reserved()).toBeLessThan((10 + 3 * i) * 1.5 * MIB + 16 * MIB);
    }
  });

  test('is all that a loop needs which does the same in every step', async () => {
    const step = async () => {
      const loss = scope(() => {
        const x = Tensor.zeros([256, 1024], { device });
        const weight = Tensor.zeros([3072, 1024], { device });
        const wide = ops.gelu(ops.linear(x, weight));
        const gradient = ops.geluBackward(wide, wide);
        const { gradX } = ops.linearBackward(gradient, x, weight, { bias: false });
        return ops.clipGradNorm([gradX], 1);
      });
      await loss.data();
      loss.dispose();
    };
    for (let i = 0; i < 5; i++) await step();
    const [before, faults] = [reserved(), process.resourceUsage().minorPageFault];
    for (let i = 0; i < 80; i++) await step();
    expect(reserved()).toBe(before);
    // A step's tensors are more than 20 MB: 5,000 pages, or 10 huge ones and what they leave.
    expect(process.resourceUsage().minorPageFault - faults).toBeLessThan(80 * 20);
  });
});

test.each([
  ['rising', 3000],
  ['random', 1000],
] as const)(
  '%s lengths: reserved memory stays near the peak of live memory',
  { timeout: 300_000 },
  async (loop, steps) => {
    const program = `
    const { getDevice } = await import('./lib/index.js');
    const { chain, follow, loops } = await import('./test/helpers/lengths.js');
    const device = getDevice('cpu');
    console.log(JSON.stringify(await follow(device, ${steps}, loops.${loop}(${steps}), chain(device))));`;
    const printed = execFileSync(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program], {
      cwd: root,
      encoding: 'utf8',
    });
    const { peak, reserved } = JSON.parse(printed) as { peak: number; reserved: number };
    console.info(`${loop}: peak ${(peak / MIB).toFixed(1)} MiB, reserved ${(reserved / MIB).toFixed(1)} MiB`);
    expect(peak).toBeGreaterThan(20 * MIB);
    expect(reserved).toBeLessThanOrEqual(1.5 * peak + 16e6);
  },
);

test('resident memory stays where it is over 20,000 steps of random lengths', { timeout: 600_000 }, () => {
  const resident: number[] = JSON.parse(
    execFileSync(process.execPath, ['--expose-gc', '--import', 'tsx', 'test/hardening/lengths_program.ts', '20000'], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, SAS_DEVICE: 'cpu' },
    }),
  );
  console.info(`resident, MiB: ${resident.map((mib) => mib.toFixed(1)).join(' ')}`);
  const [warm = 0, ...rest] = resident.slice(1);
  expect(Math.max(...rest) - warm).toBeLessThan(8);
});
