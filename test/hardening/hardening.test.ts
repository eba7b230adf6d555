/** A share of the hardening programs, small enough for every run; `npm run test:...` runs each at its full length. */
import { randomInt } from 'node:crypto';
import { describe, expect, test } from 'vitest';
import { getDevice } from '../../lib/index.js';
import { failAllocations } from './allocations.js';
import { killWhileSaving } from './checkpoints.js';
import { endLong, endProcesses, longWays, ways } from './exits.js';
import { huntRaces } from './races.js';
import { endure, forget } from './soak.js';
import { keepDenormals, propagate } from './special_values.js';
import { waitInVain } from './wait_program.js';

const device = getDevice('cpu');

describe('ThreadSanitizer', () => {
  test('queue, buffer pool and thread pool: no race, and a planted one is found', () => {
    const seed = randomInt(2 ** 32);
    const { status, output } = huntRaces(5, seed);
    console.info(output);
    expect(status, output).toBe(0);
    expect(huntRaces(2, seed, true).status).toBe(66);
  });
});

describe('out of memory', () => {
  test('every allocation of a training step fails in turn', () => {
    const result = failAllocations('all');
    console.info(`all: ${JSON.stringify(result)}`);
    expect(result.allocations).toBeGreaterThan(200);
    expect(result.toldByCall + result.toldByWait + (result.notNoticed ?? 0)).toBe(result.allocations);
  });

  test('every allocation of every op fails in turn', () => {
    const result = failAllocations('ops');
    console.info(`ops: ${JSON.stringify(result)}`);
    expect(result.ops).toBeGreaterThan(15);
    expect(result.allocations).toBeGreaterThan(100);
    expect(result.toldByCall + result.toldByWait + (result.notNoticed ?? 0)).toBe(result.allocations);
  });

  test('memory that queued work holds is waited for, but not for ever', async () => {
    const result = await waitInVain();
    console.info(JSON.stringify(result));
    expect(result.message).toMatch(
      /^Tensor\.zeros: out of memory on cpu: .* in use, limit \d+, after waiting 10 seconds for queued work to give up memory$/,
    );
    expect(result.seconds).toBeGreaterThan(9.5);
    expect(result.seconds).toBeLessThan(13);
    expect(result.atOnce).toBeLessThan(1); // where waiting cannot help
    expect(result.code).toBe(0);
  });

  test('device memory and scratch, each time in a new environment', () => {
    const result = failAllocations('device', 6);
    expect(result.toldByCall + result.toldByWait).toBe(6);
  });
});

test('processes end with work in flight, in every way', async () => {
  expect(await endProcesses(Object.keys(ways).length)).toEqual([]);
});

// The op would run for most of a minute; what is left to wait for is one tile of it, and Node's own end.
test.each(Object.entries(longWays) as [keyof typeof longWays, number][])(
  'the end does not wait for the op that runs: %s',
  async (way, expected) => {
    const { code, milliseconds } = await endLong(way);
    console.info(`${way}: ${milliseconds} ms`);
    expect(code).toBe(expected);
    expect(milliseconds).toBeLessThan(2000);
  },
);

test('SIGKILL while saving: the file is whole', async () => {
  const seed = randomInt(2 ** 32);
  console.info(`seed ${seed}: ${JSON.stringify(await killWhileSaving(5, seed))}`);
});

test('training steps leave nothing behind, and learn', async () => {
  const { left, firstLoss, lastLoss } = await endure(device, 1000);
  expect(left).toBe(0);
  expect(lastLoss).toBeLessThan(firstLoss - 0.3);
});

test('tensors that are dropped without dispose are collected', async () => {
  expect(typeof (globalThis as { gc?: unknown }).gc, 'node --expose-gc').toBe('function');
  const { made, left } = await forget(device, 100);
  expect(made).toBeGreaterThan(2 ** 20);
  expect(left).toBe(0);
});

describe('special values', () => {
  test('NaN and infinities spread as in float64', async () => {
    const { checked, faults } = await propagate(device, randomInt(2 ** 32));
    expect(checked).toBeGreaterThan(200);
    expect(faults).toEqual([]);
  });

  test('denormals are kept', async () => {
    const { checked, faults } = await keepDenormals(device, randomInt(2 ** 32));
    expect(checked).toBeGreaterThan(15);
    expect(faults).toEqual([]);
  });
});
