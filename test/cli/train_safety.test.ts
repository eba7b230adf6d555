/** What a training must not lose, and what it must not swallow: runs, checkpoints, metrics, texts. */
import { execFileSync, spawn } from 'node:child_process';
import { appendFileSync, existsSync, mkdirSync, readdirSync, readFileSync, symlinkSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { describe, expect, test } from 'vitest';
import { CheckpointModel } from '../../bench/quality/eval/model.js';
import { unfinishedIn } from '../../lib/cli/train/resume.js';
import { loadCheckpoint } from '../../lib/gpt/checkpoint.js';
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { loadText } from '../../lib/gpt/data.js';
import { DivergedError } from '../../lib/gpt/loop.js';
import { MetricsLog } from '../../lib/gpt/metrics.js';
import { disposeRun, startRun } from '../../lib/gpt/run.js';
import { runToEnd } from '../../lib/gpt/run_to_end.js';
import { textAt } from '../../lib/gpt/text.js';
import { getDevice } from '../../lib/index.js';
import { temporaryFolder, trainCli } from './train_program.js';

const root = resolve(import.meta.dirname, '../..');
const text = join(root, 'test/fixtures/checkpoints/text.txt');
const SIZES = { width: 8, layers: 1, heads: 2, simHeads: 2, simHeadDim: 4, kernel: 3, hidden: 8, seq: 8, batch: 2 };
const tiny =
  '--width 8 --layers 1 --heads 2 --sim-heads 2 --sim-head-dim 4 --kernel 3 --hidden 8 --seq 8 --batch 2'.split(' ');
const config: TrainConfig = { ...DEFAULT_CONFIG, ...SIZES, text, attentions: ['mha', 'sas'], steps: 5 };
const device = getDevice('cpu');

/** Every file below a folder, by its path in it. */
const filesIn = (folder: string): Record<string, string> =>
  Object.fromEntries(
    readdirSync(folder, { withFileTypes: true, recursive: true })
      .filter((entry) => entry.isFile())
      .map((entry) => join(entry.parentPath, entry.name))
      .sort()
      .map((path) => [path.slice(folder.length + 1), readFileSync(path).toString('latin1')]),
  );

/** Leaves a run of `mha` that was stopped at that step, as Ctrl-C does. */
async function stopped(out: string, step: number): Promise<string> {
  const checkpoint = join(out, 'mha', 'checkpoint.safetensors');
  mkdirSync(out, { recursive: true });
  const data = await loadText(textAt(text), config.seq);
  const log = new MetricsLog(join(out, 'metrics.jsonl'));
  await log.reset();
  const run = startRun(config, 'mha', device);
  const quiet = { step: () => {}, validation: () => {}, shouldStop: () => run.step >= step };
  await runToEnd(run, data, { log, checkpoint }, quiet);
  disposeRun(run);
  return checkpoint;
}

describe('an --out that holds a run that is not finished', () => {
  test('is left as it is, unless it is resumed or overwritten; a finished one is replaced', async () => {
    const out = temporaryFolder();
    const checkpoint = await stopped(out, 3);
    const before = filesIn(out);
    const again = ['--text', text, ...tiny, '--steps', '5', '--attention', 'mha', '--out', out];
    const refused = await trainCli(again);
    expect(refused).toEqual({
      code: 2,
      stdout: '',
      stderr:
        `train: --out '${out}' holds a run that is not finished (mha, step 3 of 5): ` +
        `npm run train -- --resume ${checkpoint} goes on with it, --overwrite replaces it\n`,
    });
    expect(filesIn(out)).toEqual(before);

    const resumed = await trainCli(['--resume', checkpoint]);
    expect({ code: resumed.code, stderr: resumed.stderr }).toEqual({ code: 0, stderr: '' });
    const finished = await trainCli(again); // what is finished is replaced
    expect({ code: finished.code, stderr: finished.stderr }).toEqual({ code: 0, stderr: '' });

    await stopped(out, 3);
    const overwritten = await trainCli([...again, '--overwrite']);
    expect({ code: overwritten.code, stderr: overwritten.stderr }).toEqual({ code: 0, stderr: '' });
    expect((await loadCheckpoint(checkpoint)).step).toBe(5);
  }, 120_000);

  test('is one whose attentions are not all done, too, and one that cannot be read', async () => {
    const out = temporaryFolder();
    expect(await unfinishedIn(join(out, 'none'))).toBeUndefined();
    expect(await unfinishedIn(out)).toBeUndefined();
    const path = await stopped(out, 5); // to the end, but sas was to follow
    expect(await unfinishedIn(out)).toEqual({ path, state: 'mha, step 5 of 5; sas to be done' });
    appendFileSync(join(out, 'metrics.jsonl'), '{"attention":"sas","summary":{}}\n');
    expect(await unfinishedIn(out)).toBeUndefined();
    writeFileSync(path, 'spoilt');
    expect((await unfinishedIn(out))?.state).toContain('it cannot be read');
  });

  test('is not replaced by the run of another folder either', async () => {
    const [from, out] = [temporaryFolder(), temporaryFolder()];
    const checkpoint = await stopped(from, 3);
    await stopped(out, 4);
    const before = filesIn(out);
    const { code, stderr } = await trainCli(['--resume', checkpoint, '--out', out]);
    expect(code).toBe(2);
    expect(stderr).toContain('holds a run that is not finished (mha, step 4 of 5)');
    expect(filesIn(out)).toEqual(before);
  }, 60_000);
});

describe('divergence', () => {
  test('ends with exit code 1, the step, no sample and no checkpoint', async () => {
    const out = temporaryFolder();
    const args = ['--text', text, ...tiny, '--steps', '50', '--attention', 'sas', '--lr', '10', '--dtype', 'f16'];
    const { code, stdout, stderr } = await trainCli([...args, '--out', out]);
    expect(code).toBe(1);
    expect(stderr).toMatch(
      /^train: sas: the (loss|gradient norm) of step \d+ is (NaN|Infinity): the training diverged, try a lower --lr; no checkpoint had been saved since it began\n$/,
    );
    expect(stdout).not.toContain('Sample');
    expect(existsSync(join(out, 'sas'))).toBe(false);
  }, 60_000);

  test('keeps the last good checkpoint, and names it', async () => {
    const out = temporaryFolder();
    const checkpoint = join(out, 'sas', 'checkpoint.safetensors');
    const data = await loadText(textAt(text), config.seq);
    const log = new MetricsLog(join(out, 'metrics.jsonl'));
    await log.reset();
    const run = startRun({ ...config, steps: 250 }, 'sas', device);
    const spoil = {
      step: ({ step }: { step: number }) => {
        if (step === 120) run.model.parameters.get('head.weight')?.copyFrom(new Float32Array(256 * 8).fill(Number.NaN));
      },
      validation: () => {},
      shouldStop: () => false,
    };
    const error = await runToEnd(run, data, { log, checkpoint }, spoil).catch((error: Error) => error);
    disposeRun(run);
    expect(error).toBeInstanceOf(DivergedError);
    expect((error as Error).message).toMatch(
      /^sas: the loss of step 12\d is NaN: the training diverged, try a lower --lr; the last good checkpoint is that of step 100, /,
    );
    expect((error as Error).message).toContain(checkpoint);
    expect((await loadCheckpoint(checkpoint)).step).toBe(100);
  });
});

describe('--resume', () => {
  test('of a damaged checkpoint touches nothing: a bit that flips, of a forged one, of an endless one', async () => {
    const out = temporaryFolder();
    const checkpoint = await stopped(out, 3);
    const bytes = readFileSync(checkpoint);
    bytes[bytes.length - 3000] = (bytes[bytes.length - 3000] as number) ^ 1;
    writeFileSync(checkpoint, bytes);
    const before = filesIn(out);
    const { code, stdout, stderr } = await trainCli(['--resume', checkpoint]);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
    expect(stderr).toMatch(/^train: checkpoint '[^\n]*is damaged: the SHA-256 of its data[^\n]*\n$/);
    expect(filesIn(out)).toEqual(before);
    await expect(CheckpointModel.open(checkpoint, device)).rejects.toThrow('is damaged');
    for (const path of ['/dev/zero', out]) {
      await expect(loadCheckpoint(path)).rejects.toThrow(/is a (device|folder), expected a regular file/);
    }
  }, 60_000);

  test('a line of metrics that was cut off costs that line', async () => {
    const out = temporaryFolder();
    const path = join(out, 'metrics.jsonl');
    const log = new MetricsLog(path);
    await log.reset();
    for (const step of [1, 2, 3]) log.append({ attention: 'mha', step, validationLoss: step });
    await log.flush();
    appendFileSync(path, '{"attention":"mha","step":4,"valid');
    await log.resume('mha', 2, 9, []);
    expect(readFileSync(path, 'utf8')).toBe(
      '{"attention":"mha","step":1,"validationLoss":1}\n{"attention":"mha","step":2,"validationLoss":2}\n',
    );
    expect(readdirSync(out)).toEqual(['metrics.jsonl']);
  });
});

describe('texts', () => {
  const read = async (path: string) => Buffer.from(await textAt(path).read()).toString();

  test('links in a folder are followed, to files and folders, and round in circles once', async () => {
    const folder = temporaryFolder();
    const [real, links] = [join(folder, 'real'), join(folder, 'links')];
    for (const path of [real, links]) mkdirSync(path);
    writeFileSync(join(real, 'a.txt'), 'first');
    writeFileSync(join(real, 'b.txt'), 'second');
    symlinkSync('../real/b.txt', join(links, 'x.txt'));
    symlinkSync('../real', join(links, 'y'));
    symlinkSync('..', join(real, 'z'));
    execFileSync('mkfifo', [join(links, 'fifo')]);
    expect(await read(links)).toBe('second\n\nfirst\n\nsecond');
    symlinkSync('nowhere', join(links, 'gone'));
    await expect(read(links)).rejects.toThrow(`--text '${links}': '${join(links, 'gone')}': no such file`);
  });

  test('what is no regular file is refused at once', async () => {
    const fifo = join(temporaryFolder(), 'fifo');
    execFileSync('mkfifo', [fifo]);
    await expect(read(fifo)).rejects.toThrow(`--text '${fifo}': it is a FIFO, expected a regular file (- reads stdin)`);
    await expect(read('/dev/zero')).rejects.toThrow('it is a device, expected a regular file');
    const large = join(temporaryFolder(), 'large');
    execFileSync('truncate', ['-s', '3G', large]);
    await expect(read(large)).rejects.toThrow('it has 3221225472 bytes, expected at most 2147483648');
  });

  /** The program with a stdin of ours. */
  function begin(args: readonly string[]) {
    const program = ['--import', 'tsx', 'bench/quality/train/main.ts', ...args];
    const child = spawn(process.execPath, program, { cwd: root });
    const closed = new Promise<{ code: number | null; signal: string | null }>((resolve) =>
      child.on('close', (code, signal) => resolve({ code, signal })),
    );
    return { child, closed };
  }

  test('- is stdin, also when the run is resumed', async () => {
    const out = temporaryFolder();
    const { child, closed } = begin(['--text', '-', ...tiny, '--steps', '3', '--attention', 'mha', '--out', out]);
    child.stdin.end(readFileSync(text));
    expect(await closed).toEqual({ code: 0, signal: null });
    const resumed = begin(['--resume', join(out, 'mha', 'checkpoint.safetensors'), '--steps', '5']);
    resumed.child.stdin.end(readFileSync(text));
    expect(await resumed.closed).toEqual({ code: 0, signal: null });
  }, 60_000);

  test.each(['SIGINT', 'SIGTERM'] as const)(
    '%s ends a program that waits for a text without end',
    async (signal) => {
      const { child, closed } = begin(['--text', '-', ...tiny, '--out', temporaryFolder()]);
      // More than a pipe holds: once it is written, the program is reading.
      await new Promise<void>((resolve) => child.stdin.write(Buffer.alloc(2 ** 20, 'a'), () => resolve()));
      child.kill(signal);
      expect(await closed).toEqual({ code: null, signal });
    },
    30_000,
  );
});
