// Seeded draws of sizes and values.
import { uniform } from './random.js';

export class Draw {
  readonly #next: () => number;

  /** `wide`: sizes up to what the caller of `size` says. */
  constructor(
    seed: number,
    readonly wide = false,
  ) {
    this.#next = uniform(seed);
  }

  /** An integer in [0, limit). */
  below(limit: number): number {
    return Math.floor(this.#next() * limit);
  }

  chance(probability: number): boolean {
    return this.#next() < probability;
  }

  pick<T>(list: readonly T[]): T {
    return list[this.below(list.length)] as T;
  }

  /** An axis: wide, up to `most`; else mostly tiny, now and then wider than a vector or a tile. */
  size(most = 64): number {
    if (this.wide) return 1 + this.below(most);
    return this.chance(0.95) ? 1 + this.below(5) : this.pick([8, 17, 33, 64]);
  }

  /** Ordinary numbers in [-1, 1). */
  floats(count: number): Float32Array {
    return new Float32Array(count).map(() => 2 * this.#next() - 1);
  }

  integers(count: number, limit: number): Int32Array {
    return new Int32Array(count).map(() => this.below(limit));
  }
}
