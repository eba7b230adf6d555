/** One run in a process of its own: trains it to its end, or until it is told to stop or its parent is gone. */
import { existsSync, mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { isDeepStrictEqual } from 'node:util';
import { Failure } from '../../../lib/failure.js';
import { loadCheckpoint, resumeRun } from '../../../lib/gpt/checkpoint.js';
import { loadText } from '../../../lib/gpt/data.js';
import { MetricsLog } from '../../../lib/gpt/metrics.js';
import { startRun } from '../../../lib/gpt/run.js';
import { runToEnd } from '../../../lib/gpt/run_to_end.js';
import { type DeviceId, getDevice } from '../../../lib/index.js';
import { encoderOf, textOf } from '../texts.js';
import type { PlannedRun } from './plan.js';

export interface WorkerOrder {
  run: PlannedRun;
  device: DeviceId | undefined;
}

export type WorkerMessage = { step: number; tokensPerSecond: number } | { finished: boolean };

const [order] = process.argv.slice(2);
if (order === undefined) throw new Error('worker.ts is started by main.ts');
const { run: planned, device: id } = JSON.parse(order) as WorkerOrder;
const { config, attention, folder } = planned;

const tell = (message: WorkerMessage) => {
  if (process.connected) process.send?.(message);
};

mkdirSync(folder, { recursive: true });
const checkpoint = join(folder, 'checkpoint.safetensors');
const data = await loadText(await textOf(config.text as string), config.seq, await encoderOf(config.tokenizer));
const device = getDevice(id);
const log = new MetricsLog(join(folder, 'metrics.jsonl'));
const stored = existsSync(checkpoint) ? await loadCheckpoint(checkpoint) : undefined;
if (stored && stored.meta.textHash !== data.hash) throw new Failure(`${checkpoint} was trained on another text`);
if (stored && !isDeepStrictEqual(stored.meta.config, config)) throw new Failure(`${checkpoint} is of another run`);
const run = stored ? resumeRun(stored, config, device) : startRun(config, attention, device);
// Before this there is nothing to save: a signal just ends the process.
let stopping = false;
for (const signal of ['SIGINT', 'SIGTERM'] as const) process.on(signal, () => (stopping = true));
process.on('disconnect', () => (stopping = true));
if (stored) await log.resume(attention, run.step, config.steps, []);
else await log.reset();

const finished = await runToEnd(
  run,
  data,
  { log, checkpoint },
  {
    step: ({ step }, tokensPerSecond) => tell({ step, tokensPerSecond }),
    validation: () => {},
    shouldStop: () => stopping,
  },
);
tell({ finished });
process.disconnect?.();
