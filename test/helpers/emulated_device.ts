/** Builds the addon with the emulated device and draws the seed of its scheduling, once for all test files. */
import { randomInt } from 'node:crypto';
import { buildEmulated, sanitizerEnvironment, sanitizers } from './native_build.js';

export function setup(): void {
  buildEmulated('sas_attention_emulated');
  if (sanitizers !== undefined) {
    Object.assign(process.env, sanitizerEnvironment());
    console.log(`sanitizers: ${sanitizers}`);
  }
  process.env.SAS_EMULATOR_SEED ??= String(randomInt(2 ** 32));
  console.log(`emulated CUDA device: SAS_EMULATOR_SEED=${process.env.SAS_EMULATOR_SEED}`);
}
