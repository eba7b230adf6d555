/** The timer: its quantiles, and what a sample is. */
import { describe, expect, it } from 'vitest';
import type { Device } from '../../../lib/index.js';
import { compare, spread, time } from '../../../lib/measure/timing.js';

describe('spread', () => {
  it('has the median and the 10th and 90th percentile, between neighbours by a straight line', () => {
    expect(spread([11, 3, 9, 1, 7, 5, 8, 2, 6, 10, 4])).toEqual({ low: 2, median: 6, high: 10 });
    const { low, median, high } = spread([10, 1, 3, 2]);
    expect(low).toBeCloseTo(1.3, 12);
    expect(median).toBeCloseTo(2.5, 12);
    expect(high).toBeCloseTo(7.9, 12);
  });

  it('of one value is that value, and leaves what it was given alone', () => {
    expect(spread([4])).toEqual({ low: 4, median: 4, high: 4 });
    const values = [3, 1, 2];
    spread(values);
    expect(values).toEqual([3, 1, 2]);
  });
});

/** A device that only counts what is asked of it; its work takes as long as `wait` says. */
function countingDevice(): { device: Device; calls: string[] } {
  const calls: string[] = [];
  const device = {
    synchronize: async () => void calls.push('wait'),
    measurePeakFlops: async () => {
      calls.push('peak');
      return 1e9;
    },
  };
  return { device: device as unknown as Device, calls };
}

/** Blocks the thread; time is what is measured here. */
function spin(milliseconds: number): void {
  const until = performance.now() + milliseconds;
  while (performance.now() < until);
}

describe('a sample', () => {
  it('is the time of one of several runs, with one wait at their end', async () => {
    const { device, calls } = countingDevice();
    const run = () => {
      calls.push('run');
      spin(20);
    };
    const seconds = await time({ run }, 5, device);
    expect(calls).toEqual(['run', 'run', 'run', 'run', 'run', 'wait']);
    expect(seconds).toBeGreaterThanOrEqual(0.02);
    expect(seconds).toBeLessThan(0.1);
  });

  it('is taken in turns, beside the peak of the device, and long enough', async () => {
    const { device, calls } = countingDevice();
    const candidate = (name: string, milliseconds: number) => ({
      name,
      run: () => {
        if (calls.at(-1) !== name) calls.push(name);
        spin(milliseconds);
      },
    });
    const options = { samples: 3, minSeconds: 0.02 };
    const turns = await compare([candidate('a', 1), candidate('b', 4)], device, options);
    expect(turns.map((own) => own.length)).toEqual([3, 3]);
    const turn = (name: string) => ['peak', name, 'wait'];
    expect(calls.slice(calls.indexOf('peak'))).toEqual([0, 1, 2].flatMap(() => [...turn('a'), ...turn('b')]));
    for (const [i, milliseconds] of [1, 4].entries()) {
      for (const { seconds, peakFlops } of turns[i] ?? []) {
        expect(seconds).toBeGreaterThanOrEqual(milliseconds / 1000);
        expect(peakFlops).toBe(1e9);
      }
    }
  });
});
