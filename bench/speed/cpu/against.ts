/** This checkout and another one, sample by sample in turns, each in a process of its own. */
import { cpus } from 'node:os';
import { type Column, NAME_COLUMNS, targetCell, textColumns } from '../../../lib/cli/bench/report.js';
import { Failure, UsageError } from '../../../lib/failure.js';
import type { DeviceInfo } from '../../../lib/index.js';
import { labelOf, rowsOf } from '../../../lib/measure/measure.js';
import type { Row } from '../../../lib/measure/rows.js';
import { type Spread, spread, type Turn } from '../../../lib/measure/timing.js';
import { show, unitOf } from '../../../lib/measure/units.js';
import type { Side, SideInfo } from './side.js';

/** This checkout's row, and the other's beside it. */
export interface PairedRow extends Row {
  readonly other: Row | null;
  /** Why there is no other. */
  readonly missing?: string;
  /** This one's time as a multiple of the other's, of samples that follow each other. */
  readonly time?: Spread;
  /** How many times as fast as the other it is wished to be. */
  readonly speedup?: number;
}

export interface MeasuredSide {
  /** Commit; '+': and changes. */
  readonly revision: string;
  /** Median FMA peak, all threads. */
  readonly peakGflops: number;
  readonly streamGigabytesPerSecond: number;
}

export interface Comparison {
  readonly date: string;
  readonly device: DeviceInfo;
  readonly node: string;
  readonly processor: string;
  readonly other: MeasuredSide;
  readonly own: MeasuredSide;
  readonly rows: readonly PairedRow[];
}

interface Sides<T> {
  readonly other: T;
  readonly own: T;
}

/** One at a time: what a side does, it does alone. */
async function inTurn<T>(sides: Sides<Side>, ask: (side: Side) => Promise<T>): Promise<Sides<T>> {
  const other = await ask(sides.other);
  return { other, own: await ask(sides.own) };
}

const medianPeak = (turns: readonly Turn[]) => spread(turns.map(({ peakFlops }) => peakFlops)).median / 1e9;

/** Times all cases of both sides: other, own, other, own, ... for each contestant, `samples` times round. */
export async function compareSides(
  sides: Sides<Side>,
  samples: number,
  onCase: (label: string) => void = () => {},
): Promise<Omit<Comparison, 'own' | 'other'> & Sides<Omit<MeasuredSide, 'revision'>>> {
  const infos = await inTurn(sides, (side) => side.open());
  const { device } = infos.own;
  const taken: Sides<Turn[]> = { other: [], own: [] };
  const rows: PairedRow[] = [];
  for (;;) {
    const { other, own } = await inTurn(sides, (side) => side.next());
    if (!own) break;
    const label = labelOf(own);
    if (!other || labelOf(other) !== label) throw new Error(`the other side measures something else than ${label}`);
    const broken = own.missing.find((reason) => reason !== null);
    if (broken !== undefined) throw new Failure(`${label}: ${broken}`);
    onCase(label);
    const turns: Sides<Turn[][]> = { other: own.contestants.map(() => []), own: own.contestants.map(() => []) };
    for (let sample = 0; sample < samples; ++sample) {
      for (const i of own.contestants.keys()) {
        if (other.missing[i] === null) turns.other[i]?.push(await sides.other.turn(i));
        turns.own[i]?.push(await sides.own.turn(i));
      }
    }
    for (const key of ['other', 'own'] as const) taken[key].push(...turns[key].flat());
    const others = rowsOf(other, turns.other, device.kind);
    rows.push(
      ...rowsOf(own, turns.own, device.kind).map((row, i): PairedRow => {
        const missing = other.missing[i] ?? null;
        const { speedup } = own.contestants[i] ?? {};
        if (missing !== null) return { ...row, other: null, missing };
        const pairs = (turns.own[i] ?? []).map(
          ({ seconds }, s) => seconds / (turns.other[i]?.[s]?.seconds ?? Number.NaN),
        );
        return { ...row, other: others[i] ?? null, time: spread(pairs), ...(speedup !== undefined && { speedup }) };
      }),
    );
  }
  const measured = ({ streamGigabytesPerSecond }: SideInfo, turns: readonly Turn[]) => ({
    peakGflops: medianPeak(turns),
    streamGigabytesPerSecond,
  });
  return {
    date: new Date().toISOString(),
    device,
    node: process.version,
    processor: cpus()[0]?.model ?? 'unknown',
    other: measured(infos.other, taken.other),
    own: measured(infos.own, taken.own),
    rows,
  };
}

const times = (value: number) => value.toFixed(2);

/** How far the speed-up is from what is wished, 0 where it is reached; undefined: nothing is wished. */
const speedupMissedBy = ({ speedup, time }: PairedRow): number | undefined =>
  speedup === undefined || !time ? undefined : Math.max(0, speedup - 1 / time.median);

const COLUMNS: readonly Column<PairedRow>[] = [
  ...NAME_COLUMNS,
  {
    title: 'other',
    align: 'right',
    cell: ({ other }) => (other ? show(other.value.median, unitOf(other.unit)) : ''),
  },
  { title: 'this', align: 'right', cell: ({ value, unit }) => show(value.median, unitOf(unit)) },
  { title: 'time', align: 'right', cell: ({ time }) => (time ? `${times(time.median)} x` : '') },
  { title: 'spread', align: 'right', cell: ({ time }) => (time ? `${times(time.low)}-${times(time.high)}` : '') },
  {
    title: 'target',
    align: 'left',
    cell(row, first) {
      const missed = speedupMissedBy(row);
      if (missed === undefined) return targetCell(row, first);
      return `${row.speedup} x as fast ${missed === 0 ? 'met' : `missed by ${times(missed)}`}`;
    },
  },
];

const LEGEND = `other, this: the result there and here, in useful FLOP/s as percent of the FMA peak measured beside each sample, unless
another unit is given. time: how many times as long as there a run takes here, median of the ratios of neighbouring samples;
spread: their 10th to 90th percentile. x as fast: the inverse.`;

const sideText = (name: string, { revision, peakGflops, streamGigabytesPerSecond }: MeasuredSide) =>
  `${name} (${revision}): FMA peak ${peakGflops.toFixed(0)} GFLOP/s, memory ${streamGigabytesPerSecond.toFixed(1)} GB/s`;

/** The rows as a table, with what is only here below it, and how many targets are met. */
export function comparisonText({ other, own, rows }: Comparison): string {
  const absent = rows.filter(({ missing }) => missing !== undefined);
  const notes = absent.map((row) => `not there: ${row.case}, ${row.contestant}: ${row.missing}`);
  const missed = rows.flatMap((row) => [row.missedBy ?? [], speedupMissedBy(row) ?? []].flat());
  const met = `${missed.filter((by) => by === 0).length} of ${missed.length} targets met`;
  const parts = [
    `${sideText('other', other)}\n${sideText('this', own)}`,
    textColumns(COLUMNS, rows),
    ...(notes.length > 0 ? [notes.join('\n')] : []),
    LEGEND,
    met,
  ];
  return parts.join('\n\n');
}

export function requireRows({ rows }: Pick<Comparison, 'rows'>, filter: string): void {
  if (rows.length === 0) throw new UsageError(`no case matches --filter ${filter}`);
}
