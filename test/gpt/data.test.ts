/** The text as batches: what trains and what validates share nothing, and every target is the token that follows. */
import { createHash } from 'node:crypto';
import { describe, expect, it, test } from 'vitest';
import { type Batch, loadText, sampleBatch, type Tokens, validationBatches } from '../../lib/gpt/data.js';
import { Random } from '../../lib/gpt/random.js';

const SEQ = 8;
/** Token i is i + 1, so that a token says where it stands and nothing that was left out looks like one. */
const counting = (length: number) => Uint16Array.from({ length }, (_, i) => i + 1);
const textOf = (bytes: Uint8Array) => ({ name: 'a text', read: () => bytes });
const rows = (values: Int32Array, seq: number) =>
  Array.from({ length: values.length / seq }, (_, row) => [...values.subarray(row * seq, (row + 1) * seq)]);

/** Starts of the sequences, each of which is whole, in order, and followed by its targets. */
function startsOf(text: Tokens, { tokens, targets }: Batch, seq: number): number[] {
  expect(tokens.length).toBe(targets.length);
  const targetRows = rows(targets, seq);
  return rows(tokens, seq).map((row, b) => {
    const start = text.indexOf(row[0] ?? Number.NaN);
    expect(row).toEqual([...text.subarray(start, start + seq)]);
    expect(targetRows[b]).toEqual([...text.subarray(start + 1, start + seq + 1)]);
    return start;
  });
}

describe('loadText', () => {
  it('keeps the last tenth for validation: the parts touch and do not overlap', async () => {
    const bytes = Uint8Array.from({ length: 251 }, (_, i) => i + 1);
    const { train, validation } = await loadText(textOf(bytes), SEQ);
    expect([...train, ...validation]).toEqual([...bytes]);
    expect([train.length, validation.length]).toEqual([225, 26]);
  });

  it('splits tokens, not bytes, and hashes the bytes', async () => {
    const bytes = Uint8Array.from({ length: 200 }, (_, i) => i + 1);
    const pairs = (text: Uint8Array) => counting(text.length / 2);
    const { train, validation, hash } = await loadText(textOf(bytes), SEQ, pairs);
    expect([train.length, validation.length]).toEqual([90, 10]);
    expect([...train, ...validation]).toEqual([...counting(100)]);
    expect(hash).toBe(createHash('sha256').update(bytes).digest('hex'));
  });

  it('gives another hash where one byte differs', async () => {
    const bytes = new Uint8Array(200).fill(97);
    const { hash } = await loadText(textOf(bytes), SEQ);
    bytes[150] = 98;
    expect((await loadText(textOf(bytes), SEQ)).hash).not.toBe(hash);
  });

  it('wants a validation text of one sequence and its last target', async () => {
    const ofLength = async (length: number) => loadText(textOf(new Uint8Array(length)), SEQ);
    expect((await ofLength(81)).validation.length).toBe(SEQ + 1);
    await expect(ofLength(80)).rejects.toThrow("text 'a text' is too short: 80 bytes, --seq 8 needs at least 90");
  });
});

describe('sampleBatch', () => {
  test.each([1, 2, 5])('of a text with room for %i sequences draws each of them, and no other', (room) => {
    const text = counting(SEQ + room);
    const random = Random.seeded(3, 'batches');
    const starts = Array.from({ length: 100 }, () => startsOf(text, sampleBatch(text, random, 4, SEQ), SEQ)).flat();
    expect([...new Set(starts)].sort()).toEqual(Array.from({ length: room }, (_, i) => i));
  });

  it('draws sequences of one batch independently, and others in the next', () => {
    const text = counting(10_000);
    const random = Random.seeded(3, 'batches');
    const batches = [0, 1].map(() => startsOf(text, sampleBatch(text, random, 16, SEQ), SEQ));
    expect(new Set(batches.flat()).size).toBeGreaterThan(28);
    const again = Random.seeded(3, 'batches');
    expect(startsOf(text, sampleBatch(text, again, 16, SEQ), SEQ)).toEqual(batches[0]);
    const spread = batches.flat();
    expect(Math.min(...spread)).toBeLessThan(2000);
    expect(Math.max(...spread)).toBeGreaterThan(8000);
  });
});

describe('validationBatches', () => {
  it('spreads sequences evenly from the first token to the last', () => {
    const text = counting(1000);
    const batches = validationBatches(text, 3, 4, SEQ);
    expect(batches.map(({ tokens }) => tokens.length)).toEqual([4 * SEQ, 4 * SEQ, 4 * SEQ]);
    const starts = batches.flatMap((batch) => startsOf(text, batch, SEQ));
    // The last one begins at 991: its targets end with token 999, the last of the text.
    expect(starts).toEqual(Array.from({ length: 12 }, (_, i) => Math.floor((i * 991) / 11)));
  });

  it.each([1, 2])('of a text with room for %i sequences stays inside it', (room) => {
    const text = counting(SEQ + room);
    const starts = validationBatches(text, 2, 3, SEQ).flatMap((batch) => startsOf(text, batch, SEQ));
    expect([starts[0], starts.at(-1)]).toEqual([0, room - 1]);
  });

  it('takes the beginning where one sequence is asked for', () => {
    const text = counting(100);
    expect(validationBatches(text, 1, 1, SEQ).flatMap((batch) => startsOf(text, batch, SEQ))).toEqual([0]);
  });
});
