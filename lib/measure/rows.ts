/** What a measurement leaves. */
import type { Spread } from './timing.js';
import type { UnitName } from './units.js';

/** The result of one contestant. */
export interface Row {
  readonly case: string;
  /** Tokens per sequence, where there is one. */
  readonly length?: number;
  readonly contestant: string;
  /** Useful FLOPs of one run. */
  readonly flops: number;
  /** Bytes of the tensors that one run reads and writes, each once. */
  readonly bytes?: number;
  /** Of one run, where it is a training step. */
  readonly tokens?: number;
  readonly milliseconds: Spread;
  /** Useful GFLOP/s. */
  readonly gflops: Spread;
  /** What `value` and `target` are stated in; 'percent' is of the FMA peak measured beside each sample. */
  readonly unit: UnitName;
  readonly value: Spread;
  readonly target?: number;
  /** How far the median is from the target, 0 where it is met. */
  readonly missedBy?: number;
}

/** All that was measured with one instruction set. */
export interface IsaRun {
  readonly isa: string;
  /** Median FMA peak, all threads. */
  readonly peakGflops: number;
  /** Bytes read and written by a sum of two tensors far larger than the caches, 10^9 per second. */
  readonly streamGigabytesPerSecond: number;
  readonly rows: readonly Row[];
}
