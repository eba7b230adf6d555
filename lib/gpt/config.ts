/** What decides the result of a training: the model, the data and the schedule. */
import { UsageError } from '../failure.js';
import { type Tokenizer, VOCABULARIES } from './data.js';

/** How a block attends: the attentions of the paper's tables, and SAS without one of its parts. */
export const ATTENTIONS = [
  'mha',
  'mqa',
  'gqa',
  'mla',
  'tpa',
  'mfa',
  'sas',
  'sas-linear',
  'sas-heads',
  'sas-features',
  'sas-no-residual',
  'sas-no-peaa',
] as const;
export type Attention = (typeof ATTENTIONS)[number];

export const ACTIVATION_DTYPES = ['f32', 'bf16', 'f16'] as const;
export type ActivationDType = (typeof ACTIVATION_DTYPES)[number];

export const POSITIONS = ['learned', 'rope'] as const;
export type Positions = (typeof POSITIONS)[number];

/** All that decides the result of a run; it travels in the checkpoint. */
export interface TrainConfig {
  /** The runs, in order. */
  attentions: Attention[];
  /** File or folder to train on; null: the book that the program has. */
  text: string | null;
  tokenizer: Tokenizer;
  steps: number;
  width: number;
  layers: number;
  heads: number;
  simHeads: number;
  simHeadDim: number;
  kernel: number;
  /** Width inside the feed-forward layers; null: four times `width`. */
  hidden: number | null;
  positions: Positions;
  /** Tokens per sequence (T). */
  seq: number;
  /** Sequences per step (B). */
  batch: number;
  lr: number;
  seed: number;
  dtype: ActivationDType;
}

export const DEFAULT_CONFIG: Readonly<TrainConfig> = {
  attentions: ['mha', 'sas'],
  text: null,
  tokenizer: 'bytes',
  steps: 800,
  width: 128,
  layers: 4,
  heads: 4,
  simHeads: 12,
  simHeadDim: 48,
  kernel: 5,
  hidden: null,
  positions: 'learned',
  seq: 128,
  batch: 16,
  lr: 2e-3,
  seed: 0,
  dtype: 'f32',
};

/** What the numbers may be: from, to. */
export const BOUNDS = {
  steps: [1, 10_000_000],
  width: [1, 16_384],
  layers: [1, 256],
  heads: [1, 1024],
  simHeads: [1, 4096],
  simHeadDim: [1, 1024],
  kernel: [1, 63],
  hidden: [1, 1_048_576],
  seq: [1, 1_048_576],
  batch: [1, 65_536],
  seed: [0, 2 ** 31 - 1],
} as const satisfies Partial<Record<keyof TrainConfig, readonly [number, number]>>;
export const MAX_LR = 10;

/** What no single option can know; the flag named first is the one to change. Throws UsageError. */
export function checkConfig({ width, heads, simHeads, simHeadDim, kernel, positions }: TrainConfig): void {
  if (width % heads !== 0) throw new UsageError(`--width ${width} is not a multiple of --heads ${heads}`);
  if (simHeads % heads !== 0) throw new UsageError(`--sim-heads ${simHeads} is not a multiple of --heads ${heads}`);
  if (positions === 'rope' && simHeadDim % 2 === 1) {
    throw new UsageError(`--sim-head-dim ${simHeadDim} is odd: rotary positions turn features in pairs`);
  }
  if (positions === 'rope' && (width / heads) % 2 === 1) {
    throw new UsageError(`--width ${width} / --heads ${heads} is odd: rotary positions turn features in pairs`);
  }
  if (kernel % 2 === 0) throw new UsageError(`--kernel must be odd, got '${kernel}'`);
}

interface Rule {
  readonly expected: string;
  holds(value: unknown): boolean;
}

const integer = (key: keyof typeof BOUNDS): Rule => {
  const [min, max] = BOUNDS[key];
  const holds = (value: unknown) => Number.isInteger(value) && Number(value) >= min && Number(value) <= max;
  return { expected: `an integer from ${min} to ${max}`, holds };
};
const oneOf = (words: readonly string[]): Rule => ({
  expected: `one of ${words.join(', ')}`,
  holds: (value) => typeof value === 'string' && words.includes(value),
});
const orNull = ({ expected, holds }: Rule): Rule => ({
  expected: `${expected}, or null`,
  holds: (value) => value === null || holds(value),
});

const RULES: Readonly<Record<keyof TrainConfig, Rule>> = {
  attentions: {
    expected: `a list of different ones of ${ATTENTIONS.join(', ')}`,
    holds: (value) =>
      Array.isArray(value) &&
      value.length > 0 &&
      new Set(value).size === value.length &&
      value.every((name) => ATTENTIONS.includes(name)),
  },
  text: orNull({ expected: 'a path', holds: (value) => typeof value === 'string' && value !== '' }),
  tokenizer: oneOf(Object.keys(VOCABULARIES)),
  steps: integer('steps'),
  width: integer('width'),
  layers: integer('layers'),
  heads: integer('heads'),
  simHeads: integer('simHeads'),
  simHeadDim: integer('simHeadDim'),
  kernel: integer('kernel'),
  hidden: orNull(integer('hidden')),
  positions: oneOf(POSITIONS),
  seq: integer('seq'),
  batch: integer('batch'),
  lr: {
    expected: `a number above 0 and at most ${MAX_LR}`,
    holds: (value) => typeof value === 'number' && value > 0 && value <= MAX_LR,
  },
  seed: integer('seed'),
  dtype: oneOf(ACTIVATION_DTYPES),
};

/** Cut where a hostile one would fill the screen. */
const show = (value: unknown): string => {
  const text = JSON.stringify(value) ?? 'nothing';
  return text.length > 40 ? `${text.slice(0, 40)}...` : text;
};

/**
 * A configuration from a file, held to the same bounds as one from the command line. What is not in it, older versions did
 * not know; what is not known here, a newer one wrote. Throws UsageError.
 */
export function storedConfig(value: unknown): TrainConfig {
  if (typeof value !== 'object' || value === null || Array.isArray(value)) {
    throw new UsageError(`its configuration is ${show(value)}, expected an object`);
  }
  const config: Record<string, unknown> = { ...DEFAULT_CONFIG, ...value };
  for (const [key, given] of Object.entries(config)) {
    const rule = Object.hasOwn(RULES, key) ? RULES[key as keyof TrainConfig] : undefined;
    if (!rule) throw new UsageError(`its configuration has ${show(key)}, which this version does not know`);
    if (!rule.holds(given)) {
      throw new UsageError(`its configuration has ${key} ${show(given)}, expected ${rule.expected}`);
    }
  }
  checkConfig(config as unknown as TrainConfig);
  return config as unknown as TrainConfig;
}
