/** What remains of a training: the table at the end. */
import { textTable } from '../text_table.js';
import type { MetricsLog, Summary } from './metrics.js';
import type { Run } from './run.js';

/** Losses of single batches are noisy: the table shows the mean over the last ones. */
const TRAIN_LOSS_STEPS = 50;

export function summarize(run: Run, log: MetricsLog, tokensPerSecond: number, peakMemoryBytes: number): Summary {
  const last = log.train(run.attention).slice(-TRAIN_LOSS_STEPS);
  const validationLoss = log.validation(run.attention).at(-1)?.validationLoss ?? Number.NaN;
  return {
    parameters: run.model.parameterCount,
    steps: run.step,
    trainLoss: last.reduce((sum, { loss }) => sum + loss, 0) / last.length,
    validationLoss,
    perplexity: Math.exp(validationLoss),
    tokensPerSecond,
    peakMemoryBytes,
  };
}

const integer = (value: number) => Math.round(value).toLocaleString('en-US');

export function summaryTable(log: MetricsLog): string {
  const titles = [
    'attention',
    'parameters',
    'steps',
    'train loss',
    'validation loss',
    'perplexity',
    'tokens/s',
    'peak MB',
  ];
  const rows = log
    .summaries()
    .map(({ attention, summary: s }) => [
      attention,
      integer(s.parameters),
      integer(s.steps),
      s.trainLoss.toFixed(4),
      s.validationLoss.toFixed(4),
      s.perplexity.toFixed(3),
      integer(s.tokensPerSecond),
      (s.peakMemoryBytes / 1e6).toFixed(1),
    ]);
  return textTable(titles, rows, [0]);
}
