/** What decides the result of a training: the model, the data and the schedule. */
import type { Tokenizer } from './data.js';

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
