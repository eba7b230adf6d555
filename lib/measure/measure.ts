/** Checks and times cases. */

import { Failure } from '../failure.js';
import type { Device, Tensor } from '../index.js';
import type { Case, CaseFacts } from './cases.js';
import { type Outcome, outcomeText, verify } from './check.js';
import type { IsaRun, Row } from './rows.js';
import type { Subject } from './subject.js';
import { casesOf, type Selection } from './suite.js';
import { compare, type Spread, spread, type TimingOptions, type Turn } from './timing.js';
import { missedBy, type Sample, unitOf } from './units.js';

/** A fused op computes something else than its twin: it is not timed. */
export class WrongResult extends Failure {}

/** Cases only for a lesser instruction set: what has a target there. */
function lesserCase(item: Case): Case | undefined {
  if (unitOf(item.unit).lesserIsaMargin === undefined) return undefined;
  const contestants = item.contestants.filter(({ target }) => target !== undefined);
  return contestants.length > 0 ? { ...item, contestants } : undefined;
}

export const labelOf = ({ name, length }: CaseFacts): string =>
  length === undefined ? name : `${name}, T = ${length}`;

export async function requireRight(item: Case): Promise<void> {
  if (!item.check) return;
  const outcome = await verify(item.check);
  if (!outcome.right) throw new WrongResult(`${labelOf(item)}: ${outcomeText(outcome)}`);
}

const rateOf = (amount: number, seconds: Spread): Spread => ({
  median: amount / seconds.median,
  low: amount / seconds.high,
  high: amount / seconds.low,
});

/** One row per contestant, from its turns. Targets are set for the CPU. */
export function rowsOf(item: CaseFacts, turns: readonly (readonly Turn[])[], kind: Device['info']['kind']): Row[] {
  const unit = unitOf(item.unit);
  const samples = item.contestants.map(({ work }, i) =>
    (turns[i] ?? []).map((turn): Sample => ({ ...turn, flops: work.flops, tokens: work.tokens })),
  );
  return item.contestants.map(({ name, work, target }, i): Row => {
    const own = samples[i] ?? [];
    const seconds = spread(own.map((sample) => sample.seconds));
    const value = spread(own.map((sample, turn) => unit.value(sample, samples[0]?.[turn] ?? sample)));
    const wished = kind === 'cpu' ? target : undefined;
    return {
      case: item.name,
      ...(item.length !== undefined && { length: item.length }),
      contestant: name,
      ...work,
      milliseconds: { median: 1e3 * seconds.median, low: 1e3 * seconds.low, high: 1e3 * seconds.high },
      gflops: rateOf(work.flops / 1e9, seconds),
      unit: item.unit,
      value,
      ...(wished !== undefined && { target: wished, missedBy: missedBy(value.median, wished, unit) }),
    };
  });
}

export async function measureCase(item: Case, device: Device, timing: TimingOptions): Promise<Row[]> {
  return rowsOf(item, await compare(item.contestants, device, timing), device.info.kind);
}

const STREAM_ELEMENTS = 2 ** 24; // three tensors of 64 MiB: beyond the caches

/** Bytes read and written per second by a sum of two long tensors. */
export async function measureStream({ Tensor, ops, scope, device }: Subject, timing: TimingOptions): Promise<number> {
  const [a, b] = [1, 2].map((seed) => Tensor.randn([STREAM_ELEMENTS], { seed, device })) as [Tensor, Tensor];
  const add = { name: 'add', run: () => scope(() => void ops.add(a, b)) };
  const [turns = []] = await compare([add], device, timing);
  a.dispose();
  b.dispose();
  return (12 * STREAM_ELEMENTS) / spread(turns.map(({ seconds }) => seconds)).median;
}

export interface MeasureOptions extends Selection, TimingOptions {
  /** Only what a lesser instruction set is held to. */
  readonly lesser: boolean;
  onCase(label: string): void;
}

/** Checks and times all cases on the device. Throws WrongResult. */
export async function measure(subject: Subject, options: MeasureOptions): Promise<IsaRun> {
  const { device } = subject;
  const { info } = device;
  const stream = await measureStream(subject, options);
  const peaks: number[] = [];
  const rows: Row[] = [];
  for (const every of casesOf(options, subject)) {
    const item = options.lesser ? lesserCase(every) : every;
    if (!item) continue;
    options.onCase(labelOf(item));
    await requireRight(item);
    peaks.push(await device.measurePeakFlops());
    rows.push(...(await measureCase(item, device, options)));
  }
  return {
    isa: info.isa ?? info.kind,
    peakGflops: spread(peaks).median / 1e9,
    streamGigabytesPerSecond: stream / 1e9,
    rows,
  };
}

export interface CheckedCase extends Outcome {
  readonly label: string;
}

/** The checks alone; cases without one are left out. */
export async function* checkAll(selection: Selection, subject: Subject): AsyncGenerator<CheckedCase> {
  for (const item of casesOf(selection, subject)) {
    if (item.check) yield { label: labelOf(item), ...(await verify(item.check)) };
  }
}
