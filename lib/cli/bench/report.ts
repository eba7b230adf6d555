/** What a run of the benchmark leaves: the rows, as a table and as JSON. */
import { cpus } from 'node:os';
import type { DeviceInfo } from '../../index.js';
import type { IsaRun, Row } from '../../measure/rows.js';
import { missedBy, show, unitOf } from '../../measure/units.js';
import { textTable } from '../text_table.js';

export interface Report {
  readonly date: string;
  readonly device: DeviceInfo;
  readonly node: string;
  readonly processor: string;
  /** The best instruction set first. A lesser one has only rows that are held to the best one's. */
  readonly runs: readonly IsaRun[];
}

export function makeReport(device: DeviceInfo, runs: readonly IsaRun[]): Report {
  return {
    date: new Date().toISOString(),
    device,
    node: process.version,
    processor: cpus()[0]?.model ?? 'unknown',
    runs: withLesserTargets(runs),
  };
}

export function sameRow(row: Row, rows: readonly Row[]): Row | undefined {
  return rows.find((r) => r.case === row.case && r.length === row.length && r.contestant === row.contestant);
}

/** A lesser instruction set is held to what the best one reached. */
function withLesserTargets([best, ...lesser]: readonly IsaRun[]): IsaRun[] {
  if (!best) return [];
  const held = (row: Row): Row => {
    const { target: _, missedBy: __, ...rest } = row;
    const unit = unitOf(row.unit);
    const reached = sameRow(row, best.rows)?.value.median;
    if (reached === undefined || unit.lesserIsaMargin === undefined) return rest;
    const target = reached + (unit.better === 'higher' ? -unit.lesserIsaMargin : unit.lesserIsaMargin);
    return { ...rest, target, missedBy: missedBy(row.value.median, target, unit) };
  };
  return [best, ...lesser.map((run) => ({ ...run, rows: run.rows.map(held) }))];
}

/** 'met' or how much is missing; nothing without a target. */
export function outcome({ missedBy: missed, unit }: Row): string {
  if (missed === undefined) return '';
  return missed === 0 ? 'met' : `missed by ${missed.toFixed(unitOf(unit).digits)}`;
}

export interface Column<R extends Row = Row> {
  readonly title: string;
  readonly align: 'left' | 'right';
  /** `first` is the case's first row. */
  cell(row: R, first: R): string;
}

/** Three digits that count. */
const milliseconds = (value: number) => (value < 100 ? value.toPrecision(3) : value.toFixed(0));

/** Which row it is. */
export const NAME_COLUMNS: readonly Column[] = [
  { title: 'case', align: 'left', cell: (row, first) => (row === first ? row.case : '') },
  { title: 'T', align: 'right', cell: (row, first) => (row === first ? String(row.length ?? '') : '') },
  { title: '', align: 'left', cell: (row) => row.contestant },
];

const COLUMNS: readonly Column[] = [
  ...NAME_COLUMNS,
  { title: 'ms', align: 'right', cell: (row) => milliseconds(row.milliseconds.median) },
  {
    title: 'spread',
    align: 'right',
    cell: (row) => `${milliseconds(row.milliseconds.low)}-${milliseconds(row.milliseconds.high)}`,
  },
  { title: 'GFLOP/s', align: 'right', cell: (row) => (row.flops > 0 ? row.gflops.median.toFixed(1) : '') },
  {
    title: 'time',
    align: 'right',
    cell: (row, first) =>
      row === first ? '' : `${(row.milliseconds.median / first.milliseconds.median).toFixed(2)} x`,
  },
  { title: 'result', align: 'right', cell: (row) => show(row.value.median, unitOf(row.unit)) },
  { title: 'target', align: 'left', cell: targetCell },
];

/** What is wished, whether it is reached, and what is worth knowing beside it. */
export function targetCell(row: Row, first: Row): string {
  const unit = unitOf(row.unit);
  const target = row.target === undefined ? '' : `${row.target}${unit.symbol} ${outcome(row)}`;
  const remark = row === first ? undefined : unit.remark?.(row, first);
  return remark === undefined ? target : `${target} (${remark})`;
}

/** Rows that count no FLOPs say how fast they move bytes, beside what memory gives to a sum of long tensors. */
const memoryColumn = (stream: number): Column => ({
  title: 'GB/s',
  align: 'right',
  cell(row) {
    if (row.flops > 0 || row.bytes === undefined) return '';
    const rate = row.bytes / 1e6 / row.milliseconds.median;
    return `${rate.toFixed(1)} (${((100 * rate) / stream).toFixed(0)} %)`;
  },
});

/** The percent of another instruction set's own peak, beside the best one's. */
const isaColumn = ({ isa, rows }: IsaRun): Column => ({
  title: isa,
  align: 'left',
  cell(row) {
    const lesser = sameRow(row, rows);
    return lesser ? `${show(lesser.value.median, unitOf(lesser.unit))} ${outcome(lesser)}` : '';
  },
});

/** One line per contestant; 'time' is how many times as long as the case's first contestant it takes. */
export function table([best, ...lesser]: readonly IsaRun[]): string {
  const rows = best?.rows ?? [];
  const memory = rows.some(({ flops }) => flops === 0) ? [memoryColumn(best?.streamGigabytesPerSecond ?? 0)] : [];
  const columns = [...COLUMNS, ...memory, ...lesser.map(isaColumn)];
  return textColumns(columns, rows);
}

/** A line per row, under the titles. */
export function textColumns<R extends Row>(columns: readonly Column<R>[], rows: readonly R[]): string {
  const lines = rows.map((row) => {
    const first = rows.find((r) => r.case === row.case && r.length === row.length) ?? row;
    return columns.map((column) => column.cell(row, first));
  });
  const left = columns.flatMap(({ align }, c) => (align === 'left' ? [c] : []));
  const titles = columns.map(({ title }) => title);
  return textTable(titles, lines, left);
}

/** '14 of 17 targets met', over all instruction sets. */
export function targetSummary(runs: readonly IsaRun[]): string {
  const held = runs.flatMap(({ rows }) => rows).filter(({ target }) => target !== undefined);
  return `${held.filter((row) => row.missedBy === 0).length} of ${held.length} targets met`;
}
