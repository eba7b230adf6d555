// The program as a user runs it.
import { execFile } from 'node:child_process';
import { mkdtempSync, readFileSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { beforeAll, describe, expect, test } from 'vitest';
import { FORMAT_NAMES } from '../../../../bench/quality/eval/formats.js';
import { CheckpointModel } from '../../../../bench/quality/eval/model.js';
import { parseOptions } from '../../../../bench/quality/eval/options.js';
import { score } from '../../../../bench/quality/eval/score.js';
import { readTask } from '../../../../bench/quality/eval/task.js';
import { UsageError } from '../../../../lib/failure.js';
import { getDevice } from '../../../../lib/index.js';
import { sample, tinyCheckpoint } from './model.js';

const root = fileURLToPath(new URL('../../../..', import.meta.url));

function evaluate(...args: string[]): Promise<{ code: number; stdout: string; stderr: string }> {
  return new Promise((resolve) => {
    const program = ['--import', 'tsx', 'bench/quality/eval/main.ts', ...args];
    execFile(process.execPath, program, { cwd: root }, (error, stdout, stderr) => {
      resolve({ code: error === null ? 0 : Number(error.code), stdout, stderr });
    });
  });
}

describe('parseOptions', () => {
  test('every option', () => {
    const line = '--checkpoint c --task a --format piqa --labels l --batch 3 --limit 7 --device cuda:1 --json j';
    expect(parseOptions(line.split(' '))).toEqual({
      checkpoint: 'c',
      tasks: ['a'],
      format: 'piqa',
      labels: 'l',
      batch: 3,
      limit: 7,
      device: 'cuda:1',
      json: 'j',
    });
    expect(parseOptions('--checkpoint c --task a --task b'.split(' '))).toMatchObject({ tasks: ['a', 'b'], batch: 16 });
  });

  test.each([
    ['--task a', '--checkpoint is missing; --help lists the options'],
    ['--checkpoint c', '--task is missing; --help lists the options'],
    ['--checkpoint c --task=', '--task needs a path'],
    ['--checkpoint c --task a --json=', '--json needs a path'],
    ['--checkpoint c --task a --task b --labels l', '--labels goes with a single --task'],
    ['--checkpoint c --task a --format arcs', `--format must be one of ${FORMAT_NAMES.join(', ')}, got 'arcs'`],
    ['--checkpoint c --task a --batch 0', "--batch must be an integer from 1 to 65536, got '0'"],
    ['--checkpoint c --task a --limit 0', "--limit must be an integer from 1 to 10000000, got '0'"],
    ['--checkpoint c --task a --device gpu', "--device must be cpu or cuda:N, got 'gpu'"],
    ['--checkpoint c --tasks a', "Unknown option '--tasks' (did you mean '--task'?); --help lists the options"],
  ])('%s is refused', (line, message) => {
    expect(() => parseOptions(line.split(' '))).toThrow(new UsageError(message));
  });
});

describe('command line', () => {
  let checkpoint: string;
  beforeAll(async () => {
    checkpoint = await tinyCheckpoint('sas');
  });

  test('--help explains every option', async () => {
    const { code, stdout, stderr } = await evaluate('--help');
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const flag of ['checkpoint', 'task', 'format', 'labels', 'limit', 'batch', 'device', 'json', 'help']) {
      expect(stdout).toContain(`--${flag} `);
    }
    for (const name of FORMAT_NAMES) expect(stdout).toContain(name);
  });

  test('a table on stdout, the results in a file, progress on stderr', async () => {
    const files = [sample('arc.jsonl'), sample('piqa.jsonl')];
    const json = join(mkdtempSync(join(tmpdir(), 'sas-eval-')), 'results.json');
    const args = ['--checkpoint', checkpoint, ...files.flatMap((file) => ['--task', file])];
    const { code, stdout, stderr } = await evaluate(...args, '--batch', '2', '--json', json, '--device', 'cpu');
    expect(code).toBe(0);
    expect(stderr).toMatch(/^(?:arc \d\/9 \| ETA 0:\d\d\n){5}(?:piqa \d\/6 \| ETA 0:\d\d\n){3}$/);

    const device = getDevice('cpu');
    const model = await CheckpointModel.open(checkpoint, device);
    const results = [];
    for (const file of files) {
      const { examples, format } = readTask(file);
      results.push({ task: file, format, ...(await score(model, examples, { batch: 16 })) });
    }
    model.dispose();
    const report = JSON.parse(readFileSync(json, 'utf8')) as object;
    const facts = { attention: 'sas', steps: 30, dtype: 'f32', contextLength: 48 };
    expect(report).toMatchObject({ checkpoint, ...facts, results });

    const [arc, piqa] = results;
    const share = ({ value, stderr }: { value: number; stderr: number | null }) =>
      `${value.toFixed(4)} ± ${stderr?.toFixed(4)}`;
    for (const [name, n, { acc, accNorm }] of [
      ['arc', 3, arc],
      ['piqa', 3, piqa],
    ] as const) {
      const row = stdout.split('\n').find((line) => line.includes(`  ${name} `));
      expect(row?.split(/ {2,}/)).toEqual([sample(`${name}.jsonl`), name, String(n), share(acc), share(accNorm)]);
    }
    expect(stdout).toContain(`${files[0]}: inputs longer than the model's 48 tokens, whose beginning was cut off: 7\n`);
  });

  test('--limit', async () => {
    const { code, stdout } = await evaluate('--checkpoint', checkpoint, '--task', sample('piqa.jsonl'), '--limit', '1');
    expect(code).toBe(0);
    expect(stdout).toMatch(/ piqa +1 +[01]\.0000 ± - +[01]\.0000 ± -$/m);
  });

  const folder = mkdtempSync(join(tmpdir(), 'sas-eval-'));
  const empty = join(folder, 'empty.jsonl');
  writeFileSync(empty, '\n');
  const piqa = sample('piqa.jsonl');
  test.concurrent.each([
    ['nothing asked for', [], '--checkpoint is missing'],
    ['a task that is not there', ['--checkpoint', 'x', '--task', join(folder, 'no')], 'no such file'],
    ['an empty task', ['--checkpoint', 'x', '--task', empty], 'it has no records'],
    ['a checkpoint that is not there', ['--checkpoint', join(folder, 'no'), '--task', piqa], 'no such file'],
    ['a file that is no checkpoint', ['--checkpoint', piqa, '--task', piqa], 'it cannot be read'],
    ['a device that is not there', ['--checkpoint', 'x', '--task', piqa, '--device', 'cuda:99'], 'cuda:99'],
  ])('%s: one line on stderr, exit code 2', async (_, args, message) => {
    const { code, stdout, stderr } = await evaluate(...args);
    expect(stderr).toMatch(/^eval: [^\n]+\n$/);
    expect(stderr).toContain(message);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });
});
