/** The emulator finds the faults that are planted in mutations.cu, whatever the scheduling, and passes the sound kernels. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { buildEmulated } from '../helpers/native_build.js';

const SEEDS = Array.from({ length: 16 }, (_, seed) => seed);

interface Trial {
  kernel: string;
  fault: string;
  /** How the fault showed, '' if it did not. */
  caught: string;
}
let trials: Trial[] = [];

beforeAll(() => {
  const build = buildEmulated('sas_emulator_mutations');
  const program = join(build, 'test/emulator/sas_emulator_mutations');
  trials = SEEDS.flatMap((seed) =>
    execFileSync(program, { encoding: 'utf8', env: { ...process.env, SAS_EMULATOR_SEED: String(seed) } })
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line) as Trial),
  );
}, 600_000);

afterAll(() => {
  const lines = faults().map(({ kernel, fault }) => {
    const caught = outcomes(kernel, fault).filter((outcome) => outcome !== '');
    return `${`${caught.length}/${SEEDS.length}`.padStart(6)}  ${kernel}: ${fault}\n        ${caught[0]?.slice(0, 150)}`;
  });
  console.log(`planted faults, seeds that show them, and how:\n${lines.join('\n')}`);
});

const outcomes = (kernel: string, fault: string) =>
  trials.filter((trial) => trial.kernel === kernel && trial.fault === fault).map((trial) => trial.caught);
const faults = () => trials.slice(0, trials.length / SEEDS.length).filter((trial) => trial.fault !== 'none');

describe('planted faults', () => {
  it.each(['product', 'row sum'])('the %s without a fault passes under every seed', (kernel) => {
    expect(outcomes(kernel, 'none')).toEqual(SEEDS.map(() => ''));
  });

  it('there are many, of every kind', () => {
    expect(faults().length).toBeGreaterThanOrEqual(30);
  });

  it('each is caught', () => {
    const missed = faults().filter(({ kernel, fault }) => outcomes(kernel, fault).every((outcome) => outcome === ''));
    expect(missed).toEqual([]);
  });

  it('those that no schedule can hide are caught under every seed', () => {
    const scheduled = /^no __sync/;
    const hidden = faults().filter(
      ({ kernel, fault }) => !scheduled.test(fault) && outcomes(kernel, fault).some((outcome) => outcome === ''),
    );
    expect(hidden).toEqual([]);
  });
});
