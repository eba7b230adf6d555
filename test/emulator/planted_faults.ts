/** Programs of test/emulator with planted faults: runs one under many seeds and expects that each fault is found. */
import { execFileSync } from 'node:child_process';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildEmulated } from '../helpers/native_build.js';

const SEEDS = Array.from({ length: 16 }, (_, seed) => seed);

interface Trial {
  program: string;
  fault: string;
  /** How the fault showed, '' if it did not. */
  caught: string;
}

export interface Plan {
  /** A CMake target of test/emulator; it prints a Trial per line. */
  target: string;
  programs: readonly string[];
  /** How many faults there are at least. */
  faults: number;
  /** Faults that a schedule may hide: found under some seed, all others under every one. */
  scheduled: RegExp;
  environment?: Record<string, string>;
}

export function testPlantedFaults({ target, programs, faults: least, scheduled, environment }: Plan): void {
  let trials: Trial[] = [];

  beforeAll(() => {
    const program = join(buildEmulated(target), 'test/emulator', target);
    trials = SEEDS.flatMap((seed) =>
      execFileSync(program, {
        encoding: 'utf8',
        env: { ...process.env, ...environment, SAS_EMULATOR_SEED: String(seed) },
      })
        .trim()
        .split('\n')
        .map((line) => JSON.parse(line) as Trial),
    );
  }, 600_000);

  afterAll(() => {
    const lines = faults().map(({ program, fault }) => {
      const caught = outcomes(program, fault).filter((outcome) => outcome !== '');
      return `${`${caught.length}/${SEEDS.length}`.padStart(6)}  ${program}: ${fault}\n        ${caught[0]?.slice(0, 150)}`;
    });
    console.log(`planted faults, seeds that show them, and how:\n${lines.join('\n')}`);
  });

  const outcomes = (program: string, fault: string) =>
    trials.filter((trial) => trial.program === program && trial.fault === fault).map((trial) => trial.caught);
  const faults = () => trials.slice(0, trials.length / SEEDS.length).filter((trial) => trial.fault !== 'none');

  it.each(programs)('the %s without a fault passes under every seed', (program) => {
    expect(outcomes(program, 'none')).toEqual(SEEDS.map(() => ''));
  });

  it('there are many, of every kind', () => {
    expect(faults().length).toBeGreaterThanOrEqual(least);
  });

  it('each is caught', () => {
    const missed = faults().filter(({ program, fault }) => outcomes(program, fault).every((outcome) => outcome === ''));
    expect(missed).toEqual([]);
  });

  it('those that no schedule can hide are caught under every seed', () => {
    const hidden = faults().filter(
      ({ program, fault }) => !scheduled.test(fault) && outcomes(program, fault).some((outcome) => outcome === ''),
    );
    expect(hidden).toEqual([]);
  });
}
