/** Command line and presets -> what is compared. Bad values throw UsageError. */

import { parseFlags } from '../../../lib/cli/arguments.js';
import { attentionList, deviceId, integer, learningRate, oneOf } from '../../../lib/cli/train/options.js';
import { UsageError } from '../../../lib/failure.js';
import {
  ACTIVATION_DTYPES,
  ATTENTIONS,
  type Attention,
  checkConfig,
  DEFAULT_CONFIG,
  type TrainConfig,
} from '../../../lib/gpt/config.js';
import { type Tokenizer, VOCABULARIES } from '../../../lib/gpt/data.js';
import type { DeviceId } from '../../../lib/index.js';
import { TEXTS } from '../texts.js';

/** Parameter counts are matched to this one's. */
export const REFERENCE: Attention = 'sas';
/** Steps are counted until its final loss is reached. */
export const BASELINE: Attention = 'mha';

const PAPER: readonly Attention[] = ['mha', 'mqa', 'gqa', 'mla', 'tpa', 'mfa', 'sas', 'sas-linear'];

export type Preset = 'tiny' | 'small' | 'paper-125m';

interface PresetSettings extends Omit<TrainConfig, 'attentions' | 'seed' | 'text'> {
  text: string;
  seeds: number;
}

const common = { ...DEFAULT_CONFIG, positions: 'rope' } as const;

export const PRESETS: Readonly<Record<Preset, PresetSettings>> = {
  // Two processor cores, all attentions, under 40 minutes.
  tiny: {
    ...common,
    text: 'moby-dick',
    width: 96,
    layers: 3,
    heads: 4,
    simHeads: 12,
    simHeadDim: 32,
    seq: 128,
    batch: 8,
    steps: 2000,
    lr: 2e-3,
    seeds: 3,
  },
  // About ten million parameters, for one GPU.
  small: {
    ...common,
    text: 'sotu',
    width: 384,
    layers: 6,
    heads: 6,
    simHeads: 18,
    simHeadDim: 96,
    seq: 512,
    batch: 32,
    steps: 2000,
    lr: 1e-3,
    dtype: 'bf16',
    seeds: 1,
  },
  // The paper's model of 125 million parameters at length 512, for a day of a GPU. Its batch is not published.
  'paper-125m': {
    ...common,
    text: 'sotu',
    tokenizer: 'r50k',
    width: 768,
    layers: 12,
    heads: 12,
    simHeads: 36,
    simHeadDim: 96,
    seq: 512,
    batch: 64,
    steps: 50_000,
    lr: 6e-4,
    dtype: 'bf16',
    seeds: 1,
  },
};

/** What one experiment is; kept in its folder, and the same when it is taken up again. */
export interface Experiment {
  preset: Preset;
  attentions: Attention[];
  seeds: number;
  /** `attentions` and `seed` are those of each run. */
  config: Omit<TrainConfig, 'attentions' | 'seed' | 'hidden'>;
}

export interface CompareOptions {
  experiment: Experiment;
  out: string;
  device: DeviceId | undefined;
  jobs: number | undefined;
  shard: { index: number; count: number };
  /** Only draw and write what is there. */
  reportOnly: boolean;
}

const presetLine = ([name, p]: [string, PresetSettings]) =>
  `    ${name.padEnd(12)}${p.text}, ${p.layers} layers of ${p.width}, T = ${p.seq}, batch ${p.batch}, ${p.steps} steps, ${p.seeds} seed${p.seeds > 1 ? 's' : ''}, ${p.dtype}\n`;

export const HELP = `Trains the same GPT once per attention and seed, with matched parameter counts, and reports how they compare.

Usage: npm run compare -- [options]

  --preset NAME       (default tiny)
${Object.entries(PRESETS).map(presetLine).join('')}  --attention LIST    comma-separated, of ${ATTENTIONS.join(', ')}
                      (default ${PAPER.join(',')})
  --text NAME|PATH    ${Object.keys(TEXTS).join(', ')}, a file, or a folder of files
  --tokenizer NAME    bytes, or r50k: the byte pairs of GPT-2
  --seq N             tokens per sequence, as 512 and 1024 in the paper
  --steps N, --batch N, --lr X, --seeds N, --dtype TYPE
  --device ID         cpu, cuda:0, ...  (default: SAS_DEVICE, else the first usable CUDA device, else cpu)
  --jobs N            runs at a time, each a process of its own  (default: one per core on a CPU, 1 on a GPU)
  --shard I/N         only every N-th run, from the I-th: other machines or GPUs do the rest into the same or other folders
  --out DIR           (default out/compare-PRESET)
  --report            run nothing: write the report of what --out holds
  --help

Runs that are finished are kept, one that was interrupted goes on from its last checkpoint: the same command takes an
experiment up again. Written: report.md, report.svg and .png, runs.jsonl, and per run metrics.jsonl and checkpoint.safetensors.
`;

const text = { type: 'string' } as const;
const FLAGS = {
  preset: text,
  attention: text,
  text,
  tokenizer: text,
  seq: text,
  steps: text,
  batch: text,
  lr: text,
  seeds: text,
  dtype: text,
  device: text,
  jobs: text,
  shard: text,
  out: text,
  report: { type: 'boolean', default: false },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** Applied to what was given. */
const given = <T>(value: string | undefined, parse: (text: string) => T): T | undefined =>
  value === undefined ? undefined : parse(value);

const count = (flag: string) => (text: string) => integer(flag, text, 1, 10_000_000);

function shardOf(value: string | undefined): CompareOptions['shard'] {
  const [, index = '1', of = '1'] = /^(\d+)\/(\d+)$/.exec(value ?? '1/1') ?? [];
  const shard = { index: Number(index), count: Number(of) };
  if ((value !== undefined && !/^\d+\/\d+$/.test(value)) || shard.index < 1 || shard.index > shard.count) {
    throw new UsageError(`--shard must be I/N with I from 1 to N, got '${value}'`);
  }
  return shard;
}

/** null: the user asked for help. */
export function parseCompare(args: readonly string[]): CompareOptions | null {
  const flags = parseFlags(args, FLAGS);
  if (flags.help) return null;
  const preset = oneOf('--preset', flags.preset ?? 'tiny', Object.keys(PRESETS) as Preset[]);
  const { seeds, ...settings } = PRESETS[preset];
  const changes = {
    text: flags.text,
    tokenizer: given(flags.tokenizer, (text) => oneOf('--tokenizer', text, Object.keys(VOCABULARIES) as Tokenizer[])),
    seq: given(flags.seq, count('--seq')),
    steps: given(flags.steps, count('--steps')),
    batch: given(flags.batch, count('--batch')),
    lr: given(flags.lr, learningRate),
    dtype: given(flags.dtype, (text) => oneOf('--dtype', text, ACTIVATION_DTYPES)),
  };
  const wanted = Object.fromEntries(Object.entries(changes).filter(([, value]) => value !== undefined));
  const { hidden: _, ...config } = { ...settings, ...wanted };
  const attentions = given(flags.attention, attentionList) ?? [...PAPER];
  checkConfig({ ...config, attentions, seed: 0, hidden: null });
  return {
    experiment: { preset, attentions, seeds: given(flags.seeds, count('--seeds')) ?? seeds, config },
    out: flags.out ?? `out/compare-${preset}`,
    device: given(flags.device, deviceId),
    jobs: given(flags.jobs, count('--jobs')),
    shard: shardOf(flags.shard),
    reportOnly: flags.report,
  };
}
