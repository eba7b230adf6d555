// One run: a model with one attention, its optimiser state and its place in the data. What a checkpoint holds.

import { type Device, Tensor } from '../index.js';
import type { Attention, TrainConfig } from './config.js';
import { VOCABULARIES } from './data.js';
import { Gpt, type ModelConfig } from './model.js';
import { Random } from './random.js';

/** AdamW keeps a running mean of the gradient and of its square, both shaped like the parameter. */
export interface Moments {
  first: Tensor;
  second: Tensor;
}

export interface Run {
  attention: Attention;
  config: TrainConfig;
  device: Device;
  model: Gpt;
  moments: Map<string, Moments>;
  /** Steps done. */
  step: number;
  /** Draws the positions of training batches. */
  random: Random;
}

/** The model that a run trains. */
export const modelConfig = (config: TrainConfig, attention: Attention): ModelConfig => ({
  ...config,
  attention,
  hidden: config.hidden ?? 4 * config.width,
  vocabulary: VOCABULARIES[config.tokenizer],
});

export function startRun(config: TrainConfig, attention: Attention, device: Device): Run {
  const model = new Gpt(modelConfig(config, attention), device);
  const zeros = (like: Tensor) => Tensor.zeros(like.shape, { device });
  const moments = new Map(
    [...model.parameters].map(([name, tensor]) => [name, { first: zeros(tensor), second: zeros(tensor) }]),
  );
  return { attention, config, device, model, moments, step: 0, random: Random.seeded(config.seed, 'batches') };
}

export function disposeRun({ model, moments }: Run): void {
  model.dispose();
  for (const { first, second } of moments.values()) {
    first.dispose();
    second.dispose();
  }
}
