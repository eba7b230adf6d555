// Sums of thousands of terms keep the limits of short ones (docs/precision-and-determinism.md): each op that adds up rows, keys,
// queries or inputs, in f32, on data where a single chain of additions loses digits. Judged by float64 alone: an unfused twin
// with the same chain would excuse it.
import { describe, expect, it } from 'vitest';
import { ops, Tensor } from '../../lib/index.js';
import { faultOf, limit, relativeError } from '../helpers/compare.js';
import { device, emulated, timeout } from '../helpers/parity.js';
import { normal } from '../helpers/random.js';
import { array64, expand, expandBackward } from '../reference/index.js';

/** Term i of a sum, by the name of the data: around `value`, or normal. */
const kinds = {
  constant: (value: number) => () => value,
  'same sign': (value: number, noise: Float32Array) => (i: number) => value * (1 + 0.01 * noise[i]),
  normal: (_: number, noise: Float32Array) => (i: number) => noise[i],
} as const;
type Kind = keyof typeof kinds;

/** Begins anew in each test: whether a sum of normal numbers comes near 0, where it has no digits to keep, is drawn once. */
let seed = 0;
const draw = (kind: Kind, size: number, value: number): Float32Array => {
  const term = kinds[kind](value, normal([size], ++seed));
  return Float32Array.from({ length: size }, (_, i) => term(i));
};
const upload = (data: Float32Array, ...shape: number[]) => Tensor.from(data, shape, { device });
const truth = (size: number, value: (i: number) => number) => Float64Array.from({ length: size }, (_, i) => value(i));
const total = (terms: number, term: (i: number) => number) => {
  let sum = 0;
  for (let i = 0; i < terms; i++) sum += term(i);
  return sum;
};

type Checks = Record<string, readonly [actual: Tensor, expected: Float64Array, 'output' | 'gradient']>;

/** Every result within its limit, and its unfused twin. */
async function expectAll(
  computation: string,
  kind: Kind,
  checks: Checks,
  naive: Record<string, Tensor> = {},
): Promise<void> {
  const faults: (string | undefined)[] = [];
  for (const [name, [actual, expected, role]] of Object.entries(checks)) {
    const twin = naive[name];
    const naiveError = twin && kind === 'normal' ? relativeError(await twin.data(), expected) : 0;
    const bound = limit('f32', role, naiveError);
    faults.push(faultOf(relativeError(await actual.data(), expected), bound, `${computation}: ${kind}, ${name}`));
    // The second opinion has to be exact as well.
    if (!twin || kind === 'normal') continue;
    faults.push(faultOf(relativeError(await twin.data(), expected), bound, `${computation}: ${kind}, naive ${name}`));
  }
  expect(faults.filter((fault) => fault !== undefined)).toEqual([]);
}

/** [rows, columns] of a function of both. */
const table = (rows: number, columns: number, value: (row: number, column: number) => number) =>
  truth(rows * columns, (i) => value(Math.floor(i / columns), i % columns));

