/** Copies between [1, T, H, D] and [H, T, D], the layout that batched matrix products take. */
import { HEADS, WIDTH } from './contest.js';

function copied(
  data: Float32Array,
  target: (t: number, h: number) => number,
  source: (t: number, h: number) => number,
) {
  const length = data.length / (HEADS * WIDTH);
  const result = new Float32Array(data.length);
  for (let t = 0; t < length; ++t) {
    for (let h = 0; h < HEADS; ++h) result.set(data.subarray(source(t, h), source(t, h) + WIDTH), target(t, h));
  }
  return result;
}

const timeFirst = (t: number, h: number) => (t * HEADS + h) * WIDTH;
const headFirst = (length: number) => (t: number, h: number) => (h * length + t) * WIDTH;

/** [1, T, H, D] -> [H, T, D] */
export const toHeadsFirst = (data: Float32Array): Float32Array =>
  copied(data, headFirst(data.length / (HEADS * WIDTH)), timeFirst);

/** [H, T, D] -> [1, T, H, D] */
export const fromHeadsFirst = (data: Float32Array): Float32Array =>
  copied(data, timeFirst, headFirst(data.length / (HEADS * WIDTH)));

/** Additive [T, T]: 0 where query i sees key j, a number that no score makes up for where j > i. */
export const causalMask = (length: number): Float32Array =>
  Float32Array.from({ length: length * length }, (_, i) => (i % length > Math.floor(i / length) ? -1e30 : 0));
