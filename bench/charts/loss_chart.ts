// Loss curves of several runs in one picture: validation solid, training faint.

import type { TopLevelSpec } from 'vega-lite';
import { PALETTE } from './render.js';

export interface LossPoint {
  step: number;
  loss: number;
}

export interface LossCurve {
  name: string;
  train: readonly LossPoint[];
  validation: readonly LossPoint[];
}

export interface LossChartOptions {
  title: string;
  subtitle?: string;
}

/** Mean over the last `window` points, so that the noise of single batches does not hide the curve. */
function smooth(points: readonly LossPoint[], window: number): LossPoint[] {
  let sum = 0;
  return points.map(({ step, loss }, i) => {
    sum += loss - (points[i - window]?.loss ?? 0);
    return { step, loss: sum / Math.min(i + 1, window) };
  });
}

export function lossChart(curves: readonly LossCurve[], options: LossChartOptions): TopLevelSpec {
  const last = Math.max(1, ...curves.flatMap(({ train }) => train.map(({ step }) => step)));
  const window = Math.max(1, Math.round(last / 80));
  // The legend carries the final value: labels at the end of the curves would sit on each other.
  const label = ({ name, validation }: LossCurve) => {
    const final = validation.at(-1);
    return final ? `${name}: ${final.loss.toFixed(3)}` : name;
  };
  const rows = curves.flatMap((curve) =>
    [
      ...smooth(curve.train, window).map((p) => ({ ...p, split: 'training' })),
      ...curve.validation.map((p) => ({ ...p, split: 'validation' })),
    ].map((row) => ({ ...row, run: label(curve) })),
  );

  // The first steps fall from ln(256) = 5.5 and would flatten all the rest: cut the axis off above them.
  const shown = rows.filter(({ step, split }) => split === 'validation' || step > last * 0.07).map(({ loss }) => loss);
  const [low, high] = [Math.min(...shown), Math.max(...shown)];
  const margin = Math.max(0.02, (high - low) * 0.04);

  const encoding = {
    x: {
      field: 'step',
      type: 'quantitative',
      title: 'step',
      scale: { domain: [0, last], nice: false },
      axis: { grid: false, tickCount: 9, format: 'd', labelFlush: false },
    },
    y: {
      field: 'loss',
      type: 'quantitative',
      title: 'cross-entropy loss (nats per byte)',
      scale: { domain: [low - margin, high + margin], zero: false, nice: false },
      axis: { tickCount: 8, format: '.1f' },
    },
    color: {
      field: 'run',
      type: 'nominal',
      sort: null,
      scale: { domain: curves.map(label), range: [...PALETTE] },
      legend: { title: 'final validation loss', orient: 'top-right', symbolType: 'stroke', symbolStrokeWidth: 3 },
    },
  };
  const only = (split: string) => [{ filter: `datum.split === '${split}'` }];
  // strokeOpacity: resvg clips whole-object opacity wrongly where a curve leaves the picture.
  const faint = { type: 'line', clip: true, strokeWidth: 1.5, strokeOpacity: 0.4 };
  const solid = { type: 'line', clip: true, strokeWidth: 2.5 };
  const how = `solid: validation; faint: training${window > 1 ? `, mean over ${window} steps` : ''}`;

  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: options.title, subtitle: options.subtitle ? [options.subtitle, how] : how },
    width: 680,
    height: 400,
    data: { values: rows },
    layer: [
      { transform: only('training'), mark: faint, encoding },
      { transform: only('validation'), mark: solid, encoding },
      { transform: only('validation'), mark: { type: 'point', filled: true, opacity: 1, size: 36 }, encoding },
    ],
  } as TopLevelSpec;
}