/** By what is summed over; every computation has sums of `n` terms. */
const computations: Record<string, (n: number, kind: Kind) => [checks: Checks, naive?: Record<string, Tensor>]> = {
  'linear, n inputs'(n, kind) {
    const [x, w, bias] = [draw(kind, 2 * n, 1), draw(kind, 3 * n, 0.1), draw(kind, 3, 1)];
    const output = ops.linear(upload(x, 2, n), upload(w, 3, n), upload(bias, 3));
    const expected = table(2, 3, (r, o) => bias[o] + total(n, (j) => x[r * n + j] * w[o * n + j]));
    return [{ output: [output, expected, 'output'] }];
  },

  'linearBackward, n outputs'(n, kind) {
    const [g, w, x] = [draw(kind, 2 * n, 1), draw(kind, n * 3, 0.1), draw(kind, 2 * 3, 1)];
    const { gradX } = ops.linearBackward(upload(g, 2, n), upload(x, 2, 3), upload(w, n, 3));
    const expected = table(2, 3, (r, i) => total(n, (o) => g[r * n + o] * w[o * 3 + i]));
    return [{ gradX: [gradX, expected, 'gradient'] }];
  },

  'linearBackward, n rows'(n, kind) {
    const [g, x] = [draw(kind, n * 2, 0.1), draw(kind, n * 3, 1)];
    const result = ops.linearBackward(upload(g, n, 2), upload(x, n, 3), upload(draw(kind, 6, 1), 2, 3));
    return [
      {
        gradWeight: [
          result.gradWeight,
          table(2, 3, (o, i) => total(n, (r) => g[r * 2 + o] * x[r * 3 + i])),
          'gradient',
        ],
        gradBias: [result.gradBias, truth(2, (o) => total(n, (r) => g[r * 2 + o])), 'gradient'],
      },
    ];
  },

  // Two queries that see all keys with nearly the same weight; features of v are of one sign and of alternating ones.
  'attention, n keys'(n, kind) {
    const [q, noise] = [draw(kind, 4, 0.01), draw(kind, n, 1)];
    const k = Float32Array.from({ length: 2 * n }, (_, i) => (i % 2 ? 1 : i % 4 ? -1 : 1) * noise[i >> 1]);
    const v = Float32Array.from({ length: 2 * n }, (_, i) => (i % 2 ? noise[i >> 1] : i % 4 ? -1 : 1));
    const g = Float32Array.of(1, 0, 1, 0); // only the alternating feature has a gradient
    const operands = [upload(q, 1, 2, 1, 2), upload(k, 1, n, 1, 2), upload(v, 1, n, 1, 2)] as const;
    const options = { causal: false, scale: 1 };
    const softmax = [0, 1].map((i) => {
      const exps = truth(n, (j) => Math.exp(q[2 * i] * k[2 * j] + q[2 * i + 1] * k[2 * j + 1]));
      const sum = total(n, (j) => exps[j]);
      return { weights: exps.map((value) => value / sum), logSumExp: Math.log(sum) };
    });
    const output = table(2, 2, (i, d) => total(n, (j) => softmax[i].weights[j] * v[2 * j + d]));
    const gradQ = table(2, 2, (i, d) =>
      total(n, (j) => softmax[i].weights[j] * (v[2 * j] - output[2 * i]) * g[2 * i] * k[2 * j + d]),
    );
    const [saved, twin] = [ops.attention(...operands, options), ops.naive.attention(...operands, options)];
    const from = { q: operands[0], k: operands[1], v: operands[2] };
    const gradient = upload(g, 1, 2, 1, 2);
    const backward = ops.attentionBackward(gradient, { ...from, ...saved }, options);
    const naive = ops.naive.attentionBackward(gradient, { ...from, ...twin }, options);
    return [
      {
        output: [saved.output, output, 'output'],
        logSumExp: [saved.logSumExp, truth(2, (i) => softmax[i].logSumExp), 'output'],
        gradQ: [backward.gradQ, gradQ, 'gradient'],
      },
      { output: twin.output, logSumExp: twin.logSumExp, gradQ: naive.gradQ },
    ];
  },

  // The reference that weights are measured from moves all the way; most of the weight lies in the last fortieth.
  'attention, n keys of rising scores'(n, kind) {
    const v = draw(kind, n, 1);
    const k = Float32Array.from({ length: n }, (_, j) => (40 * j) / n);
    const [q, g] = [Float32Array.of(1), Float32Array.of(1)];
    const operands = [upload(q, 1, 1, 1, 1), upload(k, 1, n, 1, 1), upload(v, 1, n, 1, 1)] as const;
    const options = { causal: false, scale: 1 };
    const exps = truth(n, (j) => Math.exp(k[j] - 40));
    const sum = total(n, (j) => exps[j]);
    const { output, logSumExp } = ops.attention(...operands, options);
    const from = { q: operands[0], k: operands[1], v: operands[2] };
    const { gradV } = ops.attentionBackward(upload(g, 1, 1, 1, 1), { ...from, output, logSumExp }, options);
    const twin = ops.naive.attention(...operands, options);
    return [
      {
        output: [output, truth(1, () => total(n, (j) => exps[j] * v[j]) / sum), 'output'],
        logSumExp: [logSumExp, truth(1, () => 40 + Math.log(sum)), 'output'],
        gradV: [gradV, exps.map((value) => value / sum), 'gradient'],
      },
      { output: twin.output },
    ];
  },

  // Two keys, which all queries see; their gradients are of one sign.
  'attentionBackward, n queries'(n, kind) {
    const [q, g] = [draw(kind, n, 0.1), draw(kind, n, 1)];
    const [k, v] = [Float32Array.of(0.3, -0.2), Float32Array.of(1, -1)];
    const operands = [upload(q, 1, n, 1, 1), upload(k, 1, 2, 1, 1), upload(v, 1, 2, 1, 1)] as const;
    const options = { causal: false, scale: 1 };
    const first = truth(n, (i) => 1 / (1 + Math.exp(q[i] * (k[1] - k[0])))); // weight of key 0
    const weight = (i: number, j: number) => (j ? 1 - first[i] : first[i]);
    const gradScore = (i: number, j: number) => weight(i, j) * g[i] * (v[j] - (2 * first[i] - 1));
    const [saved, twin] = [ops.attention(...operands, options), ops.naive.attention(...operands, options)];
    const from = { q: operands[0], k: operands[1], v: operands[2] };
    const gradient = upload(g, 1, n, 1, 1);
    const backward = ops.attentionBackward(gradient, { ...from, ...saved }, options);
    const naive = ops.naive.attentionBackward(gradient, { ...from, ...twin }, options);
    return [
      {
        gradK: [backward.gradK, truth(2, (j) => total(n, (i) => gradScore(i, j) * q[i])), 'gradient'],
        gradV: [backward.gradV, truth(2, (j) => total(n, (i) => weight(i, j) * g[i])), 'gradient'],
      },
      { gradK: naive.gradK, gradV: naive.gradV },
    ];
  },

  // One head of one feature to one head of one: C1 and Z1 are positive, so that all gradients are plain sums.
  'expandBackward, n tokens'(n, kind) {
    const [x, g] = [draw(kind, n, 1).map(Math.abs), draw(kind, n, 0.1)];
    const [w1, b1, w2, b2, w3, b3, w4, b4] = [0.7, 0.1, 0.4, 0.2, 0.9, 0.3, 0.5, 0.6].map(Math.fround);
    const one = (value: number, ...shape: number[]) => upload(Float32Array.of(value), ...shape);
    const weights: ops.ExpandWeights = {
      headWeight: one(w1, 1, 1, 1),
      headBias: one(b1, 1),
      headResidualWeight: one(w2, 1, 1, 1),
      headResidualBias: one(b2, 1),
      featureWeight: one(w3, 1, 1),
      featureBias: one(b3, 1),
      featureResidualWeight: one(w4, 1, 1),
      featureResidualBias: one(b4, 1),
    };
    const c = (i: number) => w1 * x[i] + b1;
    const y = (i: number) => c(i) * (1 + w2) + b2;
    const z = (i: number) => w3 * y(i) + b3;
    const [toZ, toY, toC] = [1 + w4, (1 + w4) * w3, (1 + w4) * w3 * (1 + w2)];
    const sum = (factor: number, of: (i: number) => number) => truth(1, () => factor * total(n, (i) => g[i] * of(i)));
    const expected: Record<keyof ops.ExpandWeights, Float64Array> = {
      headWeight: sum(toC, (i) => x[i]),
      headBias: sum(toC, () => 1),
      headResidualWeight: sum(toY, c),
      headResidualBias: sum(toY, () => 1),
      featureWeight: sum(toZ, y),
      featureBias: sum(toZ, () => 1),
      featureResidualWeight: sum(1, z),
      featureResidualBias: sum(1, () => 1),
    };
    const [input, gradient] = [upload(x, 1, n, 1, 1), upload(g, 1, n, 1, 1)];
    const { gradWeights } = ops.expandBackward(gradient, input, weights);
    // A product of every token: the emulated device has no time for many. The sums of the unfused ops are those of `linear`.
    const naive = emulated && n > 2048 ? {} : ops.naive.expandBackward(gradient, input, weights).gradWeights;
    const checks = Object.entries(gradWeights).map(([name, actual]: [string, Tensor]) => [
      name,
      [actual, expected[name as keyof ops.ExpandWeights], 'gradient'] as const,
    ]);
    return [Object.fromEntries(checks), { ...naive } as Record<string, Tensor>];
  },

  // Rows of n features; of normal ones, since the others have next to no deviation.
  'layerNorm and rmsNorm, n features'(n) {
    const [x, g] = [draw('normal', n, 1), draw('normal', n, 1)];
    const [weight, bias] = [upload(new Float32Array(n).fill(1), n), upload(new Float32Array(n), n)];
    const mean = total(n, (i) => x[i]) / n;
    const rstd = 1 / Math.sqrt(total(n, (i) => (x[i] - mean) ** 2) / n + 1e-5);
    const rms = 1 / Math.sqrt(total(n, (i) => x[i] ** 2) / n + 1e-6);
    const [meanG, product] = [total(n, (i) => g[i]) / n, total(n, (i) => g[i] * (x[i] - mean) * rstd) / n];
    const [input, gradient] = [upload(x, 1, n), upload(g, 1, n)];
    const layer = ops.layerNorm(input, weight, bias);
    const root = ops.rmsNorm(input, weight);
    const backward = ops.layerNormBackward(gradient, { x: input, weight, mean: layer.mean, rstd: layer.rstd });
    const rootBackward = ops.rmsNormBackward(upload(x, 1, n), { x: input, weight, rstd: root.rstd });
    return [
      {
        layerNorm: [layer.output, truth(n, (i) => (x[i] - mean) * rstd), 'output'],
        rmsNorm: [root.output, truth(n, (i) => x[i] * rms), 'output'],
        gradX: [backward.gradX, truth(n, (i) => rstd * (g[i] - meanG - (x[i] - mean) * rstd * product)), 'gradient'],
        gradWeight: [rootBackward.gradWeight, truth(n, (i) => x[i] ** 2 * rms), 'gradient'],
      },
    ];
  },

  'layerNormBackward and rmsNormBackward, n rows'(n, kind) {
    const g = draw(kind, 2 * n, 0.1);
    const x = Float32Array.from({ length: 2 * n }, (_, i) => (i % 2 ? -1 : 1)); // normalised as it is
    const weight = upload(Float32Array.of(1, 1), 2);
    const [mean, rstd] = [upload(new Float32Array(n), n), upload(new Float32Array(n).fill(1), n)];
    const [input, gradient] = [upload(x, n, 2), upload(g, n, 2)];
    const layer = ops.layerNormBackward(gradient, { x: input, weight, mean, rstd });
    const root = ops.rmsNormBackward(gradient, { x: input, weight, rstd });
    const gradWeight = truth(2, (d) => total(n, (r) => g[2 * r + d] * x[2 * r + d]));
    return [
      {
        gradWeight: [layer.gradWeight, gradWeight, 'gradient'],
        gradBias: [layer.gradBias, truth(2, (d) => total(n, (r) => g[2 * r + d])), 'gradient'],
        'gradWeight of rmsNorm': [root.gradWeight, gradWeight, 'gradient'],
      },
    ];
  },

  'embeddingBackward, one token n times'(n, kind) {
    const g = draw(kind, 2 * n, 0.1);
    const tokens = Tensor.from(new Int32Array(n).fill(1), [n, 1], { device });
    const tables = ops.embeddingBackward(upload(g, n, 1, 2), tokens, { vocabulary: 2, positions: 1 });
    const sums = (d: number) => total(n, (r) => g[2 * r + d]);
    return [
      {
        gradTokenTable: [tables.gradTokenTable, table(2, 2, (token, d) => (token ? sums(d) : 0)), 'gradient'],
        gradPositionTable: [tables.gradPositionTable as Tensor, truth(2, sums), 'gradient'],
      },
    ];
  },

  'crossEntropy, n classes'(n, kind) {
    const logits = draw(kind, n, 1);
    const targets = Tensor.from(Int32Array.of(n >> 1), [1], { device });
    const input = upload(logits, 1, n);
    const { loss, logSumExp } = ops.crossEntropy(input, targets);
    const gradLogits = ops.crossEntropyBackward(upload(Float32Array.of(1)), { logits: input, targets, logSumExp });
    const sum = total(n, (j) => Math.exp(logits[j]));
    return [
      {
        loss: [loss, truth(1, () => Math.log(sum) - logits[n >> 1]), 'output'],
        gradLogits: [gradLogits, truth(n, (j) => Math.exp(logits[j]) / sum - (j === n >> 1 ? 1 : 0)), 'gradient'],
      },
    ];
  },

  'crossEntropy, n rows'(n, kind) {
    const logits = draw(kind, 2 * n, 1);
    const targets = Tensor.from(new Int32Array(n), [n], { device });
    const { loss } = ops.crossEntropy(upload(logits, n, 2), targets);
    const term = (r: number) => Math.log1p(Math.exp(logits[2 * r + 1] - logits[2 * r]));
    return [{ loss: [loss, truth(1, () => total(n, term) / n), 'output'] }];
  },

  'clipGradNorm, n elements'(n, kind) {
    const g = draw(kind, n, 0.1);
    const norm = Math.sqrt(total(n, (i) => g[i] ** 2));
    return [{ norm: [ops.clipGradNorm([upload(g, n)], 1e9), truth(1, () => norm), 'output'] }];
  },
};

