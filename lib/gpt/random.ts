/** Random numbers whose state fits a checkpoint. */
import { createHash } from 'node:crypto';

/** xoshiro128** by Blackman and Vigna: 128 bits of state that fit a checkpoint as four int32. */
export class Random {
  private constructor(
    private a: number,
    private b: number,
    private c: number,
    private d: number,
  ) {}

  /** Different `stream`s of one seed are independent: data order, each parameter, text samples. */
  static seeded(seed: number, stream: string): Random {
    const digest = createHash('sha256').update(`${seed}/${stream}`).digest();
    const word = (i: number) => digest.readInt32LE(4 * i);
    return new Random(word(0), word(1), word(2), word(3));
  }

  static fromState(state: Int32Array): Random {
    const [a = 0, b = 0, c = 0, d = 0] = state;
    return new Random(a, b, c, d);
  }

  get state(): Int32Array {
    return Int32Array.of(this.a, this.b, this.c, this.d);
  }

  /** Uniform 32-bit unsigned integer. */
  next(): number {
    const product = Math.imul(this.b, 5);
    const result = Math.imul((product << 7) | (product >>> 25), 9);
    const shifted = this.b << 9;
    this.c ^= this.a;
    this.d ^= this.b;
    this.b ^= this.c;
    this.a ^= this.d;
    this.c ^= shifted;
    this.d = (this.d << 11) | (this.d >>> 21);
    return result >>> 0;
  }

  /** Uniform in [0, 1). */
  uniform(): number {
    return this.next() / 2 ** 32;
  }

  /** Standard normal (Box-Muller; the second value is dropped to keep the state small). */
  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.uniform())) * Math.cos(2 * Math.PI * this.uniform());
  }

  /** Uniform integer in [0, n). */
  below(n: number): number {
    return Math.floor(this.uniform() * n);
  }
}
