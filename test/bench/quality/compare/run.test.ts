// `npm run compare` as a user has it, in a process of its own.
import { type ChildProcess, spawn } from 'node:child_process';
import {
  copyFileSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, expect, test } from 'vitest';
import { root } from '../../../helpers/native_build.js';

const folder = mkdtempSync(join(tmpdir(), 'sas-compare-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const small = ['--attention', 'mha,sas', '--seeds', '1', '--seq', '8', '--batch', '1', '--steps', '220'];

/** In a process group of its own, so that all of it can be killed at once. */
function start(
  out: string,
  ...args: string[]
): { child: ChildProcess; ended: Promise<{ code: number | null; text: string }> } {
  const program = [
    '--import',
    'tsx',
    join(root, 'bench/quality/compare/main.ts'),
    ...small,
    '--out',
    join(folder, out),
    ...args,
  ];
  const env = { ...process.env, SAS_DEVICE: 'cpu', SAS_THREADS: '1' };
  const child = spawn(process.execPath, program, { cwd: root, env, detached: true, stdio: ['ignore', 'pipe', 'pipe'] });
  let text = '';
  for (const stream of [child.stdout, child.stderr]) stream?.on('data', (chunk) => (text += chunk));
  return { child, ended: new Promise((resolve) => child.on('close', (code) => resolve({ code, text }))) };
}

/** Every loss of a run, without what depends on the clock. */
function losses(out: string, run: string): unknown[] {
  const lines = readFileSync(join(folder, out, run, 'metrics.jsonl'), 'utf8')
    .trim()
    .split('\n');
  return lines.map((line) => {
    const { tokensPerSecond: _, summary, ...rest } = JSON.parse(line);
    return { ...rest, summary: summary?.validationLoss };
  });
}

/** The worker processes of an experiment. */
function workersOf(out: string): number[] {
  return readdirSync('/proc').flatMap((id) => {
    if (!/^\d+$/.test(id)) return [];
    try {
      const command = readFileSync(`/proc/${id}/cmdline`, 'utf8');
      return command.includes('compare/worker.ts') && command.includes(join(folder, out)) ? [Number(id)] : [];
    } catch {
      return [];
    }
  });
}

test('runs everything once and reports it; killed outright and taken up again, it comes to the same', async () => {
  const whole = await start('whole').ended;
  expect(whole.code, whole.text).toBe(0);
  expect(whole.text).toMatch(/^mha +405,129 +419 +\d\.\d{4} /m);
  expect(whole.text).toMatch(/^sas less mha: [+-]\d\.\d{4}/m);
  const report = readFileSync(join(folder, 'whole/report.md'), 'utf8');
  expect(report).toMatch(/^\| sas \| 404,856 \| 384 \| \d\.\d{4} \|/m);
  expect(report).not.toContain('missing');
  expect(readFileSync(join(folder, 'whole/runs.jsonl'), 'utf8').trim().split('\n')).toHaveLength(2 * 4);
  expect(readFileSync(join(folder, 'whole/report.png')).subarray(1, 4).toString()).toBe('PNG');

  const { child, ended } = start('killed');
  const metrics = join(folder, 'killed/sas-0/metrics.jsonl');
  const lines = () => (existsSync(metrics) ? readFileSync(metrics, 'utf8').split('\n').length : 0);
  while (lines() < 140) await new Promise((resolve) => setTimeout(resolve, 2));
  for (const id of [...workersOf('killed'), child.pid as number]) process.kill(id, 'SIGKILL');
  await ended;
  expect(lines()).toBeLessThan(222);
  const again = await start('killed').ended;
  expect(again.code, again.text).toBe(0);
  for (const run of ['mha-0', 'sas-0']) expect(losses('killed', run)).toEqual(losses('whole', run));

  const third = await start('killed').ended;
  expect(third.text).toContain('2 runs are finished already');
  const other = await start('killed', '--lr', '0.5').ended;
  expect(other.code).toBe(2);
  expect(other.text).toContain('holds an experiment with other settings: name another folder');
});

test('a run that crashes costs itself alone', async () => {
  mkdirSync(join(folder, 'crash/mha-0'), { recursive: true });
  writeFileSync(join(folder, 'crash/mha-0/checkpoint.safetensors'), 'no checkpoint');
  const { code, text } = await start('crash', '--steps', '20').ended;
  expect(code, text).toBe(1);
  expect(text).toMatch(/mha, seed 0: FAILED, see .*errors\.txt/);
  expect(text).toMatch(/sas, seed 0: done/);
  expect(text).toContain('failed: mha, seed 0; the same command tries them again');
  expect(readFileSync(join(folder, 'crash/mha-0/errors.txt'), 'utf8')).toContain('checkpoint.safetensors');
  expect(readFileSync(join(folder, 'crash/report.md'), 'utf8')).toContain('**1 run is missing.**');
});

test('a checkpoint of another run is not gone on with', async () => {
  mkdirSync(join(folder, 'foreign/sas-0'), { recursive: true });
  copyFileSync(
    join(folder, 'whole/sas-0/checkpoint.safetensors'),
    join(folder, 'foreign/sas-0/checkpoint.safetensors'),
  );
  const { code } = await start('foreign', '--attention', 'sas', '--lr', '0.5').ended;
  expect(code).toBe(1);
  expect(readFileSync(join(folder, 'foreign/sas-0/errors.txt'), 'utf8')).toContain('is of another run');
});

test('Ctrl-C keeps what is done', async () => {
  const { child, ended } = start('stopped', '--steps', '100000');
  const metrics = join(folder, 'stopped/sas-0/metrics.jsonl');
  while (!existsSync(metrics) || readFileSync(metrics, 'utf8').length < 2000)
    await new Promise((resolve) => setTimeout(resolve, 5));
  child.kill('SIGINT');
  const { code, text } = await ended;
  expect(code, text).toBe(0);
  expect(text).toContain('Stopped. The same command goes on from here.');
  expect(existsSync(join(folder, 'stopped/sas-0/checkpoint.safetensors'))).toBe(true);
  expect(workersOf('stopped')).toEqual([]);
});
