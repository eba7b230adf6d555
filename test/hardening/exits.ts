/**
 * npm run test:exit -- [processes]: that many processes end while work is in flight, from the main thread and from workers; then
 * one in each way while a single op runs that takes most of a minute, of which the end must not wait.
 */
import { spawn } from 'node:child_process';
import { join } from 'node:path';
import { root } from '../helpers/native_build.js';

/** Way of ending and the exit code that must come of it. */
export const ways = {
  end: 0,
  exit: 7,
  throw: 1,
  'worker end': 0,
  'worker exit': 0,
  'worker throw': 0,
  terminate: 0,
  'exit beside a worker': 7,
} as const;

/** The same, of a program that is inside one long op. */
export const longWays = {
  'long end': 0,
  'long exit': 7,
  'long backward': 7,
  'long throw': 1,
  'long peak': 7,
  'long worker end': 0,
  'long terminate': 0,
  'long dataSync': 0,
  'long exit beside a worker': 7,
} as const;

const LONGEST_MS = 120_000;

/** Ends one process inside a long op: its exit code, and the milliseconds from where it ends itself to where it has ended. */
export async function endLong(way: keyof typeof longWays): Promise<{ code: number | null; milliseconds: number }> {
  const child = start(way, 0);
  const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
  let output = '';
  child.stdout.on('data', (data) => {
    output += data;
  });
  const code = await ended;
  return { code, milliseconds: Date.now() - Number(/ends at (\d+)/.exec(output)?.[1]) };
}

const start = (way: string, seed: number) =>
  spawn(process.execPath, ['--import', 'tsx', join(import.meta.dirname, 'exit_program.ts'), way, String(seed)], {
    cwd: root,
    timeout: LONGEST_MS,
  });

/** Ends `count` processes, `atOnce` side by side; returns what went wrong. */
export async function endProcesses(count: number, atOnce = 2): Promise<string[]> {
  const faults: string[] = [];
  let next = 0;
  const lane = async () => {
    for (let i = next++; i < count; i = next++) {
      const [way, expected] = Object.entries(ways)[i % Object.keys(ways).length] as [string, number];
      const fault = await endOne(way, expected, i);
      if (fault) faults.push(fault);
    }
  };
  await Promise.all(Array.from({ length: atOnce }, lane));
  return faults;
}

function endOne(way: string, expected: number, seed: number): Promise<string | null> {
  return new Promise((resolve) => {
    const child = start(way, seed);
    let errors = '';
    child.stderr.on('data', (data) => {
      errors += data;
    });
    child.on('close', (code, signal) => {
      const what = `${way}, seed ${seed}: code ${code}, signal ${signal}, expected code ${expected}\n${errors}`;
      resolve(code === expected ? null : what);
    });
  });
}

if (process.argv[1] === import.meta.filename) {
  const count = Number(process.argv[2] ?? 200);
  const started = performance.now();
  const faults = await endProcesses(count);
  for (const fault of faults) console.error(fault);
  const seconds = ((performance.now() - started) / 1000).toFixed(0);
  console.log(
    `${count} processes ended with work in flight (${Object.keys(ways).join(', ')}): ${faults.length} crashes or hangs, ${seconds} s`,
  );
  let slow = 0;
  for (const [way, expected] of Object.entries(longWays) as [keyof typeof longWays, number][]) {
    const { code, milliseconds } = await endLong(way);
    console.log(`${way}: ended ${milliseconds} ms after it was to, with code ${code}`);
    if (code !== expected || !(milliseconds < 2000)) slow++;
  }
  process.exitCode = faults.length || slow ? 1 : 0;
}
