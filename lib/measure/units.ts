/** What the result of a contestant is stated in: all that the runner, the table and the charts need to know of a unit. */

/** One sample of a contestant. */
export interface Sample {
  /** Per run. */
  readonly seconds: number;
  /** Useful FLOPs per run. */
  readonly flops: number;
  /** Tokens per run, where it is a training step. */
  readonly tokens?: number;
  /** The device's multiply-add peak, measured just before, in FLOP/s. */
  readonly peakFlops: number;
}

export interface Unit {
  /** What follows a number. */
  readonly symbol: string;
  readonly digits: number;
  readonly better: 'higher' | 'lower';
  /** `first` is the sample that the case's first contestant gave in the same turn. */
  value(sample: Sample, first: Sample): number;
  /** How far a lesser instruction set may stay behind the best one; absent: it is not measured in this unit. */
  readonly lesserIsaMargin?: number;
  /** What to say beside a result other than the first one's. */
  remark?(work: Pick<Sample, 'flops'>, first: Pick<Sample, 'flops'>): string;
  readonly chart: {
    readonly axis: string;
    /** Upper end of the axis; without it, the data decides. */
    readonly max?: number;
    /** What names the groups of a case's bars. */
    readonly groups: 'length' | 'contestant';
    /** The first contestant only says what the others are relative to: it has no bar. */
    readonly withoutFirst?: boolean;
  };
}

const rate = ({ flops, seconds }: Sample) => flops / seconds;

export const UNITS = {
  percent: {
    symbol: ' %',
    digits: 1,
    better: 'higher',
    value: (sample) => (100 * rate(sample)) / sample.peakFlops,
    lesserIsaMargin: 5,
    chart: { axis: 'percent of the FMA peak', max: 100, groups: 'length' },
  },
  /** FLOP/s relative to the case's first contestant. */
  ratio: {
    symbol: ' x',
    digits: 2,
    better: 'higher',
    value: (sample, first) => rate(sample) / rate(first),
    chart: { axis: 'relative FLOP/s', groups: 'contestant' },
  },
  microseconds: {
    symbol: ' us',
    digits: 1,
    better: 'lower',
    value: ({ seconds }) => 1e6 * seconds,
    chart: { axis: 'microseconds (less is better)', groups: 'contestant' },
  },
  /** Time relative to the case's first contestant's. */
  times: {
    symbol: ' x',
    digits: 2,
    better: 'lower',
    value: ({ seconds }, first) => seconds / first.seconds,
    remark: ({ flops }, first) => `${(flops / first.flops).toFixed(2)} x the FLOPs`,
    chart: { axis: 'relative time (less is better)', groups: 'contestant' },
  },
  /** Time as part of the case's first contestant's. */
  share: {
    symbol: ' %',
    digits: 1,
    better: 'lower',
    value: ({ seconds }, first) => (100 * seconds) / first.seconds,
    chart: { axis: 'percent of the time (less is better)', groups: 'contestant', withoutFirst: true },
  },
  tokensPerSecond: {
    symbol: ' tokens/s',
    digits: 0,
    better: 'higher',
    value: ({ seconds, tokens = Number.NaN }) => tokens / seconds,
    chart: { axis: 'tokens per second', groups: 'contestant' },
  },
} as const satisfies Readonly<Record<string, Unit>>;

export type UnitName = keyof typeof UNITS;

export const unitOf = (name: UnitName): Unit => UNITS[name];

export const isUnit = (name: string): name is UnitName => Object.hasOwn(UNITS, name);

export const show = (value: number, unit: Unit): string => `${value.toFixed(unit.digits)}${unit.symbol}`;

/** 0 where the target is met. */
export const missedBy = (value: number, target: number, unit: Unit): number =>
  Math.max(0, unit.better === 'higher' ? target - value : value - target);
