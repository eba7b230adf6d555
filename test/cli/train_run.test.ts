import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import { mobyDick } from '../../bench/quality/texts.js';
import { parseOptions } from '../../lib/cli/train/options.js';
import { resumedConfig } from '../../lib/cli/train/resume.js';
import { loadCheckpoint, resumeRun, saveCheckpoint } from '../../lib/gpt/checkpoint.js';
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { loadText } from '../../lib/gpt/data.js';
import { train } from '../../lib/gpt/loop.js';
import { disposeRun, startRun } from '../../lib/gpt/run.js';
import { getDevice } from '../../lib/index.js';
import { losses, temporaryFolder, trainCli } from './train_program.js';

const TINY = '--width 32 --layers 2 --heads 2 --sim-heads 4 --sim-head-dim 24 --kernel 3 --seq 16 --batch 4';
const tiny = TINY.split(' ');

test('a short run of all attentions writes everything and ends with the table', async () => {
  const out = temporaryFolder();
  const args = [...tiny, '--steps', '6', '--attention', 'mha,sas,sas-linear', '--out', out];
  const { code, stdout, stderr } = await trainCli(args);
  expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
  for (const attention of ['mha', 'sas', 'sas-linear']) {
    expect(stdout).toMatch(new RegExp(`^${attention} step +6/6 \\| validation loss \\d\\.\\d{3}$`, 'm'));
    expect(stdout).toMatch(new RegExp(`^${attention} +\\d\\d,\\d{3} +6 +\\d\\.\\d{4} +\\d\\.\\d{4} `, 'm'));
    expect(readFileSync(join(out, attention, 'sample.txt')).length).toBeGreaterThan(400);
    expect((await loadCheckpoint(join(out, attention, 'checkpoint.safetensors'))).step).toBe(6);
    const own = losses(out).filter((line) => line.attention === attention);
    expect(own.filter((line) => 'loss' in line).map((line) => line.step)).toEqual([1, 2, 3, 4, 5, 6]);
    expect(own.filter((line) => 'validationLoss' in line).map((line) => line.step)).toEqual([6]);
  }
  const svg = readFileSync(join(out, 'loss.svg'), 'utf8');
  for (const words of ['Moby Dick', 'step', 'cross-entropy loss', 'sas-linear: ']) expect(svg).toContain(words);
  expect(readFileSync(join(out, 'loss.png')).subarray(1, 4).toString()).toBe('PNG');
}, 30_000);

test('Ctrl-C writes a checkpoint and exits cleanly; the resumed run equals an uninterrupted one', async () => {
  const [whole, parts] = [temporaryFolder(), temporaryFolder()];
  const args = [...tiny, '--steps', '400', '--attention', 'mha,sas', '--out'];
  const [uninterrupted, interrupted] = await Promise.all([
    trainCli([...args, whole]),
    trainCli([...args, parts], { interruptAt: 'mha step  10/400' }),
  ]);
  expect({ code: uninterrupted.code, stderr: uninterrupted.stderr }).toEqual({ code: 0, stderr: '' });
  expect({ code: interrupted.code, stderr: interrupted.stderr }).toEqual({ code: 0, stderr: '' });
  const checkpoint = join(parts, 'mha', 'checkpoint.safetensors');
  expect(interrupted.stdout).toContain(`npm run train -- --resume ${checkpoint}`);
  const { step } = await loadCheckpoint(checkpoint);
  expect(step).toBeGreaterThanOrEqual(10);
  expect(step).toBeLessThan(400);

  const resumed = await trainCli(['--resume', checkpoint]);
  expect({ code: resumed.code, stderr: resumed.stderr }).toEqual({ code: 0, stderr: '' });
  expect(losses(parts)).toEqual(losses(whole));
  for (const file of ['checkpoint.safetensors', 'sample.txt']) {
    for (const attention of ['mha', 'sas']) {
      const [a, b] = [whole, parts].map((folder) => readFileSync(join(folder, attention, file)));
      expect(a && b && a.equals(b), `${attention}/${file}`).toBe(true);
    }
  }
}, 60_000);

test('a checkpoint between two steps, and options that contradict it', async () => {
  const device = getDevice('cpu');
  const path = join(temporaryFolder(), 'checkpoint.safetensors');
  const options = parseOptions([...tiny, '--steps', '9', '--attention', 'sas']);
  const config: TrainConfig = options?.config ?? DEFAULT_CONFIG;
  const data = await loadText(mobyDick, config.seq);
  const whole: number[] = [];
  const parts: number[] = [];
  const events = (losses: number[], stopAfter: number) => ({
    onStep: ({ loss }: { loss: number }) => losses.push(loss),
    onValidation: (_: number, loss: number) => losses.push(loss),
    saveCheckpoint: async () => {},
    shouldStop: () => losses.length >= stopAfter,
  });

  const first = startRun(config, 'sas', device);
  await train(first, data, events(whole, 100));
  disposeRun(first);

  const second = startRun(config, 'sas', device);
  expect(await train(second, data, events(parts, 3))).toBe(false);
  await saveCheckpoint(path, second, data.hash);
  disposeRun(second);
  const checkpoint = await loadCheckpoint(path);
  const third = resumeRun(checkpoint, config, device);
  expect(await train(third, data, events(parts, 100))).toBe(true);
  disposeRun(third);
  expect(parts).toEqual(whole);

  const resumed = (...args: string[]) => {
    const given = parseOptions(['--resume', path, ...args]);
    return given && resumedConfig(given, checkpoint);
  };
  expect(resumed()).toEqual(config);
  expect(resumed(...tiny)).toEqual(config);
  expect(resumed('--steps', '20', '--attention', 'sas,mha')).toMatchObject({ steps: 20, attentions: ['sas', 'mha'] });
  expect(() => resumed('--sim-head-dim', '32')).toThrow('--sim-head-dim 32 contradicts the checkpoint, which has 24');
  expect(() => resumed('--steps', '2')).toThrow('--steps 2 is less than the 4 of the checkpoint');
  expect(() => resumed('--attention', 'mha')).toThrow('--attention mha lacks sas, which is resumed');
});
