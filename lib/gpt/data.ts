// Text as tokens, one per byte where nothing else is asked for. The first nine tenths train, the last tenth validates.

import { createHash } from 'node:crypto';
import { UsageError } from '../failure.js';
import type { Random } from './random.js';

/** Sizes of the vocabularies: bytes, and the byte pairs of GPT-2. */
export const VOCABULARIES = { bytes: 256, r50k: 50257 } as const;
export type Tokenizer = keyof typeof VOCABULARIES;

/** Token ids, as narrow as the vocabulary allows. */
export type Tokens = Uint8Array | Uint16Array;

export interface TextData {
  /** For titles: the path, or the book's title. */
  name: string;
  train: Tokens;
  validation: Tokens;
  /** SHA-256 of all bytes: a resumed run must see the same text. */
  hash: string;
}

/** Tokens and next-token targets of one step, both [batch, seq]. */
export interface Batch {
  tokens: Int32Array;
  targets: Int32Array;
}

/** Where a text comes from; `read` throws UsageError. */
export interface TextSource {
  readonly name: string;
  read(): Uint8Array | Promise<Uint8Array>;
}

type Encode = (text: Uint8Array) => Tokens;

/** The text of a source, ready to train on. */
export const loadText = async ({ name, read }: TextSource, seq: number, encode?: Encode): Promise<TextData> =>
  splitText(name, await read(), seq, encode);

/** Both parts must hold at least one sequence of `seq` tokens and its last target. */
export function splitText(name: string, bytes: Uint8Array, seq: number, encode: Encode = (text) => text): TextData {
  const tokens = encode(bytes);
  const validationStart = Math.floor(tokens.length * 0.9);
  if (tokens.length - validationStart < seq + 1) {
    const needed = 10 * (seq + 1);
    const unit = tokens === bytes ? 'bytes' : 'tokens';
    throw new UsageError(
      `text '${name}' is too short: ${tokens.length} ${unit}, --seq ${seq} needs at least ${needed} (a tenth validates)`,
    );
  }
  return {
    name,
    train: tokens.subarray(0, validationStart),
    validation: tokens.subarray(validationStart),
    hash: createHash('sha256').update(bytes).digest('hex'),
  };
}

/** Sequences that begin at the given tokens. */
function batchAt(text: Tokens, starts: readonly number[], seq: number): Batch {
  const tokens = new Int32Array(starts.length * seq);
  const targets = new Int32Array(starts.length * seq);
  starts.forEach((start, b) => {
    tokens.set(text.subarray(start, start + seq), b * seq);
    targets.set(text.subarray(start + 1, start + seq + 1), b * seq);
  });
  return { tokens, targets };
}

/** A batch of sequences at random positions of the training text. */
export function sampleBatch(text: Tokens, random: Random, batch: number, seq: number): Batch {
  const starts = Array.from({ length: batch }, () => random.below(text.length - seq));
  return batchAt(text, starts, seq);
}

/** The same batches at every validation of every run: sequences spread evenly over the validation text. */
export function validationBatches(text: Tokens, count: number, batch: number, seq: number): Batch[] {
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
