// bench/speed/rivals without its rivals: what is absent or wrong is named, ratios are of neighbouring samples, and the table says so.
import { describe, expect, it } from 'vitest';
import {
  type Contest,
  nameOf,
  type OpenRival,
  type Results,
  type Rival,
  type Side,
} from '../../../bench/speed/rivals/contest.js';
import { disagreement, type Effort, errorsOf, measure } from '../../../bench/speed/rivals/measure.js';
import { isReferenceBlas } from '../../../bench/speed/rivals/pytorch.js';
import { table } from '../../../bench/speed/rivals/report.js';
import { runContests } from '../../../bench/speed/rivals/run.js';

const EFFORT: Effort = { samples: 3, slowSamples: 3, minSeconds: 0, pause: 0 };
const contest = { rival: 'present', kind: 'attention', length: 8, causal: true, backward: false, goal: 2 } as const;
const work = {} as Parameters<OpenRival['side']>[1];
const output = (...values: number[]): Results => ({ output: Float32Array.from(values) });

/** Every sample takes the next of `seconds`, the last one forever. */
const sideOf = (results: Results, seconds: number[], log: string[] = [], name = ''): Side => ({
  results: async () => results,
  sample: async () => {
    log.push(name);
    return (seconds.length > 1 ? seconds.shift() : seconds[0]) as number;
  },
});
const rivalOf = (name: string, results: Results): Rival => ({
  name,
  open: async () => ({ version: `${name} 1.0`, side: async () => sideOf(results, [6]) }),
});
const absent: Rival = {
  name: 'absent',
  open: () => Promise.reject(new Error('absent is not installed\nand more')),
};

async function run(rivals: readonly Rival[], contests: readonly Contest[]) {
  const lines: string[] = [];
  const ours = sideOf(output(1, 2), [2]);
  const prepare = async () => ({ work, ours });
  const log = (line: string) => void lines.push(line);
  return { lines, ...(await runContests(rivals, contests, { threads: 2, effort: EFFORT, prepare, log })) };
}

describe('bench:rivals', () => {
  it('names what is absent or wrong in one line each, and goes on', async () => {
    const rivals = [absent, rivalOf('wrong', output(1, 2.1)), rivalOf('present', output(1, 2))];
    const { rows, skipped, lines, versions } = await run(
      rivals,
      rivals.map(({ name }) => ({ ...contest, rival: name })),
    );
    expect(lines.slice(0, 2)).toEqual([
      'absent: skipped: absent is not installed',
      'wrong: attention forward T=8 causal: not timed: its output is wrong: relative error 4.5e-2',
    ]);
    expect(skipped.map(({ against }) => against)).toEqual(['absent', 'wrong']);
    expect(rows.map(({ against }) => against)).toEqual(['present']);
    expect(Object.keys(versions)).toEqual(['wrong', 'present']);
  });

  it('takes turns, and the ratio of each pair', async () => {
    const log: string[] = [];
    // Two calls of each come before: first use and the length of one run.
    const rival = sideOf({}, [9, 9, 2, 8, 30], log, 'rival');
    const ours = sideOf({}, [9, 9, 1, 2, 10], log, 'ours');
    const { ratio, rival: theirs } = await measure(rival, ours, EFFORT);
    expect(log.slice(4)).toEqual(['rival', 'ours', 'rival', 'ours', 'rival', 'ours']);
    expect(ratio).toEqual({ median: 3, low: 2.2, high: 3.8 }); // of 2, 4 and 3
    expect(theirs.median).toBe(8);
  });

  it('lets no NaN, missing tensor or wrong gradient pass', () => {
    const ours = { ...output(1, 2), q: Float32Array.of(1, 0) };
    const faultOf = (rival: Results) => disagreement(errorsOf(rival, ours));
    expect(faultOf(ours)).toBeUndefined();
    expect(faultOf({ ...ours, ...output(1, Number.NaN) })).toMatch(/output/);
    expect(faultOf({ q: Float32Array.of(1, 0) })).toMatch(/output/);
    expect(faultOf(output(1, 2))).toMatch(/gradients/);
    expect(faultOf({ ...ours, q: Float32Array.of(1, 0.01) })).toMatch(/gradients.*1\.0e-2/);
    expect(faultOf({ ...ours, q: Float32Array.of(1, 0.0001) })).toBeUndefined();
  });

  it('prints one line per contest, with its goal', async () => {
    const missed = { ...contest, backward: true, goal: 4 };
    const { rows } = await run([rivalOf('present', output(1, 2))], [contest, missed]);
    const lines = table(rows).split('\n');
    expect(lines[0]).toMatch(/^rival +case +rival ms +ours ms +ratio +10% - 90% +goal$/);
    expect(lines.slice(2).map((line) => line.split(/ {2,}/))).toEqual([
      ['present', nameOf(contest), '6000', '2000', '3.00x', '3.00 - 3.00', '2x met'],
      ['present', nameOf(missed), '6000', '2000', '3.00x', '3.00 - 3.00', '4x MISSED'],
    ]);
  });

  it('tells the reference BLAS from others', () => {
    expect(isReferenceBlas(['/usr/lib/blas/libblas.so.3.11.0'])).toBe(true);
    expect(isReferenceBlas(['/usr/lib/openblas-pthread/libblas.so.3', '/usr/lib/libopenblasp-r0.3.21.so'])).toBe(false);
    expect(isReferenceBlas([])).toBe(false);
  });
});
