/** npm run test:tsan -- [seconds [seed]]: the queue, the buffer pool and the thread pool under ThreadSanitizer. */
import { spawnSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { join } from 'node:path';
import { buildTarget } from '../helpers/native_build.js';

export interface RaceHunt {
  /** 0: no race and no wrong result; 66: a report of the sanitizer. */
  status: number | null;
  output: string;
}

/** Hammers them for that long; `plant` adds a race of the test's own, which must be found. */
export function huntRaces(seconds: number, seed: number, plant = false): RaceHunt {
  const build = buildTarget('hardening', 'sas_races', { SAS_ISAS: 'baseline' });
  const args = [String(seconds), String(seed), ...(plant ? ['plant'] : [])];
  // Without address randomisation: the sanitizer's fixed memory map and that of newer kernels may collide.
  const { status, stdout, stderr } = spawnSync(
    'setarch',
    ['-R', join(build, 'test/hardening/native/sas_races'), ...args],
    {
      encoding: 'utf8',
      timeout: (seconds + 60) * 1000, // a queue that does not end is a failure, not a test without end
    },
  );
  return { status, output: stdout + stderr };
}

if (process.argv[1] === import.meta.filename) {
  const [seconds = 60, seed = randomInt(2 ** 32)] = process.argv.slice(2).map(Number);
  const { status, output } = huntRaces(seconds, seed);
  console.log(output.trim());
  console.log(`ThreadSanitizer, ${seconds} s: ${status === 0 ? 'no race' : `exit code ${status}`}`);
  const planted = huntRaces(2, seed, true);
  console.log(`a planted race is ${planted.status === 66 ? 'found' : 'NOT FOUND'}`);
  process.exitCode = status === 0 && planted.status === 66 ? 0 : 1;
}
