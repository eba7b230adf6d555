import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { describe, expect, test } from 'vitest';
import { parseOptions } from '../../lib/cli/train/options.js';
import { UsageError } from '../../lib/failure.js';
import { ATTENTIONS, DEFAULT_CONFIG } from '../../lib/gpt/config.js';
import { temporaryFolder, trainCli } from './train_program.js';

describe('parseOptions', () => {
  test('without arguments: the defaults of the reference run', () => {
    const options = parseOptions([]);
    expect(options?.config).toEqual(DEFAULT_CONFIG);
    expect(options?.given.size).toBe(0);
  });

  test('--help', () => {
    expect(parseOptions(['--help', '--steps', 'x'])).toBeNull();
  });

  test('every option', () => {
    const line =
      '--attention sas,sas-linear --text a.txt --steps 5 --width 64 --layers 2 --heads 8 --sim-heads 16 ' +
      '--sim-head-dim 24 --kernel 3 --hidden 100 --positions rope --seq 32 --batch 2 --lr 1e-3 --seed 7 --dtype bf16 --device cuda:1 --resume c --out o';
    const options = parseOptions(line.split(' '));
    expect(options?.config).toEqual({
      attentions: ['sas', 'sas-linear'],
      text: 'a.txt',
      tokenizer: 'bytes',
      steps: 5,
      width: 64,
      layers: 2,
      heads: 8,
      simHeads: 16,
      simHeadDim: 24,
      kernel: 3,
      hidden: 100,
      positions: 'rope',
      seq: 32,
      batch: 2,
      lr: 1e-3,
      seed: 7,
      dtype: 'bf16',
    });
    expect(options).toMatchObject({ device: 'cuda:1', resume: 'c', out: 'o' });
    expect(options?.given.size).toBe(16);
  });

  test.each([
    [['--steps', '0'], "--steps must be an integer from 1 to 10000000, got '0'"],
    [['--steps', '1.5'], "--steps must be an integer from 1 to 10000000, got '1.5'"],
    [['--steps=-3'], "--steps must be an integer from 1 to 10000000, got '-3'"],
    [['--steps', 'many'], "--steps must be an integer from 1 to 10000000, got 'many'"],
    [['--seed', ''], "--seed must be an integer from 0 to 2147483647, got ''"],
    [['--lr', 'fast'], "--lr must be a number above 0 and at most 10, got 'fast'"],
    [['--lr', '0'], "--lr must be a number above 0 and at most 10, got '0'"],
    [['--attention', 'sass'], `--attention must be one of ${ATTENTIONS.join(', ')}, got 'sass'`],
    [['--attention', 'mha,'], `--attention must be one of ${ATTENTIONS.join(', ')}, got ''`],
    [
      ['--positions', 'rope', '--sim-head-dim', '47'],
      '--sim-head-dim 47 is odd: rotary positions turn features in pairs',
    ],
    [
      ['--positions', 'rope', '--width', '36'],
      '--width 36 / --heads 4 is odd: rotary positions turn features in pairs',
    ],
    [['--positions', 'none'], "--positions must be one of learned, rope, got 'none'"],
    [['--attention', 'sas,sas'], "--attention names one attention twice: 'sas,sas'"],
    [['--dtype', 'f64'], "--dtype must be one of f32, bf16, f16, got 'f64'"],
    [['--device', 'gpu'], "--device must be cpu or cuda:N, got 'gpu'"],
    [['--heads', '3'], '--width 128 is not a multiple of --heads 3'],
    [['--sim-heads', '10'], '--sim-heads 10 is not a multiple of --heads 4'],
    [['--kernel', '4'], "--kernel must be odd, got '4'"],
    [['--out', ''], '--out needs a path'],
  ])('%j is refused', (args, message) => {
    expect(() => parseOptions(args)).toThrow(new UsageError(message));
  });

  test.each([[['--stepz', '3']], [['file.txt']], [['--steps']], [['--help=yes']]])('%j: one line', (args) => {
    expect(() => parseOptions(args)).toThrow(UsageError);
    expect(() => parseOptions(args)).toThrow(/^[^\n]+--help lists the options$/);
  });
});

describe('command line', () => {
  const folder = temporaryFolder();
  const short = join(folder, 'short.txt');
  writeFileSync(short, 'too short to train on');
  mkdirSync(join(folder, 'taken'));
  writeFileSync(join(folder, 'taken', 'file'), '');

  test('--help explains every option and exits with 0', async () => {
    const { code, stdout, stderr } = await trainCli(['--help']);
    expect({ code, stderr }).toEqual({ code: 0, stderr: '' });
    for (const flag of [
      'attention',
      'text',
      'steps',
      'width',
      'layers',
      'heads',
      'sim-heads',
      'sim-head-dim',
      'kernel',
    ]) {
      expect(stdout).toContain(`--${flag} `);
    }
    for (const flag of ['seq', 'batch', 'lr', 'seed', 'device', 'dtype', 'resume', 'out', 'help']) {
      expect(stdout).toContain(`--${flag} `);
    }
  });

  test.concurrent.each([
    ['a bad value', ['--steps', 'many'], 'train: --steps must be an integer'],
    ['an unknown option', ['--stepz', '3'], "train: Unknown option '--stepz'"],
    ['a missing text', ['--text', join(folder, 'no.txt')], 'no such file'],
    ['a text that is too short', ['--text', short], `is too short: 21 bytes, --seq 128 needs at least 1290`],
    ['a missing checkpoint', ['--resume', join(folder, 'no.safetensors')], 'no such file'],
    ['a file that is no checkpoint', ['--resume', short], 'it cannot be read'],
    ['a device that is not there', ['--device', 'cuda:99'], 'cuda:99'],
    ['a folder that cannot be made', ['--out', join(folder, 'taken', 'file', 'out')], '--out'],
  ])('%s: one line on stderr, exit code 2', async (_, args, message) => {
    const { code, stdout, stderr } = await trainCli(args);
    expect(stderr).toMatch(/^train: [^\n]+\n$/);
    expect(stderr).toContain(message);
    expect({ code, stdout }).toEqual({ code: 2, stdout: '' });
  });
});
