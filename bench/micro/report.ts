/** Rows of the microbenchmark as a table on the terminal, JSON, and a bar chart. */
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import type { DeviceInfo } from 'sas-attention';
import { type Bar, barChart } from '../chart/bar_chart.js';
import { renderSvg } from '../chart/render.js';
import { textTable } from '../text_table.js';
import type { Spread } from './timing.js';

export interface Row {
  readonly case: string;
  readonly length: number;
  readonly contestant: string;
  readonly milliseconds: Spread;
  /** Useful GFLOP/s. */
  readonly gflops: Spread;
  /** Useful FLOP/s as percent of the FMA peak measured beside each sample. */
  readonly percentOfPeak: Spread;
  readonly floor?: number;
}

export interface Report {
  readonly date: string;
  readonly device: DeviceInfo;
  readonly node: string;
  readonly processor: string;
  /** Median FMA peak of the run in GFLOP/s, all threads. */
  readonly peakGflops: number;
  readonly rows: readonly Row[];
}

const HEADER = ['case', 'T', '', 'ms', 'spread', 'GFLOP/s', '% peak', 'x fused', 'floor'];

/** One line per contestant; `x fused` is how many times as long as the fused op it takes. */
export function table(rows: readonly Row[]): string {
  const lines = rows.map((row) => {
    const fused = rows.find((r) => r.case === row.case && r.length === row.length && r.contestant === 'fused');
    const ratio = fused ? row.milliseconds.median / fused.milliseconds.median : 1;
    const met =
      row.floor === undefined ? '' : `${row.floor} ${row.percentOfPeak.median >= row.floor ? 'met' : 'MISSED'}`;
    return [
      row.contestant === 'fused' ? row.case : '',
      row.contestant === 'fused' ? String(row.length) : '',
      row.contestant,
      row.milliseconds.median.toFixed(2),
      `${row.milliseconds.low.toFixed(2)}-${row.milliseconds.high.toFixed(2)}`,
      row.gflops.median.toFixed(1),
      row.percentOfPeak.median.toFixed(1),
      row.contestant === 'fused' ? '' : ratio.toFixed(2),
      met,
    ];
  });
  return textTable(HEADER, lines, [0, 2]);
}

export function makeReport(device: DeviceInfo, peakGflops: number, rows: readonly Row[]): Report {
  return {
    date: new Date().toISOString(),
    device,
    node: process.version,
    processor: cpus()[0]?.model ?? 'unknown',
    peakGflops,
    rows,
  };
}

/** Writes NAME.json and NAME.svg into `directory` and returns their paths. */
export async function writeReport(directory: string, name: string, report: Report): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const bars = report.rows.map(
    (row): Bar => ({
      panel: row.case,
      group: `T = ${row.length}`,
      series: row.contestant,
      value: row.percentOfPeak.median,
      low: row.percentOfPeak.low,
      high: row.percentOfPeak.high,
      ...(row.floor !== undefined && { floor: row.floor }),
    }),
  );
  const { device } = report;
  const spec = barChart(bars, {
    title: 'Useful FLOP/s as percent of the FMA peak measured in the same run',
    subtitle: `${device.name}, ${device.isa ?? device.kind}, ${device.threads ?? 1} threads, peak ${report.peakGflops.toFixed(0)} GFLOP/s, ${report.date.slice(0, 10)}`,
    valueTitle: 'percent of the FMA peak',
    max: 100,
  });
  const files = [join(directory, `${name}.json`), join(directory, `${name}.svg`)] as const;
  await writeFile(files[0], `${JSON.stringify(report, null, 2)}\n`);
  await writeFile(files[1], await renderSvg(spec));
  return [...files];
}
