/** What a user may say anew of a run that is resumed, and what a folder holds that could be. */
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { UsageError } from '../../failure.js';
import { type Checkpoint, loadCheckpoint } from '../../gpt/checkpoint.js';
import { ATTENTIONS, checkConfig, type TrainConfig } from '../../gpt/config.js';
import { MetricsLog } from '../../gpt/metrics.js';
import type { Options } from './options.js';

/** Options that change nothing about the part of the run that is done. */
const FREE: readonly (keyof TrainConfig)[] = ['attentions', 'steps', 'text'];

/** The checkpoint's configuration, with what the user may say anew; a contradiction is an error. */
export function resumedConfig(options: Options, { meta, step }: Checkpoint): TrainConfig {
  const config: TrainConfig = { ...meta.config };
  const take = <K extends keyof TrainConfig>(key: K) => {
    config[key] = options.config[key];
  };
  for (const key of options.given) {
    if (FREE.includes(key)) {
      take(key);
    } else if (options.config[key] !== meta.config[key]) {
      const flag = key.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`);
      throw new UsageError(
        `--${flag} ${options.config[key]} contradicts the checkpoint, which has ${meta.config[key]}`,
      );
    }
  }
  if (config.steps < step) throw new UsageError(`--steps ${config.steps} is less than the ${step} of the checkpoint`);
  if (!config.attentions.includes(meta.attention)) {
    throw new UsageError(`--attention ${config.attentions.join(',')} lacks ${meta.attention}, which is resumed`);
  }
  checkConfig(config);
  return config;
}

/** The checkpoint from which a training in this folder would go on; undefined where all of it has come to its end. */
export async function unfinishedIn(out: string): Promise<{ path: string; state: string } | undefined> {
  const paths = ATTENTIONS.map((name) => join(out, name, 'checkpoint.safetensors')).filter((path) => existsSync(path));
  const checkpoints: Checkpoint[] = [];
  for (const path of paths) {
    try {
      checkpoints.push(await loadCheckpoint(path));
    } catch (error) {
      return { path, state: error instanceof Error ? error.message : String(error) };
    }
  }
  if (checkpoints.length === 0) return undefined;
  const done = (await MetricsLog.read(join(out, 'metrics.jsonl'))).summaries();
  const lacks = ({ meta: { config } }: Checkpoint) =>
    config.attentions.filter((name) => !done.some(({ attention }) => attention === name));
  const open =
    checkpoints.find(({ step, meta }) => step < meta.config.steps) ??
    checkpoints.findLast((one) => lacks(one).length > 0);
  if (!open) return undefined;
  const { path, step, meta } = open;
  const todo = step < meta.config.steps ? '' : `; ${lacks(open).join(', ')} to be done`;
  return { path, state: `${meta.attention}, step ${step} of ${meta.config.steps}${todo}` };
}
