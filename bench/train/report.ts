// What remains of a training: the table at the end and the picture of the curves.

import { basename, join } from 'node:path';
import type { MetricsLog, Summary } from './metrics.js';
import type { TrainConfig } from './options.js';
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

/** Columns right-aligned under their titles, the first one left. */
function formatTable(titles: readonly string[], rows: readonly (readonly string[])[]): string {
  const widths = titles.map((title, i) => Math.max(title.length, ...rows.map((row) => row[i]?.length ?? 0)));
  const line = (cells: readonly string[]) =>
    cells.map((cell, i) => (i === 0 ? cell.padEnd(widths[i] ?? 0) : cell.padStart(widths[i] ?? 0))).join('  ');
  return [line(titles), line(widths.map((width) => '-'.repeat(width))), ...rows.map(line)].join('\n');
}

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
  return formatTable(titles, rows);
}

/** Writes loss.svg and loss.png. */
export async function writeLossPicture(
  out: string,
  log: MetricsLog,
  config: TrainConfig,
  text: string,
): Promise<string[]> {
  // The chart libraries take half a second to load: not for a --help or a misspelt option.
  const [{ lossChart }, { writePicture }] = await Promise.all([
    import('../chart/loss_chart.js'),
    import('../chart/render.js'),
  ]);
  const { width, layers, heads, seq, batch, steps, seed, dtype } = config;
  const spec = lossChart(log.curves(), {
    title: `Training a byte-level GPT on ${basename(text)}`,
    subtitle:
      `width ${width}, ${layers} layers, ${heads} heads, T = ${seq}, batch ${batch}, ` +
      `${steps} steps, seed ${seed}, ${dtype}`,
  });
  return writePicture(join(out, 'loss'), spec);
}
