/** What a user may say anew of a run that is resumed. */
import { UsageError } from '../../failure.js';
import type { Checkpoint } from '../../gpt/checkpoint.js';
import type { TrainConfig } from '../../gpt/config.js';
import { checkConfig, type Options } from './options.js';

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
