/**
 * Trains the example's model for some steps on the device that SAS_DEVICE names and on the CPU of this machine, from the same
 * values and batches: node loss_check.mjs --out FILE [--tiny]. Exit code 1 where the losses go apart.
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { DEFAULT_CONFIG, type TrainConfig } from '../../../lib/gpt/config.js';
import { splitText } from '../../../lib/gpt/data.js';
import { enqueueStep } from '../../../lib/gpt/loop.js';
import { disposeRun, startRun } from '../../../lib/gpt/run.js';
import { type Device, getDevice } from '../../../lib/index.js';
import { writeResult } from './jobs.js';
import { origin } from './manifest.js';

/** Largest relative difference of a step's loss: rounding grows over the steps. */
const LIMIT = { f32: 1e-3, bf16: 2e-2, f16: 1e-2 } as const;

const { values } = parseArgs({
  options: { out: { type: 'string', default: 'loss.json' }, tiny: { type: 'boolean', default: false } },
});
const SIZES: TrainConfig = { ...DEFAULT_CONFIG, layers: 2, batch: 8, steps: 30 };
/** For an emulated device. */
const TINY: TrainConfig = {
  ...SIZES,
  width: 16,
  heads: 2,
  simHeads: 4,
  simHeadDim: 12,
  kernel: 3,
  layers: 1,
  seq: 8,
  batch: 1,
  steps: 2,
};

async function losses(config: TrainConfig, attention: 'mha' | 'sas', device: Device): Promise<number[]> {
  const text = splitText('this program', readFileSync(fileURLToPath(import.meta.url)), config.seq);
  const run = startRun(config, attention, device);
  const result: number[] = [];
  while (result.length < config.steps) {
    const { loss, gradNorm } = enqueueStep(run, text);
    result.push((await loss.data())[0] ?? Number.NaN);
    loss.dispose();
    gradNorm.dispose();
  }
  await device.synchronize(); // the last update too may fail
  disposeRun(run);
  return result;
}

const runs = [];
let status = 0;
for (const [attention, dtype] of [
  ['sas', 'f32'],
  ['mha', 'f32'],
  ['sas', 'bf16'],
  ['sas', 'f16'],
] as const) {
  const config: TrainConfig = { ...(values.tiny ? TINY : SIZES), dtype };
  const truth = await losses(config, attention, getDevice('cpu'));
  const start = performance.now();
  const found = await losses(config, attention, getDevice());
  const seconds = (performance.now() - start) / 1000;
  const difference = Math.max(...found.map((loss, i) => Math.abs(loss / (truth[i] ?? Number.NaN) - 1)));
  const passed = difference <= LIMIT[dtype];
  if (!passed) status = 1;
  runs.push({ attention, dtype, difference, limit: LIMIT[dtype], passed, seconds, losses: found, cpu: truth });
  writeResult(values.out, { ...origin(), runs });
  const [first, last] = [found[0]?.toFixed(3), found.at(-1)?.toFixed(3)];
  console.log(
    `${passed ? 'ok  ' : 'FAIL'} ${attention} ${dtype}: loss ${first} -> ${last}, at most ${difference.toExponential(1)} from the CPU's`,
  );
}
process.exit(status);
