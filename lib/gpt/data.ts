// Text as tokens, one per byte where nothing else is asked for. The first nine tenths train, the last tenth validates.

import { createHash } from 'node:crypto';
import { readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
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
  read(): Uint8Array;
}

/** Files of a folder and its folders, in the order of their paths; hidden and binary ones (they hold a zero) are left out. */
function readFolder(folder: string): Uint8Array {
  const parts: Uint8Array[] = [];
  const add = (path: string) => {
    const entries = readdirSync(path, { withFileTypes: true }).sort((a, b) => (a.name < b.name ? -1 : 1));
    for (const entry of entries) {
      const file = join(path, entry.name);
      if (entry.name.startsWith('.')) continue;
      if (entry.isDirectory()) add(file);
      if (!entry.isFile()) continue;
      const bytes = readFileSync(file);
      if (!bytes.includes(0)) parts.push(bytes, Buffer.from('\n\n'));
    }
  };
  add(folder);
  return Buffer.concat(parts.slice(0, -1));
}

/** The text of a file, or of all files in a folder. */
export const textAt = (path: string): TextSource => ({
  name: path,
  read() {
    try {
      return statSync(path).isDirectory() ? readFolder(path) : readFileSync(path);
    } catch (error) {
      const code = error instanceof Error && 'code' in error ? error.code : undefined;
      const reason = code === 'ENOENT' ? 'no such file' : `it cannot be read (${String(code ?? error)})`;
      throw new UsageError(`--text '${path}': ${reason}`);
    }
  },
});

/** Both parts must hold at least one sequence of `seq` tokens and its last target. */
export function loadText(
  { name, read }: TextSource,
  seq: number,
  encode: (text: Uint8Array) => Tokens = (text) => text,
): TextData {
  const bytes = read();
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
