// Grouped horizontal bars in panels of two columns: one group per line of a panel, one bar per contestant.

import type { TopLevelSpec } from 'vega-lite';
import { PALETTE } from './render.js';

export interface Bar {
  /** The line of the panel, for example 'T = 1024'. */
  group: string;
  /** Which bar of the group (colour and legend), for example 'fused' or 'naive'. */
  series: string;
  value: number;
  /** Spread of the measurement, drawn as a whisker. */
  low?: number;
  high?: number;
  /** What the value is wished to reach, drawn as a black tick across the bar. */
  target?: number;
}

export interface Panel {
  /** For example 'attention forward'. */
  title: string;
  /** Title of the axis, for example 'percent of the FMA peak'. */
  axis: string;
  /** Upper end of the axis (100 for percentages); without it, the data decides. */
  max?: number;
  /** Digits after the point of the numbers at the bars. */
  digits: number;
  bars: readonly Bar[];
}

export interface BarChartOptions {
  title: string;
  subtitle?: string | readonly string[];
}

const COLUMNS = 2;
const WIDTH = 400;
const BAR_HEIGHT = 14;
const unique = (values: readonly string[]) => [...new Set(values)];
const endOf = ({ value, high }: Bar) => Math.max(value, high ?? 0);

function unit({ title, axis, bars, digits, ...panel }: Panel, colours: readonly string[], legend: boolean) {
  const max = panel.max ?? Math.max(...bars.map((bar) => Math.max(endOf(bar), bar.target ?? 0))) * 1.15;
  // The number stands right of the bar and its whisker, and of the target's tick where that would cross it.
  const values = bars.map((bar) => {
    const end = endOf(bar);
    const crossed = bar.target !== undefined && bar.target > end && bar.target < end + max * 0.1;
    return { ...bar, text: bar.value.toFixed(digits), end: crossed ? bar.target : end };
  });
  const y = {
    field: 'group',
    type: 'nominal',
    sort: null,
    title: null,
    axis: { ticks: false, domain: false, grid: false, labelPadding: 8, labelLimit: 260 },
  };
  const yOffset = { field: 'series', type: 'nominal', sort: unique(bars.map(({ series }) => series)) };
  const x = (field: string) => ({
    field,
    type: 'quantitative',
    title: axis,
    scale: { domain: [0, max], nice: false },
    axis: { tickCount: 6, labelFlush: false },
  });
  const color = {
    field: 'series',
    type: 'nominal',
    scale: { domain: colours, range: PALETTE.slice(0, colours.length) },
    legend: legend ? { title: null, orient: 'top', symbolType: 'square' } : null,
  };
  const has = (field: string) => [{ filter: `isValid(datum.${field})` }];
  return {
    width: WIDTH,
    height: { step: BAR_HEIGHT, for: 'offset' },
    title: { text: title, fontSize: 13, offset: 6 },
    data: { values },
    layer: [
      { mark: { type: 'bar', cornerRadiusEnd: 2 }, encoding: { y, yOffset, x: x('value'), color } },
      {
        transform: [...has('low'), ...has('high')],
        mark: { type: 'rule', color: '#1a1a1a', strokeOpacity: 0.65 },
        encoding: { y, yOffset, x: x('low'), x2: { field: 'high' } },
      },
      {
        transform: has('target'),
        mark: { type: 'tick', color: '#000000', thickness: 2.5, height: { band: 1 } },
        encoding: { y, yOffset, x: x('target') },
      },
      {
        mark: { type: 'text', baseline: 'middle', align: 'left', dx: 6, fontSize: 11, color: '#262626' },
        encoding: { y, yOffset, x: x('end'), text: { field: 'text', type: 'nominal' } },
      },
    ],
  };
}

/** Panels, groups and series keep the order in which they first appear. */
export function barChart(panels: readonly Panel[], options: BarChartOptions): TopLevelSpec {
  const series = unique(panels.flatMap(({ bars }) => bars.map((bar) => bar.series)));
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: options.title, ...(options.subtitle && { subtitle: options.subtitle }) },
    spacing: 18,
    columns: COLUMNS,
    concat: panels.map((panel) => unit(panel, series, series.length > 1)),
  } as TopLevelSpec;
}
