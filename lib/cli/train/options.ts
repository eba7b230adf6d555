/** Command line -> checked options. Bad values throw UsageError. */

import { UsageError } from '../../failure.js';
import {
  ACTIVATION_DTYPES,
  ATTENTIONS,
  type Attention,
  BOUNDS,
  checkConfig,
  DEFAULT_CONFIG,
  MAX_LR,
  POSITIONS,
  type TrainConfig,
} from '../../gpt/config.js';
import type { DeviceId } from '../../index.js';
import { parseFlags } from '../arguments.js';

export interface Options {
  config: TrainConfig;
  /** Options that the user wrote, as opposed to defaults; with --resume these must not contradict the checkpoint. */
  given: ReadonlySet<keyof TrainConfig>;
  device: DeviceId | undefined;
  resume: string | undefined;
  out: string | undefined;
  /** Whether an unfinished run in `out` may be replaced. */
  overwrite: boolean;
}

export const DEFAULT_OUT = 'out';

/** What the help says of the program that trains. */
export interface TrainUsage {
  /** What a user types before the options. */
  readonly call: string;
  /** Title of the text that it has itself. */
  readonly book?: string;
  /** Files that it writes besides the losses: name and content. */
  readonly extraFiles?: readonly (readonly [string, string])[];
}

const d = DEFAULT_CONFIG;
const fileLine = ([name, content]: readonly [string, string]) => `${' '.repeat(26)}${name.padEnd(36)}${content}\n`;

export const helpText = ({ call, book, extraFiles = [] }: TrainUsage): string =>
  `Trains a small byte-level GPT once per attention, with the same seed, data order and schedule.

Usage: ${call} ${book ? '[options]' : '--text PATH [options]'}

Model
  --attention LIST      comma-separated  (default ${d.attentions.join(',')})
                          mha             multi-head attention
                          mqa, gqa        with one key and value head, and with groups of query heads
                          mla, tpa, mfa   latent, tensor product, multi-matrix factorisation attention
                          sas             simulated attention score, convolutions of --kernel
                          sas-linear      the same with kernel size 1
                          sas-heads, sas-features, sas-no-residual, sas-no-peaa
                                          SAS that simulates only heads or only features, or lacks the residual layers or
                                          the mean before the output projection
  --width N             features per token, a multiple of --heads  (default ${d.width})
  --layers N            blocks  (default ${d.layers})
  --heads N             attention heads H  (default ${d.heads})
  --sim-heads N         simulated heads H', a multiple of --heads  (default ${d.simHeads})
  --sim-head-dim N      simulated query and key features per head D'  (default ${d.simHeadDim})
  --kernel N            kernel size of the head convolutions, odd  (default ${d.kernel})
  --hidden N            width inside the feed-forward layers  (default 4 * width)
  --positions KIND      ${POSITIONS.join(' or ')}: a vector added to the embedding, or rotary queries and keys  (default ${d.positions})

Training
  --text PATH           a file, a folder of files, or - for stdin; the last tenth is kept for validation${book ? `  (default: ${book})` : ''}
  --steps N             optimiser steps per attention  (default ${d.steps})
  --seq N               tokens per sequence T  (default ${d.seq})
  --batch N             sequences per step  (default ${d.batch})
  --lr X                peak learning rate  (default ${d.lr})
  --seed N              initial weights and data order  (default ${d.seed})
  --dtype TYPE          activations in ${ACTIVATION_DTYPES.join(', ')}; parameters are always f32  (default ${d.dtype})
  --device ID           cpu, cuda:0, ...  (default: SAS_DEVICE, else the first usable CUDA device, else cpu)

Files
  --out DIR             where results go  (default ${DEFAULT_OUT}; with --resume, the run's own folder)
${[
  ['metrics.jsonl', 'every loss'] as const,
  ...extraFiles,
  ['ATTENTION/checkpoint.safetensors', 'weights, optimiser, position in the data'] as const,
  ['ATTENTION/checkpoint.previous.safetensors', 'the one before'] as const,
  ['ATTENTION/sample.txt', 'generated text'] as const,
]
  .map(fileLine)
  .join('')}  --resume CHECKPOINT   continue a run exactly where it stopped, then the attentions that follow it;
                        of the options above only --steps, --text, --device, --out and --attention may differ
  --overwrite           begin anew though --out holds a run that is not finished

  --help                this text

Ctrl-C finishes the step, writes a checkpoint and says how to resume.
`;

