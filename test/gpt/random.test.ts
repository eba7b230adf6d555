/** The generator behind data order and samples: its published algorithm, its streams, and what is made of its words. */
import { createHash } from 'node:crypto';
import { expect, test } from 'vitest';
import { Random } from '../../lib/gpt/random.js';

const take = (random: Random, count: number) => Array.from({ length: count }, () => random.next());
const mean = (values: readonly number[]) => values.reduce((sum, value) => sum + value, 0) / values.length;

/** Made by the authors' xoshiro128starstar.c from the state 1, 2, 3, 4. */
const WORDS = [11520, 0, 5927040, 70819200, 2031721883, 1637235492, 1287239034, 3734860849, 3729100597, 4258142804];

test('is xoshiro128**', () => {
  const random = Random.fromState(Int32Array.of(1, 2, 3, 4));
  expect(take(random, 10)).toEqual(WORDS);
  expect([...new Uint32Array(random.state.buffer)]).toEqual([939045227, 1864939416, 1451579149, 2199351389]);
  expect(take(random, 991).at(-1)).toBe(136054147);
});

test('goes on from a state that was kept', () => {
  const random = Random.fromState(Int32Array.of(1, 2, 3, 4));
  take(random, 4);
  expect(take(Random.fromState(random.state), 6)).toEqual(WORDS.slice(4));
});

test('seed and stream choose the state: the first 128 bits of their SHA-256', () => {
  const digest = createHash('sha256').update('7/batches').digest();
  const state = Int32Array.from({ length: 4 }, (_, i) => digest.readInt32LE(4 * i));
  expect(Random.seeded(7, 'batches').state).toEqual(state);
  const firsts = [
    [7, 'batches'],
    [8, 'batches'],
    [7 + 2 ** 32, 'batches'],
    [7, 'sample'],
  ].map(([seed, stream]) => Random.seeded(seed as number, stream as string).next());
  expect(new Set(firsts).size).toBe(firsts.length);
});

test('uniform is the word over 2^32, always below 1', () => {
  const random = Random.fromState(Int32Array.of(1, 2, 3, 4));
  expect(Array.from({ length: 10 }, () => random.uniform())).toEqual(WORDS.map((word) => word / 2 ** 32));
});

test('below(n) draws every integer from 0 to n - 1 alike', () => {
  const random = Random.seeded(1, 'below');
  const counts = new Array<number>(10).fill(0);
  for (let i = 0; i < 20_000; ++i) {
    const drawn = random.below(10);
    counts[drawn] = (counts[drawn] ?? Number.NaN) + 1;
  }
  expect(counts).toHaveLength(10);
  // 2,000 each, with a standard deviation of 42.
  for (const count of counts) expect(Math.abs(count - 2000)).toBeLessThan(250);
  expect(random.below(1)).toBe(0);
});

test('normal has mean 0, variance 1, the tails of a normal distribution, and no two values alike', () => {
  const random = Random.seeded(2, 'normal');
  const values = Array.from({ length: 20_000 }, () => random.normal());
  expect(new Set(values).size).toBe(values.length);
  expect(Math.abs(mean(values))).toBeLessThan(0.03);
  expect(Math.abs(mean(values.map((x) => x ** 2)) - 1)).toBeLessThan(0.05);
  expect(Math.abs(mean(values.map((x) => x ** 4)) - 3)).toBeLessThan(0.4);
});
