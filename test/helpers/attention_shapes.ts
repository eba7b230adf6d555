// Shapes of attention, for its description and for that of the mean over its heads.
import { activation, type Case, type Input, wideTypes } from './op.js';
import { integers, normal } from './random.js';

export interface AttentionOptions {
  causal: boolean;
  scale?: number; // default: left to the op
}

export interface AttentionSizes {
  batch?: number; // B, default 1
  time: number | readonly [timeQ: number, timeK: number];
  heads: number | readonly [heads: number, keyHeads: number];
  width: number | readonly [width: number, valueWidth: number];
  causal?: boolean; // default true
  scale?: number;
  inputScale?: number; // of q, k and v
  seed?: number;
}

const both = <Value>(value: Value | readonly [Value, Value]): readonly [Value, Value] =>
  Array.isArray(value) ? (value as unknown as readonly [Value, Value]) : [value as Value, value as Value];

/** Numbers in pairs: the first is 2^15, -2^15 or 2^14, the second `second` times a normal one. */
const powers = (shape: readonly number[], second: number): Input => ({
  shape,
  role: 'activation',
  values: (seed) => {
    const values = normal(shape, seed, second);
    const drawn = integers(values.length, seed, 3);
    return values.map((value, i) => (i % 2 === 0 ? [2 ** 15, -(2 ** 15), 2 ** 14][drawn[i]] : value));
  },
});

/**
 * Scores of 2^30 * scale, in whose exact differences f32 has no say: several keys of a query have the largest, and differ
 * where the query is 0.
 */
export function hugeScores(sizes: Omit<AttentionSizes, 'inputScale'> & { scale: number }): Case<AttentionOptions> {
  const item = attentionOf({ ...sizes, inputScale: 2 ** 15 });
  const { q, k, gradOutput } = item.inputs;
  const values = attentionOf(sizes).inputs.v;
  const inputs = { q: powers(q.shape, 0), k: powers(k.shape, 2 ** 13), v: values, gradOutput };
  return { ...item, dtypes: wideTypes, inputs };
}

/** Of either sign, 0, nearly 0, and large enough to saturate the softmax. */
export const scales = [-0.3, 0, 1e-3, 4, -4] as const;

/** q [B, Tq, Hq, Dqk], k [B, Tk, Hkv, Dqk], v [B, Tk, Hkv, Dv] */
export function attentionOf(sizes: AttentionSizes): Case<AttentionOptions> {
  const { batch = 1, causal = true, scale, inputScale = 1, seed = 201 } = sizes;
  const [timeQ, timeK] = both(sizes.time);
  const [heads, keyHeads] = both(sizes.heads);
  const [width, valueWidth] = both(sizes.width);
  const times = inputScale === 1 ? '' : ` x${inputScale}`;
  const mask = `${causal ? 'causal' : 'full'}${times}${scale === undefined ? '' : ` scale=${scale}`}`;
  return {
    label: `B=${batch} T=${timeQ}/${timeK} H=${heads}/${keyHeads} D=${width}/${valueWidth} ${mask}`,
    options: scale === undefined ? { causal } : { causal, scale },
    seed,
    inputs: {
      q: activation([batch, timeQ, heads, width], inputScale),
      k: activation([batch, timeK, keyHeads, width], inputScale),
      v: activation([batch, timeK, keyHeads, valueWidth], inputScale),
      gradOutput: activation([batch, timeQ, heads, valueWidth]),
    },
  };
}