export function integer(name: string, text: string, min: number, max: number): number {
  const value = Number(text);
  if (!/^\d+$/.test(text) || value < min || value > max) {
    throw new UsageError(`${name} must be an integer from ${min} to ${max}, got '${text}'`);
  }
  return value;
}

export function oneOf<T extends string>(name: string, text: string, allowed: readonly T[]): T {
  const value = allowed.find((candidate) => candidate === text);
  if (value === undefined) throw new UsageError(`${name} must be one of ${allowed.join(', ')}, got '${text}'`);
  return value;
}

export function attentionList(text: string): Attention[] {
  const list = text.split(',').map((name) => oneOf('--attention', name.trim(), ATTENTIONS));
  if (new Set(list).size !== list.length) throw new UsageError(`--attention names one attention twice: '${text}'`);
  return list;
}

export function learningRate(text: string): number {
  const value = Number(text);
  if (text.trim() === '' || !Number.isFinite(value) || value <= 0 || value > MAX_LR) {
    throw new UsageError(`--lr must be a number above 0 and at most ${MAX_LR}, got '${text}'`);
  }
  return value;
}

export function deviceId(text: string): DeviceId {
  if (text === 'cpu' || /^cuda:\d+$/.test(text)) return text as DeviceId;
  throw new UsageError(`--device must be cpu or cuda:N, got '${text}'`);
}

const text = { type: 'string' } as const;
const FLAGS = {
  attention: text,
  text,
  steps: text,
  width: text,
  layers: text,
  heads: text,
  'sim-heads': text,
  'sim-head-dim': text,
  kernel: text,
  hidden: text,
  positions: text,
  seq: text,
  batch: text,
  lr: text,
  seed: text,
  dtype: text,
  device: text,
  resume: text,
  out: text,
  overwrite: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h' },
} as const;

/** null: the user asked for help. */
export function parseOptions(args: readonly string[]): Options | null {
  const flags = parseFlags(args, FLAGS);
  if (flags.help) return null;

  const config: TrainConfig = { ...DEFAULT_CONFIG, attentions: [...DEFAULT_CONFIG.attentions] };
  const given = new Set<keyof TrainConfig>();
  const set = <K extends keyof TrainConfig>(
    key: K,
    value: string | undefined,
    parse: (v: string) => TrainConfig[K],
  ) => {
    if (value === undefined) return;
    config[key] = parse(value);
    given.add(key);
  };
  const setCount = (key: keyof typeof BOUNDS, flag: string, value: string | undefined) =>
    set(key, value, (text) => integer(flag, text, BOUNDS[key][0], BOUNDS[key][1]));
  const path = (name: string, value: string) => {
    if (value === '') throw new UsageError(`${name} needs a path`);
    return value;
  };

  set('attentions', flags.attention, attentionList);
  set('text', flags.text, (value) => path('--text', value));
  setCount('steps', '--steps', flags.steps);
  setCount('width', '--width', flags.width);
  setCount('layers', '--layers', flags.layers);
  setCount('heads', '--heads', flags.heads);
  setCount('simHeads', '--sim-heads', flags['sim-heads']);
  setCount('simHeadDim', '--sim-head-dim', flags['sim-head-dim']);
  setCount('kernel', '--kernel', flags.kernel);
  setCount('hidden', '--hidden', flags.hidden);
  set('positions', flags.positions, (value) => oneOf('--positions', value, POSITIONS));
  setCount('seq', '--seq', flags.seq);
  setCount('batch', '--batch', flags.batch);
  set('lr', flags.lr, learningRate);
  setCount('seed', '--seed', flags.seed);
  set('dtype', flags.dtype, (value) => oneOf('--dtype', value, ACTIVATION_DTYPES));

  const device = flags.device === undefined ? undefined : deviceId(flags.device);
  const resume = flags.resume === undefined ? undefined : path('--resume', flags.resume);
  const out = flags.out === undefined ? undefined : path('--out', flags.out);
  // With --resume most values still come from the checkpoint: they are checked together once it is read.
  if (resume === undefined) checkConfig(config);
  return { config, given, device, resume, out, overwrite: flags.overwrite };
}
