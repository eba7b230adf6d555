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
  /** Series whose place decides their colour, also where others are absent. What else there is follows. */
  series: readonly string[];
}

const COLUMNS = 2;
const WIDTH = 400;
const BAR_STEP = 16;
const unique = (values: readonly string[]) => [...new Set(values)];
const endOf = ({ value, high }: Bar) => Math.max(value, high ?? 0);

/** A line per bar, groups apart by an empty one and named at their first bar. */
function layOut(bars: readonly Bar[]) {
  const lines: { bar: Bar; line: number }[] = [];
  const labels: Record<number, string> = {};
  let line = 0;
  for (const group of unique(bars.map((bar) => bar.group))) {
    labels[line] = group;
    for (const bar of bars) if (bar.group === group) lines.push({ bar, line: line++ });
    line++;
  }
  return { lines, labels, count: line - 1 };
}

function unit({ title, axis, bars, digits, ...panel }: Panel, colours: ReadonlyMap<string, string>) {
  const { lines, labels, count } = layOut(bars);
  const max = panel.max ?? Math.max(...bars.map((bar) => Math.max(endOf(bar), bar.target ?? 0))) * 1.15;
  // The number stands right of the bar and its whisker, and of the target's tick where that would cross it.
  const values = lines.map(({ bar, line }) => {
    const end = endOf(bar);
    const crossed = bar.target !== undefined && bar.target > end && bar.target < end + max * 0.12;
    return { ...bar, line, text: bar.value.toFixed(digits), end: crossed ? bar.target : end };
  });
  const y = {
    field: 'line',
    type: 'ordinal',
    title: null,
    scale: { domain: Array.from({ length: count }, (_, i) => i), paddingInner: 0.12, paddingOuter: 0.1 },
    axis: {
      ticks: false,
      domain: false,
      grid: false,
      labelPadding: 8,
      labelLimit: 0,
      values: Object.keys(labels).map(Number),
      labelExpr: `${JSON.stringify(labels)}[datum.value]`,
    },
  };
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
    scale: { domain: [...colours.keys()], range: [...colours.values()] },
    legend: colours.size > 1 ? { title: null, orient: 'top', symbolType: 'square' } : null,
  };
  const has = (field: string) => [{ filter: `isValid(datum.${field})` }];
  return {
    width: WIDTH,
    height: { step: BAR_STEP },
    title: { text: title, fontSize: 13, offset: 6, frame: 'group' },
    data: { values },
    layer: [
      { mark: { type: 'bar', cornerRadiusEnd: 2 }, encoding: { y, x: x('value'), color } },
      {
        transform: [...has('low'), ...has('high')],
        mark: { type: 'rule', color: '#1a1a1a', strokeOpacity: 0.65 },
        encoding: { y, x: x('low'), x2: { field: 'high' } },
      },
      {
        transform: has('target'),
        mark: { type: 'tick', color: '#000000', thickness: 2.5, size: BAR_STEP },
        encoding: { y, x: x('target') },
      },
      {
        mark: { type: 'text', baseline: 'middle', align: 'left', dx: 6, fontSize: 11, color: '#262626' },
        encoding: { y, x: x('end'), text: { field: 'text', type: 'nominal' } },
      },
    ],
  };
}

/** Panels, groups and bars keep their order. */
export function barChart(panels: readonly Panel[], options: BarChartOptions): TopLevelSpec {
  const present = new Set(panels.flatMap(({ bars }) => bars.map(({ series }) => series)));
  const colourOf = (i: number) => PALETTE[i % PALETTE.length] ?? PALETTE[0];
  const named = unique([...options.series, ...present]).map((series, i): [string, string] => [series, colourOf(i)]);
  const colours = new Map(named.filter(([series]) => present.has(series)));
  return {
    $schema: 'https://vega.github.io/schema/vega-lite/v6.json',
    title: { text: options.title, ...(options.subtitle && { subtitle: options.subtitle }) },
    spacing: 18,
    columns: COLUMNS,
    concat: panels.map((panel) => unit(panel, colours)),
  } as TopLevelSpec;
}
