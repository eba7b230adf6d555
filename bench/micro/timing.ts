/** Side-by-side timing: the candidates of a group take turns, so that a machine whose speed drifts is fair to all. */
import type { Device } from 'sas-attention';

export interface Candidate {
  readonly name: string;
  /** Enqueues the work once and frees what it made. */
  run(): void;
}

export interface Spread {
  readonly median: number;
  /** 10th and 90th percentile. */
  readonly low: number;
  readonly high: number;
}

export interface Timing {
  /** Seconds per run. */
  readonly seconds: Spread;
  /** Seconds per run times the FMA peak measured just before: FLOPs that could have been done. */
  readonly peakFlops: Spread;
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

/** Seconds per run of `repeats` runs enqueued together; waits only at the end. */
export async function time(candidate: Pick<Candidate, 'run'>, repeats: number, device: Device): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < repeats; ++i) candidate.run();
  await device.synchronize();
  return (performance.now() - start) / 1000 / repeats;
}

/** Times all candidates in turns (A B A B ...), each sample beside a fresh measurement of the device's FMA peak. */
export async function compare(
  candidates: readonly Candidate[],
  device: Device,
  options: TimingOptions,
): Promise<Timing[]> {
  const repeats: number[] = [];
  for (const candidate of candidates) {
    await time(candidate, 1, device); // first use: memory is mapped, code is paged in
    const once = await time(candidate, 1, device);
    repeats.push(Math.max(1, Math.ceil(options.minSeconds / once)));
  }
  const seconds = candidates.map((): number[] => []);
  const peaks = candidates.map((): number[] => []);
  for (let sample = 0; sample < options.samples; ++sample) {
    for (const [i, candidate] of candidates.entries()) {
      const peak = await device.measurePeakFlops(0.01);
      const taken = await time(candidate, repeats[i] ?? 1, device);
      seconds[i]?.push(taken);
      peaks[i]?.push(taken * peak);
    }
  }
  return candidates.map((_, i) => ({ seconds: spread(seconds[i] ?? []), peakFlops: spread(peaks[i] ?? []) }));
}
