/** The two pictures of a report: percent of the peak and targets as bars, and the roofline. */
import type { TopLevelSpec } from 'vega-lite';
import { type Bar, barChart, type Panel } from '../chart/bar_chart.js';
import { type RooflinePoint, roofline } from '../chart/roofline.js';
import { type IsaRun, type Report, type Row, sameRow } from './report.js';
import { unitOf } from './units.js';

const machine = ({ device, date }: Report, isas: string) =>
  `${device.name}, ${isas}, ${device.threads ?? 1} threads, ${date.slice(0, 10)}`;

const barOf = (row: Row, group: string, series: string): Bar => ({
  group,
  series,
  value: row.value.median,
  low: row.value.low,
  high: row.value.high,
  ...(row.target !== undefined && { target: row.target }),
});

/** A row and, below it, what lesser instruction sets make of the same. */
const barsOf = (row: Row, lesser: readonly IsaRun[]): Bar[] => {
  const group = `T = ${row.length}`;
  const others = lesser.flatMap(({ isa, rows }) => {
    const other = sameRow(row, rows);
    return other ? [barOf(other, group, `${other.contestant}, ${isa}`)] : [];
  });
  return [barOf(row, group, row.contestant), ...others];
};

/** A case has a panel of its own, or its contestants with a target share one with other cases of the unit. */
function panelsOf([best, ...lesser]: readonly IsaRun[]): Panel[] {
  const panels = new Map<string, Panel & { bars: Bar[] }>();
  for (const row of best?.rows ?? []) {
    const { chart, digits } = unitOf(row.unit);
    if (chart.panel !== undefined && row.target === undefined) continue;
    const title = chart.panel ?? row.case;
    const panel = panels.get(title) ?? { title, axis: chart.axis, max: chart.max, digits, bars: [] };
    panels.set(title, panel);
    panel.bars.push(...(chart.panel === undefined ? barsOf(row, lesser) : [barOf(row, row.case, row.contestant)]));
  }
  return [...panels.values()];
}

export function bars(report: Report): TopLevelSpec {
  const peaks = report.runs.map(({ isa, peakGflops }) => `${isa} ${peakGflops.toFixed(0)}`).join(', ');
  return barChart(panelsOf(report.runs), {
    title: 'Useful FLOP/s as percent of the FMA peak measured in the same run',
    subtitle: [
      `${machine(report, report.runs.map(({ isa }) => isa).join(' and '))}; FMA peak in GFLOP/s: ${peaks}`,
      'bar: median; whisker: 10th to 90th percentile; black tick: target',
    ],
  });
}

/** Null where nothing has both a target and counted bytes. */
export function rooflineOf(report: Report): TopLevelSpec | null {
  const [best] = report.runs;
  if (!best) return null;
  const points = best.rows.flatMap((row): RooflinePoint[] => {
    if (row.unit !== 'percent' || row.target === undefined || !row.bytes) return [];
    const naive = sameRow({ ...row, contestant: 'naive' }, best.rows);
    return [
      {
        label: `${row.case}, T = ${row.length}: ${row.value.median.toFixed(0)} %`,
        family: row.case.split(' ')[0] ?? '',
        intensity: row.flops / row.bytes,
        gflops: row.gflops.median,
        ...(naive && { otherGflops: naive.gflops.median }),
      },
    ];
  });
  if (points.length === 0) return null;
  return roofline(points, {
    title: 'How close to the roof',
    subtitle: [machine(report, best.isa), 'percent: of the multiply-add peak measured beside each sample'],
    peakGflops: best.peakGflops,
    gigabytesPerSecond: best.streamGigabytesPerSecond,
    kinds: { point: 'fused', other: 'naive' },
  });
}
