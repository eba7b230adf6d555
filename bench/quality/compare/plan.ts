/** The runs of an experiment, each with the feed-forward width that gives its model as many parameters as SAS's. */
import { join } from 'node:path';
import { createAttention } from '../../../lib/gpt/attention.js';
import type { Attention, TrainConfig } from '../../../lib/gpt/config.js';
import { modelConfig } from '../../../lib/gpt/run.js';
import type { Device } from '../../../lib/index.js';
import { type Experiment, REFERENCE } from './options.js';

export interface PlannedRun {
  attention: Attention;
  seed: number;
  config: TrainConfig;
  folder: string;
}

/** One attention's model in numbers. */
export interface ModelFacts {
  attention: Attention;
  /** Width inside the feed-forward layers. */
  hidden: number;
  parameters: number;
  /** Of all layers, in elements: what a decoder keeps per token. */
  cachedElements: number;
}

/** Parameters of a model, as a function of the width inside its feed-forward layers: fixed + perHidden * hidden. */
function countsOf(config: TrainConfig, attention: Attention, device: Device) {
  const model = modelConfig(config, attention);
  const { width, layers, vocabulary } = model;
  const layer = createAttention(attention, model, device);
  const norms = 4 * width;
  const fixed = 2 * vocabulary * width + layers * (layer.parameterCount + norms + width) + 2 * width;
  const counts = { fixed, perHidden: layers * (2 * width + 1), cachedElements: layers * layer.cachedElements };
  layer.dispose();
  return counts;
}

/** Sized so that parameters differ by less than half of what one unit of width adds. */
export function modelFacts(experiment: Experiment, device: Device): ModelFacts[] {
  const config: TrainConfig = { ...experiment.config, attentions: [], seed: 0, hidden: null };
  const reference = countsOf(config, REFERENCE, device);
  const wanted = reference.fixed + reference.perHidden * 4 * config.width;
  return experiment.attentions.map((attention) => {
    const { fixed, perHidden, cachedElements } = countsOf(config, attention, device);
    const hidden = Math.max(1, Math.round((wanted - fixed) / perHidden));
    return { attention, hidden, parameters: fixed + perHidden * hidden, cachedElements };
  });
}

/** All runs, seeds outermost: an experiment that is cut short has compared what it has. */
export function plannedRuns(experiment: Experiment, facts: readonly ModelFacts[], out: string): PlannedRun[] {
  const seeds = Array.from({ length: experiment.seeds }, (_, seed) => seed);
  return seeds.flatMap((seed) =>
    facts.map(({ attention, hidden }) => ({
      attention,
      seed,
      config: { ...experiment.config, attentions: [attention], seed, hidden },
      folder: join(out, `${attention}-${seed}`),
    })),
  );
}