// On the emulated device 16,384 terms reach every level of the sums, since it has three multiprocessors, and take a minute.
const lengths = [2048, 16_384, ...(emulated && process.env.SAS_LONGEST_SUMS !== '1' ? [] : [131_072])];

describe.each(Object.keys(kinds) as Kind[])('%s', { timeout }, (kind) => {
  describe.each(lengths)('%i terms', (n) => {
    it.each(Object.entries(computations))('%s', async (computation, compute) => {
      seed = 80;
      await expectAll(computation, kind, ...compute(n, kind));
    });
  });
});

const convolutions = 'expand and expandBackward, convolutions of 700 inputs';
it(convolutions, { timeout }, async () => {
  seed = 80;
  const [heads, simHeads, taps, width] = [2, 100, 7, 8];
  const drawn = (value: number, ...shape: number[]) => {
    const data = draw(
      'same sign',
      shape.reduce((size, extent) => size * extent),
      value,
    );
    return { tensor: upload(data, ...shape), exact: array64(data, shape) };
  };
  const [x, g] = [drawn(1, 1, 3, heads, width), drawn(1, 1, 3, simHeads, width)];
  const weights = {
    headWeight: drawn(0.1, simHeads, heads, taps),
    headBias: drawn(0.1, simHeads),
    headResidualWeight: drawn(0.01, simHeads, simHeads, taps),
    headResidualBias: drawn(0.1, simHeads),
  };
  const part = <Key extends 'tensor' | 'exact'>(key: Key) =>
    Object.fromEntries(Object.entries(weights).map(([name, both]) => [name, both[key]])) as {
      [Name in keyof typeof weights]: (typeof weights)[Name][Key];
    };
  const expected = expandBackward(g.exact, x.exact, part('exact'));
  const { gradX, gradWeights } = ops.expandBackward(g.tensor, x.tensor, part('tensor'));
  await expectAll(convolutions, 'same sign', {
    output: [ops.expand(x.tensor, part('tensor')), expand(x.exact, part('exact')).data, 'output'],
    gradX: [gradX, expected.gradX.data, 'gradient'],
    headWeight: [gradWeights.headWeight, expected.gradWeights.headWeight.data, 'gradient'],
  });
});
