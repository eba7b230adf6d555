/** Builds the addon with the emulated device and draws the seed of its scheduling, once for all test files. */
import { execFileSync } from 'node:child_process';
import { randomInt } from 'node:crypto';
import { buildEmulated, sanitizers } from './native_build.js';

export function setup(): void {
  buildEmulated('sas_attention_emulated');
  if (sanitizers !== undefined) {
    // The sanitizers' runtime has to be in the test processes before the addon. Node itself never frees everything.
    process.env.LD_PRELOAD = execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim();
    process.env.ASAN_OPTIONS = 'detect_leaks=0';
    process.env.UBSAN_OPTIONS = 'halt_on_error=1:print_stacktrace=1';
    console.log(`sanitizers: ${sanitizers}`);
  }
  process.env.SAS_EMULATOR_SEED ??= String(randomInt(2 ** 32));
  console.log(`emulated CUDA device: SAS_EMULATOR_SEED=${process.env.SAS_EMULATOR_SEED}`);
}
