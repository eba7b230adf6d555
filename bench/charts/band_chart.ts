// Curves over steps, each the mean of several seeds in a band from the lowest to the highest.

import type { TopLevelSpec } from 'vega-lite';
import { PALETTE } from './render.js';

export interface BandCurve {
  name: string;
  curve: readonly { step: number; loss: number; low: number; high: number }[];
}

export interface BandChartOptions {
  title: string;
  subtitle: string[];
  yTitle: string;
}

/** More curves than the palette has colours are told apart by their dashes as well. */
const DASHES = [
  [1, 0],
  [6, 3],
  [2, 2],
] as const;

export function bandChart(curves: readonly BandCurve[], { title, subtitle, yTitle }: BandChartOptions): TopLevelSpec {
  const rows = curves.flatMap(({ name, curve }) => curve.map((point) => ({ ...point, name })));
  const last = Math.max(1, ...rows.map(({ step }) => step));
  // The steep beginning would flatten the end, where the curves part.
  const shown = rows.filter(({ step }) => step >= last * 0.2);
  const low = Math.min(...shown.map((point) => point.low));
  const high = Math.max(...shown.map((point) => point.high));
  const margin = Math.max(0.005, (high - low) * 0.04);
  const names = curves.map(({ name }) => name);
  const legend = {
    title: 'final validation loss',
    orient: 'top-right',
    symbolType: 'stroke',
    symbolStrokeWidth: 3,
    symbolSize: 500,
  };
  const color = {
    field: 'name',
    type: 'nominal',
    sort: null,
    scale: { domain: names, range: names.map((_, i) => PALETTE[i % PALETTE.length]) },
    legend,
  };
  const strokeDash = {
    field: 'name',
    type: 'nominal',
    sort: null,
    scale: { domain: names, range: names.map((_, i) => DASHES[Math.floor(i / PALETTE.length) % DASHES.length]) },
    legend,
  };
  const x = {
    field: 'step',
    type: 'quantitative',
    title: 'step',
    scale: { domain: [0, last], nice: false },
    axis: { grid: false, tickCount: 9, format: 'd', labelFlush: false },
  };
  const scale = { domain: [low - margin, high + margin], zero: false, nice: false };
  const y = (field: string) => ({ field, type: 'quantitative', title: yTitle, scale, axis: { tickCount: 8 } });
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: title, subtitle },
    width: 760,
    height: 460,
    data: { values: rows },
    layer: [
      {
        mark: { type: 'area', clip: true, fillOpacity: 0.15 },
        encoding: { x, y: y('low'), y2: { field: 'high' }, color },
      },
      { mark: { type: 'line', clip: true, strokeWidth: 2 }, encoding: { x, y: y('loss'), color, strokeDash } },
    ],
  } as TopLevelSpec;
}
