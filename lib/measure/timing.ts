/** Side-by-side timing: the candidates of a group take turns, so that a machine whose speed drifts is fair to all. */
import type { Device } from '../index.js';

export interface Candidate {
  readonly name: string;
  /** Enqueues the work once and frees what it made; or, where the wait belongs to what is timed, returns it. */
  run(): void | Promise<void>;
}

export interface Spread {
  readonly median: number;
  /** 10th and 90th percentile. */
  readonly low: number;
  readonly high: number;
}

/** One turn of a candidate. */
export interface Turn {
  /** Per run. */
  readonly seconds: number;
  /** The device's FMA peak measured just before, in FLOP/s. */
  readonly peakFlops: number;
}

export interface TimingOptions {
  /** Samples per candidate. */
  readonly samples: number;
  /** Shortest sample in seconds; faster work is repeated inside one sample. */
  readonly minSeconds: number;
}

const quantile = (sorted: readonly number[], q: number): number => {
  const position = q * (sorted.length - 1);
  const below = Math.floor(position);
  const low = sorted[below] ?? Number.NaN;
  const high = sorted[Math.ceil(position)] ?? Number.NaN;
  return low + (high - low) * (position - below);
};

export function spread(values: readonly number[]): Spread {
  const sorted = [...values].sort((a, b) => a - b);
  return { median: quantile(sorted, 0.5), low: quantile(sorted, 0.1), high: quantile(sorted, 0.9) };
}

/** Seconds per run of `repeats` runs enqueued together; waits only at the end, and where a run itself waits. */
export async function time(candidate: Pick<Candidate, 'run'>, repeats: number, device: Device): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < repeats; ++i) {
    const pending = candidate.run();
    if (pending) await pending;
  }
  await device.synchronize();
  return (performance.now() - start) / 1000 / repeats;
}

/** How many runs make a sample, after the first ones, which are slow: memory is mapped, code is paged in and compiled. */
export async function repeatsOf(candidate: Candidate, device: Device, minSeconds: number): Promise<number> {
  await time(candidate, 1, device);
  let count = 1;
  // One short run does not say how many make a sample.
  for (let taken = 0; taken < minSeconds; ) {
    const once = await time(candidate, count, device);
    taken = count * once;
    if (taken < minSeconds) count = Math.max(count + 1, Math.ceil(minSeconds / once));
  }
  return count;
}

/** One sample, beside a fresh measurement of the device's FMA peak. */
export async function takeTurn(candidate: Candidate, repeats: number, device: Device): Promise<Turn> {
  const peakFlops = await device.measurePeakFlops(0.01);
  return { seconds: await time(candidate, repeats, device), peakFlops };
}

/** Turns per candidate: all are timed A B A B ... */
export async function compare(
  candidates: readonly Candidate[],
  device: Device,
  options: TimingOptions,
): Promise<Turn[][]> {
  const repeats: number[] = [];
  for (const candidate of candidates) repeats.push(await repeatsOf(candidate, device, options.minSeconds));
  const turns = candidates.map((): Turn[] => []);
  for (let sample = 0; sample < options.samples; ++sample) {
    for (const [i, candidate] of candidates.entries()) {
      turns[i]?.push(await takeTurn(candidate, repeats[i] ?? 1, device));
    }
  }
  return turns;
}
