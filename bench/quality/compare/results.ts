/** What the runs of an experiment left in their folders, and what follows from it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Summary } from '../../../lib/gpt/metrics.js';
import { BASELINE } from './options.js';
import type { ModelFacts, PlannedRun } from './plan.js';

export interface Point {
  step: number;
  loss: number;
}

export interface RunResult {
  run: PlannedRun;
  validation: Point[];
  summary: Summary;
}

/** All seeds of one attention. */
export interface Comparison extends ModelFacts {
  runs: RunResult[];
  /** Mean over seeds at each validated step, with the lowest and highest. */
  curve: (Point & { low: number; high: number })[];
  loss: { mean: number; deviation: number };
  perplexity: { mean: number; deviation: number };
  /** Step at which the mean curve meets the baseline's final loss, between validations by a straight line; null: not met. */
  stepsToBaseline: number | null;
}

export const mean = (values: readonly number[]): number =>
  values.reduce((sum, value) => sum + value, 0) / values.length;

/** The sample's standard deviation; NaN for a single value. */
export function deviation(values: readonly number[]): number {
  const center = mean(values);
  return Math.sqrt(values.reduce((sum, value) => sum + (value - center) ** 2, 0) / (values.length - 1));
}

const spread = (values: readonly number[]) => ({ mean: mean(values), deviation: deviation(values) });

/** null: not finished. */
export function readRun(run: PlannedRun): RunResult | null {
  const path = join(run.folder, 'metrics.jsonl');
  if (!existsSync(path)) return null;
  const validation: Point[] = [];
  let summary: Summary | undefined;
  for (const line of readFileSync(path, 'utf8').split('\n')) {
    if (!line.includes('"validationLoss":') || !line.endsWith('}')) continue; // the last may have been cut off
    const metric = JSON.parse(line);
    if (metric.summary) summary = metric.summary;
    else validation.push({ step: metric.step, loss: metric.validationLoss });
  }
  return summary ? { run, validation, summary } : null;
}

/** Where a falling curve first meets `loss`. */
export function crossing(curve: readonly Point[], loss: number): number | null {
  const after = curve.findIndex((point) => point.loss <= loss);
  const to = curve[after];
  if (!to) return null;
  const from = curve[after - 1];
  if (!from) return to.step;
  return Math.round(from.step + ((from.loss - loss) / (from.loss - to.loss)) * (to.step - from.step));
}

/** Attentions without a finished run are left out. */
export function compare(facts: readonly ModelFacts[], results: readonly RunResult[]): Comparison[] {
  const groups = facts.flatMap((model) => {
    const runs = results.filter(({ run }) => run.attention === model.attention);
    return runs.length ? [{ model, runs, curve: meanCurve(runs) }] : [];
  });
  const target = groups.find(({ model }) => model.attention === BASELINE)?.curve.at(-1)?.loss;
  return groups.map(({ model, runs, curve }) => {
    const losses = runs.map(({ summary }) => summary.validationLoss);
    return {
      ...model,
      runs,
      curve,
      loss: spread(losses),
      perplexity: spread(losses.map(Math.exp)),
      stepsToBaseline: target === undefined ? null : crossing(curve, target),
    };
  });
}

function meanCurve(runs: readonly RunResult[]): Comparison['curve'] {
  const [first] = runs;
  return (first?.validation ?? []).flatMap(({ step }) => {
    const losses = runs.flatMap(({ validation }) => validation.find((point) => point.step === step)?.loss ?? []);
    if (losses.length < runs.length) return [];
    return [{ step, loss: mean(losses), low: Math.min(...losses), high: Math.max(...losses) }];
  });
}
