// Grouped horizontal bars: one group per case, one bar per contestant. Used for "percent of the measured peak".

import type { TopLevelSpec } from 'vega-lite';
import { PALETTE } from './render.js';

export interface Bar {
  /** The row of the chart, for example 'T = 1024'. */
  group: string;
  /** Which bar inside the row (colour and legend), for example 'fused' or 'naive'. */
  series: string;
  value: number;
  /** Optional sub-chart, for example 'attention forward'; panels share the axis. */
  panel?: string;
  /** Spread of the measurement, drawn as a whisker. */
  low?: number;
  high?: number;
  /** A required minimum, drawn as a black tick across the bar. */
  floor?: number;
}

export interface BarChartOptions {
  title: string;
  subtitle?: string;
  /** Axis title, for example 'percent of the FMA peak measured in this run'. */
  valueTitle: string;
  groupTitle?: string;
  /** Upper end of the axis (100 for percentages); without it, the data decides. */
  max?: number;
  /** d3 format of the numbers at the bars; default '.0f'. */
  format?: string;
}

const unique = (values: readonly string[]) => [...new Set(values)];

/** Groups, series and panels keep the order in which they first appear. */
export function barChart(bars: readonly Bar[], options: BarChartOptions): TopLevelSpec {
  const series = unique(bars.map((bar) => bar.series));
  const panels = unique(bars.map((bar) => bar.panel ?? ''));
  const top = options.max ?? Math.max(...bars.map((bar) => Math.max(bar.value, bar.high ?? 0, bar.floor ?? 0))) * 1.08;
  const has = (field: string) => [{ filter: `isValid(datum.${field})` }];

  // One unit chart per panel, in two columns; only the lowest ones name the shared axis.
  const unit = (panel: string, isLast: boolean) => {
    const y = {
      field: 'group',
      type: 'nominal',
      sort: null,
      title: options.groupTitle ?? null,
      axis: { ticks: false, domain: false, grid: false, labelPadding: 8 },
    };
    const yOffset = { field: 'series', type: 'nominal', sort: series, scale: { domain: series } };
    const x = (field: string) => ({
      field,
      type: 'quantitative',
      title: isLast ? options.valueTitle : null,
      scale: { domain: [0, top], nice: false },
      axis: { tickCount: 6, labelFlush: false },
    });
    const color = {
      field: 'series',
      type: 'nominal',
      scale: { domain: series, range: PALETTE.slice(0, series.length) },
      legend: series.length > 1 ? { title: null, orient: 'top', symbolType: 'square' } : null,
    };
    // Right of the bar and its whisker, and of the floor's tick where that would cross the number.
    const near = `datum.floor < max(datum.value, datum.high || 0) + ${top * 0.08}`;
    const text = {
      transform: [{ calculate: `max(datum.value, datum.high || 0, ${near} ? datum.floor : 0)`, as: 'end' }],
      mark: { type: 'text', baseline: 'middle', align: 'left', dx: 6, fontSize: 11, color: '#262626' },
      encoding: {
        y,
        yOffset,
        x: x('end'),
        text: { field: 'value', type: 'quantitative', format: options.format ?? '.0f' },
      },
    };
    return {
      width: panels.length > 1 ? 400 : 560,
      height: { step: 14, for: 'offset' },
      ...(panel ? { title: { text: panel, fontSize: 13, offset: 6 } } : {}),
      data: { values: bars.filter((bar) => (bar.panel ?? '') === panel) },
      layer: [
        { mark: { type: 'bar', cornerRadiusEnd: 2 }, encoding: { y, yOffset, x: x('value'), color } },
        {
          transform: [...has('low'), ...has('high')],
          mark: { type: 'rule', color: '#1a1a1a', strokeOpacity: 0.65 },
          encoding: { y, yOffset, x: x('low'), x2: { field: 'high' } },
        },
        {
          transform: has('floor'),
          mark: { type: 'tick', color: '#000000', thickness: 2.5, height: { band: 1 } },
          encoding: { y, yOffset, x: x('floor') },
        },
        text,
      ],
    };
  };

  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: options.subtitle ? { text: options.title, subtitle: options.subtitle } : options.title,
    spacing: 18,
    columns: panels.length > 1 ? 2 : 1,
    concat: panels.map((panel, i) => unit(panel, i >= panels.length - 2)),
  } as TopLevelSpec;
}
