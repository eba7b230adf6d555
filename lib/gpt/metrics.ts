// out/metrics.jsonl: one JSON object per line, appended as the training goes.

import { appendFileSync, readFileSync, writeFileSync } from 'node:fs';
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

type Metric = TrainMetric | ValidationMetric | SummaryMetric;

export class MetricsLog {
  private metrics: Metric[] = [];

  constructor(private readonly path: string) {}

  /** Begins anew. */
  reset(): void {
    this.keep(() => false);
  }

  /**
   * Takes up the file of a run that is resumed at `step` of `steps`. Keeps other runs that are complete, and of this one
   * what came before: the steps after it will be done again. `redone`: attentions that will be trained from the start.
   */
  resume(attention: Attention, step: number, steps: number, redone: readonly Attention[]): void {
    this.metrics = this.read();
    this.keep((metric) => {
      if (metric.attention !== attention) return !redone.includes(metric.attention);
      return 'step' in metric ? metric.step <= step : step === steps && metric.summary.steps === steps;
    });
  }

  append(metric: Metric): void {
    this.metrics.push(metric);
    appendFileSync(this.path, `${JSON.stringify(metric)}\n`);
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

  private keep(wanted: (metric: Metric) => boolean): void {
    this.metrics = this.metrics.filter(wanted);
    writeFileSync(this.path, this.metrics.map((metric) => `${JSON.stringify(metric)}\n`).join(''));
  }

  /** A file that is missing or ends in half a line costs old curves, not the run. */
  private read(): Metric[] {
    let text = '';
    try {
      text = readFileSync(this.path, 'utf8');
    } catch {
      return [];
    }
    return text.split('\n').flatMap((line) => {
      try {
        return [JSON.parse(line) as Metric];
      } catch {
        return [];
      }
    });
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
