// out/metrics.jsonl: one JSON object per line, appended as the training goes.

import { closeSync, fstatSync, ftruncateSync, openSync, writeSync } from 'node:fs';
import { open } from 'node:fs/promises';
import { UsageError } from '../failure.js';
import { codeOf, named, readRegular, replaceFile, UnsuitableFileError } from '../files.js';
import type { Attention } from './config.js';
import type { Run } from './run.js';

export interface TrainMetric {
  attention: Attention;
  step: number;
  /** Mean cross-entropy in nats per byte. */
  loss: number;
  /** L2 norm over all gradients, before clipping. */
  gradNorm: number;
  learningRate: number;
  tokensPerSecond: number;
}

export interface ValidationMetric {
  attention: Attention;
  step: number;
  validationLoss: number;
}

export interface Summary {
  parameters: number;
  steps: number;
  /** Mean over the last steps. */
  trainLoss: number;
  validationLoss: number;
  /** exp(validationLoss): per byte. */
  perplexity: number;
  tokensPerSecond: number;
  peakMemoryBytes: number;
}

export interface SummaryMetric {
  attention: Attention;
  summary: Summary;
}

/** What a string holds in any case. */
const MAX_METRICS_BYTES = 2 ** 28;

type Metric = TrainMetric | ValidationMetric | SummaryMetric;

export class MetricsLog {
  private metrics: Metric[] = [];

  constructor(private readonly path: string) {}

  /** What a file holds. One that is missing is empty, and a line that was cut off costs that line. */
  static async read(path: string): Promise<MetricsLog> {
    const log = new MetricsLog(path);
    log.metrics = await readMetrics(path);
    return log;
  }

  /** Begins anew. */
  async reset(): Promise<void> {
    await this.keep(() => false);
  }

  /**
   * Takes up the file of a run that is resumed at `step` of `steps`. Keeps other runs that are complete, and of this one
   * what came before: the steps after it will be done again. `redone`: attentions that will be trained from the start.
   */
  async resume(attention: Attention, step: number, steps: number, redone: readonly Attention[]): Promise<void> {
    this.metrics = await readMetrics(this.path);
    await this.keep((metric) => {
      if (metric.attention !== attention) return !redone.includes(metric.attention);
      return 'step' in metric ? metric.step <= step : step === steps && metric.summary.steps === steps;
    });
  }

  append(metric: Metric): void {
    appendWhole(this.path, `${JSON.stringify(metric)}\n`);
    this.metrics.push(metric);
  }

  /** Makes what was appended last: a checkpoint that is saved after it then never knows more than the file. */
  async flush(): Promise<void> {
    try {
      const file = await open(this.path, 'a');
      await file.sync().finally(() => file.close());
    } catch (error) {
      throw named(this.path, 'written', error);
    }
  }

  train(attention: Attention): TrainMetric[] {
    return this.metrics.filter((metric): metric is TrainMetric => 'loss' in metric && metric.attention === attention);
  }

  validation(attention: Attention): ValidationMetric[] {
    return this.metrics.filter(
      (metric): metric is ValidationMetric => 'validationLoss' in metric && metric.attention === attention,
    );
  }

  summaries(): SummaryMetric[] {
    return this.metrics.filter((metric): metric is SummaryMetric => 'summary' in metric);
  }

  /** In the order in which they were trained. */
  attentions(): Attention[] {
    return [...new Set(this.metrics.map(({ attention }) => attention))];
  }

  private async keep(wanted: (metric: Metric) => boolean): Promise<void> {
    this.metrics = this.metrics.filter(wanted);
    const text = this.metrics.map((metric) => `${JSON.stringify(metric)}\n`).join('');
    try {
      await replaceFile(this.path, [Buffer.from(text)]);
    } catch (error) {
      throw named(this.path, 'written', error);
    }
  }
}

async function readMetrics(path: string): Promise<Metric[]> {
  let text: string;
  try {
    text = Buffer.from(await readRegular(path, MAX_METRICS_BYTES)).toString();
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return [];
    if (error instanceof UnsuitableFileError) throw new UsageError(`'${path}' ${error.message}`);
    throw named(path, 'read', error);
  }
  return text.split('\n').flatMap((line) => {
    try {
      const metric: unknown = JSON.parse(line);
      return typeof metric === 'object' && metric !== null ? [metric as Metric] : [];
    } catch {
      return [];
    }
  });
}

/** Appends all of a line or nothing: half a line would spoil the one that follows it. */
function appendWhole(path: string, line: string): void {
  try {
    const file = openSync(path, 'a');
    try {
      writeWhole(file, Buffer.from(line));
    } finally {
      closeSync(file);
    }
  } catch (error) {
    throw named(path, 'written', error);
  }
}

function writeWhole(file: number, bytes: Uint8Array): void {
  const { size } = fstatSync(file);
  try {
    for (let done = 0; done < bytes.length; ) done += writeSync(file, bytes, done);
  } catch (error) {
    ftruncateSync(file, size);
    throw error;
  }
}

/** Losses of single batches are noisy: the summary has the mean over the last ones. */
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
