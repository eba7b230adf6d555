/** The models whose training steps are timed. */
import { type Attention, DEFAULT_CONFIG, type TrainConfig } from '../gpt/config.js';

/** Those whose matrix work is counted. */
export const COUNTED = [
  'sas',
  'sas-linear',
  'sas-features',
  'sas-heads',
  'mha',
] as const satisfies readonly Attention[];
export type Counted = (typeof COUNTED)[number];

export interface MeasuredModel {
  readonly name: string;
  configOf(attention: Counted): TrainConfig;
}

const model = (name: string, config: TrainConfig, hidden?: Readonly<Record<Counted, number>>): MeasuredModel => ({
  name,
  configOf: (attention) => ({ ...config, attentions: [attention], hidden: hidden?.[attention] ?? config.hidden }),
});

/** What `npm run train` trains. */
export const DEFAULT = model('default model', DEFAULT_CONFIG);

/** The preset of `npm run compare`, with the feed-forward widths that give all attentions as many parameters there. */
export const TINY = model(
  'tiny model',
  {
    ...DEFAULT_CONFIG,
    positions: 'rope',
    width: 96,
    layers: 3,
    simHeadDim: 32,
    batch: 8,
    steps: 2000,
  },
  { sas: 384, 'sas-linear': 396, 'sas-features': 399, 'sas-heads': 403, mha: 419 },
);

/** Heads as wide as the paper's: 6 -> 18 of 64 -> 96 features. */
export const WIDE = model('model 384 wide', {
  ...DEFAULT_CONFIG,
  width: 384,
  layers: 6,
  heads: 6,
  simHeads: 18,
  simHeadDim: 96,
  seq: 256,
  batch: 8,
});
