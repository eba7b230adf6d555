/** A run from where it stands to its end: losses into a log, the state into a file. */

import { saveCheckpoint } from './checkpoint.js';
import type { TextData } from './data.js';
import { DivergedError, type StepResult, train, validate } from './loop.js';
import { type MetricsLog, type Summary, summarize } from './metrics.js';
import type { Run } from './run.js';

export interface RunEvents {
  /** After a step; tokens per second on average since this began, validation not counted. */
  step(result: StepResult, tokensPerSecond: number): void;
  validation(step: number, loss: number): void;
  /** Asked after every step; true ends the training there. */
  shouldStop(): boolean;
}

/** Where a run leaves what it does. */
export interface RunFiles {
  log: MetricsLog;
  checkpoint: string;
}

/** Says whether the run got to its end. Throws DivergedError, with the last good checkpoint in its message. */
export async function runToEnd(run: Run, data: TextData, files: RunFiles, events: RunEvents): Promise<boolean> {
  const { log, checkpoint } = files;
  let saved: number | undefined;
  const save = async () => {
    await log.flush();
    await saveCheckpoint(checkpoint, run, data.hash);
    saved = run.step;
  };
  try {
    return await trainToEnd(run, data, log, save, events);
  } catch (error) {
    if (!(error instanceof DivergedError)) throw error;
    const good =
      saved === undefined
        ? 'no checkpoint had been saved since it began'
        : `the last good checkpoint is that of step ${saved}, ${checkpoint}`;
    throw new DivergedError(`${run.attention}: ${error.message}; ${good}`, { cause: error });
  }
}

async function trainToEnd(
  run: Run,
  data: TextData,
  log: MetricsLog,
  save: () => Promise<void>,
  events: RunEvents,
): Promise<boolean> {
  const { attention, config, device } = run;
  const firstStep = run.step;
  const peakBefore = device.memory().peak;
  let seconds = 0;
  let tokensPerSecond = 0;
  let highestLive = 0;
  const finished = await train(run, data, {
    onStep: (result, stepSeconds) => {
      seconds += stepSeconds;
      tokensPerSecond = ((result.step - firstStep) * config.batch * config.seq) / seconds;
      highestLive = Math.max(highestLive, device.memory().live);
      log.append({ attention, ...result, tokensPerSecond: Math.round(tokensPerSecond) });
      events.step(result, tokensPerSecond);
    },
    onValidation: (step, validationLoss) => {
      log.append({ attention, step, validationLoss });
      events.validation(step, validationLoss);
    },
    saveCheckpoint: save,
    shouldStop: () => events.shouldStop(),
  });
  if (!finished) return false;

  // Both are there already when a run is resumed that had come to its end.
  if (log.validation(attention).at(-1)?.step !== run.step) {
    log.append({ attention, step: run.step, validationLoss: await validate(run, data) });
  }
  if (!log.summaries().some((summary) => summary.attention === attention)) {
    // The device counts one peak for the whole process: it is this run's own if this run raised it.
    const { peak } = device.memory();
    const summary: Summary = summarize(run, log, tokensPerSecond, peak > peakBefore ? peak : highestLive);
    log.append({ attention, summary });
  }
  return true;
}
