/** The two pictures of a report: percent of the peak and targets as bars, and the roofline. */
import type { TopLevelSpec } from 'vega-lite';
import { type Report, sameRow } from '../../../lib/cli/bench/report.js';
import type { IsaRun, Row } from '../../../lib/measure/rows.js';
import { show, unitOf } from '../../../lib/measure/units.js';
import { type Bar, barChart, type Panel } from '../../charts/bar_chart.js';
import { type RooflinePoint, roofline } from '../../charts/roofline.js';

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

const withIsa = (contestant: string, isa: string) => `${contestant}, ${isa}`;

/** A row and, below it, what lesser instruction sets make of the same. */
function barsOf(row: Row, lesser: readonly IsaRun[]): Bar[] {
  // What users call is 'fused', whatever it is compared with.
  if (unitOf(row.unit).chart.groups === 'contestant') return [barOf(row, row.contestant, 'fused')];
  const group = `T = ${row.length}`;
  const others = lesser.flatMap(({ isa, rows }) => {
    const other = sameRow(row, rows);
    return other ? [barOf(other, group, withIsa(other.contestant, isa))] : [];
  });
  return [barOf(row, group, row.contestant), ...others];
}

/** One panel per case. */
function panelsOf([best, ...lesser]: readonly IsaRun[]): Panel[] {
  const rows = best?.rows ?? [];
  return [...new Set(rows.map((row) => row.case))].map((title): Panel => {
    const own = rows.filter((row) => row.case === title);
    const { chart, digits } = unitOf((own[0] as Row).unit);
    const shown = chart.withoutFirst ? own.slice(1) : own;
    return { title, axis: chart.axis, max: chart.max, digits, bars: shown.flatMap((row) => barsOf(row, lesser)) };
  });
}

export function bars(report: Report): TopLevelSpec {
  const peaks = report.runs.map(({ isa, peakGflops }) => `${isa} ${peakGflops.toFixed(0)}`).join(', ');
  return barChart(panelsOf(report.runs), {
    title: 'Useful FLOP/s as percent of the FMA peak measured in the same run',
    subtitle: [
      `${machine(report, report.runs.map(({ isa }) => isa).join(' and '))}; FMA peak in GFLOP/s: ${peaks}`,
      'bar: median; whisker: 10th to 90th percentile; black tick: target',
    ],
    series: ['fused', 'naive', 'naive MHA', ...report.runs.slice(1).map(({ isa }) => withIsa('fused', isa))],
  });
}

/** Without what is said in brackets. */
const shortName = (row: Row) => row.case.replace(/ \(.*\)/, '');

/** Natural logarithm of a ratio. */
const SAME_INTENSITY = 0.5;

/** Null where nothing has both a target and counted bytes. */
export function rooflineOf(report: Report): TopLevelSpec | null {
  const [best] = report.runs;
  if (!best) return null;
  const shown = new Map<string, number[]>();
  const points = best.rows.flatMap((row): RooflinePoint[] => {
    if (row.unit !== 'percent' || row.target === undefined || !row.bytes) return [];
    const naive = sameRow({ ...row, contestant: 'naive' }, best.rows);
    const intensity = row.flops / row.bytes;
    // Lengths that do not change a case's intensity would sit on each other.
    const before = shown.get(row.case) ?? [];
    if (before.some((other) => Math.abs(Math.log(intensity / other)) < SAME_INTENSITY)) return [];
    shown.set(row.case, [...before, intensity]);
    return [
      {
        label: `${shortName(row)}, T = ${row.length}: ${show(row.value.median, unitOf(row.unit))}`,
        family: row.case.split(' ')[0] ?? '',
        intensity,
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
