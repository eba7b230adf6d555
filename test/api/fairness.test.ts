/** The event loop beside a loop of small ops whose results are known at once. */
import { spawn } from 'node:child_process';
import { once } from 'node:events';
import { Worker } from 'node:worker_threads';
import { describe, expect, test } from 'vitest';
import { binding } from '../../lib/binding.js';
import { getDevice } from '../../lib/index.js';
import { root } from '../helpers/native_build.js';

const program = new URL('./fairness_program.ts', import.meta.url);

/** The program in that mode, ended if it does not end by itself. */
function start(mode: string, isa: string) {
  const child = spawn(process.execPath, ['--import', 'tsx', program.pathname, mode], {
    cwd: root,
    env: { ...process.env, SAS_ISA: isa, SAS_DEVICE: 'cpu' },
    stdio: ['ignore', 'pipe', 'inherit'],
  });
  const timer = setTimeout(() => child.kill('SIGKILL'), 100_000);
  child.once('exit', () => clearTimeout(timer));
  let output = '';
  child.stdout.setEncoding('utf8').on('data', (text: string) => (output += text));
  const result = once(child, 'close').then(([code]) => {
    expect(code).toBe(0);
    return JSON.parse(output.trim().split('\n').at(-1) as string);
  });
  return { child, result };
}

const sets = binding.instructionSets();
const sound = sets.slice(sets.indexOf(getDevice('cpu').info.isa as string)); // those that this processor has

describe.each(sound)('%s', (isa) => {
  test('a timer of 5 ms fires every 20 ms', async () => {
    expect(await start('timers', isa).result).toBeLessThan(20);
  });

  test('results that nobody disposes of go', async () => {
    expect(await start('growth', isa).result).toBeLessThan(64); // MB; they are of 250
  });

  test('no call holds the thread for longer than small work takes', async () => {
    const held = (await start('held', isa).result) as Record<string, number>;
    for (const [name, ms] of Object.entries(held)) expect(ms, name).toBeLessThan(1);
  });

  test('a signal is handled within 100 ms', async () => {
    let best = Number.POSITIVE_INFINITY;
    for (let i = 0; i < 5 && best > 100; i++) {
      const { child, result } = start('signal', isa);
      await once(child.stdout, 'data');
      await new Promise((resolve) => setTimeout(resolve, 50));
      const sent = Date.now();
      child.kill('SIGTERM');
      const overdue = setTimeout(() => child.kill('SIGKILL'), 10_000);
      best = Math.min(best, (await result) - sent);
      clearTimeout(overdue);
    }
    expect(best).toBeLessThan(100);
  });
});

test('a worker thread has its turns, too', async () => {
  const script = `import('tsx/esm/api').then(({ register }) => { register(); return import(${JSON.stringify(program.href)}); });`;
  const worker = new Worker(script, { eval: true, workerData: { mode: 'timers' } });
  const [each] = await once(worker, 'message');
  expect(each).toBeLessThan(20);
  await once(worker, 'exit'); // by itself
});
