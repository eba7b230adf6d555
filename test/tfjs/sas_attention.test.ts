// The bridge to TensorFlow.js, with the real one: against its own ops, its own gradients and its own optimiser.
import * as tf from '@tensorflow/tfjs';
import { beforeAll, describe, expect, it } from 'vitest';
import {
  ArgumentError,
  DisposedError,
  DTypeError,
  getDevice,
  SasAttention,
  type SasConfig,
  ShapeError,
  scope,
} from '../../lib/index.js';
import { type SasAttentionOptions, sasAttention } from '../../lib/tfjs/index.js';
import { expectError, relativeError, vanishingParameter, vanishingScaleFrom } from '../helpers/compare.js';
import { naiveSasAttention, type Weights } from './naive.js';

beforeAll(async () => {
  await tf.setBackend('cpu');
});

const sizes = { heads: 2, headDim: 8, simHeads: 6, simHeadDim: 12, kernelSize: 3 } satisfies SasConfig;

/** The initial parameters of a module as tensors of TensorFlow.js. */
const weightsOf = (config: SasConfig): Weights =>
  scope(() => {
    const { parameters } = new SasAttention({ ...config, device: getDevice('cpu') });
    return Object.fromEntries(
      [...parameters].map(([name, parameter]) => [name, tf.tensor(parameter.dataSync(), [...parameter.shape])]),
    );
  });

const normal = (shape: [number, number, number, number], seed: number): tf.Tensor4D =>
  tf.randomNormal(shape, 0, 1, 'float32', seed);

const inputs = (B: number, Tq: number, Tk: number, { heads, headDim } = sizes) =>
  [normal([B, Tq, heads, headDim], 1), normal([B, Tk, heads, headDim], 2), normal([B, Tk, heads, headDim], 3)] as const;

const LIMIT = 1e-5; // relative L2 error, of f32 in another order of operations
const cases: [string, number, number, number, SasConfig, SasAttentionOptions][] = [
  ['causal', 2, 17, 17, sizes, {}],
  ['every key, own scale', 1, 9, 9, sizes, { causal: false, scale: 0.5 }],
  ['more keys than queries', 2, 5, 12, sizes, {}],
  ['the linear variant, one group', 1, 8, 8, { ...sizes, simHeads: 2, kernelSize: 1 }, {}],
];

describe.each(cases)('%s', (label, B, Tq, Tk, config, options) => {
  it("gives what TensorFlow.js's own ops give", () => {
    tf.tidy(() => {
      const [q, k, v] = inputs(B, Tq, Tk);
      const weights = weightsOf(config);
      const output = sasAttention(q, k, v, weights, options);
      const expected = naiveSasAttention(q, k, v, weights, options);
      expect(output.shape).toEqual(expected.shape);
      expect(output.dtype).toBe('float32');
      expectError(relativeError(output.dataSync(), expected.dataSync()), LIMIT, `tfjs ${label}: output`);
    });
  });

  it('has their gradients, for q, k, v and every weight', () => {
    tf.tidy(() => {
      const [q, k, v] = inputs(B, Tq, Tk);
      const weights = weightsOf(config);
      const names = Object.keys(weights);
      const xs = [q, k, v, ...Object.values(weights)];
      const gradOutput = tf.randomNormal([B, Tq, config.heads * config.headDim], 0, 1, 'float32', 4);
      const gradients = (f: typeof sasAttention) =>
        tf.grads((...given: tf.Tensor[]) => {
          const [q, k, v, ...rest] = given as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D, ...tf.Tensor[]];
          return f(q, k, v, Object.fromEntries(names.map((name, i) => [name, rest[i]])), options);
        })(xs, gradOutput);
      const ours = gradients(sasAttention);
      const theirs = gradients(naiveSasAttention);
      const norm = (name: string) => tf.norm(theirs[3 + names.indexOf(name)]).dataSync()[0];
      ['q', 'k', 'v', ...names].forEach((name, i) => {
        expect(ours[i].shape).toEqual(xs[i].shape);
        const error =
          name === vanishingParameter // 0 in exact arithmetic: judged by its norm
            ? tf.norm(ours[i]).dataSync()[0] / norm(vanishingScaleFrom)
            : relativeError(ours[i].dataSync(), theirs[i].dataSync());
        expectError(error, LIMIT, `tfjs ${label}: ${name}`);
      });
    });
  });
});

it("is fitted by TensorFlow.js's optimiser: each position learns to output the token before it", () => {
  const [B, T, { heads, headDim }] = [4, 12, sizes];
  const C = heads * headDim;
  const variable = (shape: number[], seed: number) =>
    tf.variable(tf.randomNormal(shape, 0, 1 / Math.sqrt(C), 'float32', seed));
  const projections = [variable([C, C], 5), variable([C, C], 6), variable([C, C], 7)];
  const weights = Object.fromEntries(
    Object.entries(weightsOf(sizes)).map(([name, initial]) => {
      const made = tf.variable(initial);
      initial.dispose();
      return [name, made];
    }),
  );
  const tokens = tf.randomNormal<tf.Rank.R3>([B, T, C], 0, 1, 'float32', 8);
  const positions = tf.randomNormal<tf.Rank.R3>([1, T, C], 0, 1, 'float32', 9);
  const x = tf.add(tokens, positions) as tf.Tensor3D;
  const target = tf.slice(tokens, [0, 0, 0], [B, T - 1, C]);
  const optimizer = tf.train.adam(0.01);
  const step = () =>
    tf.tidy(() => {
      const loss = optimizer.minimize(
        () => {
          const [q, k, v] = projections.map((projection) =>
            tf.reshape(tf.matMul(tf.reshape(x, [B * T, C]), projection as tf.Tensor2D), [B, T, heads, headDim]),
          ) as [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D];
          const output = sasAttention(q, k, v, weights);
          return tf.losses.meanSquaredError(target, tf.slice(output, [0, 1, 0], [B, T - 1, C])) as tf.Scalar;
        },
        true,
        [...projections, ...Object.values(weights)],
      );
      return (loss as tf.Scalar).dataSync()[0];
    });
  const first = step(); // makes Adam's moments
  const counts = () => [tf.memory().numTensors, getDevice().memory().live];
  const start = counts();
  const losses = [first, ...Array.from({ length: 199 }, step)];
  console.log(`loss ${losses[0].toFixed(3)} -> ${losses.at(-1)?.toFixed(4)}`);
  expect(losses[0]).toBeGreaterThan(0.5);
  expect(losses.at(-1)).toBeLessThan(losses[0] / 10);
  expect(counts()).toEqual(start);
  optimizer.dispose();
  tf.dispose([projections, weights, tokens, positions, x, target]);
});

/** Whether the array's memory can be given away. */
function transferred({ buffer }: Float32Array<ArrayBuffer>): boolean {
  try {
    structuredClone(buffer, { transfer: [buffer] });
  } catch {
    return false;
  }
  return buffer.byteLength === 0;
}

describe('memory', () => {
  const device = getDevice();
  const counts = () => ({ tensors: tf.memory().numTensors, live: device.memory().live });

  it('returns to the start after a forward and after gradients', () => {
    const [q, k, v] = inputs(1, 6, 6);
    const weights = weightsOf(sizes);
    const start = counts();
    tf.tidy(() => void sasAttention(q, k, v, weights));
    expect(counts()).toEqual(start);
    const gradient = tf.grad((x) => sasAttention(x as tf.Tensor4D, k, v, weights));
    gradient(q).dispose();
    expect(counts()).toEqual(start);
    // In a scope of the user's that ends between the forward and the backward pass.
    const scoped = tf.grad((x) => scope(() => sasAttention(x as tf.Tensor4D, k, v, weights)));
    expect(relativeError(scoped(q).dataSync(), gradient(q).dataSync())).toBe(0);
    expect(device.memory().live).toBe(start.live);
    tf.dispose([q, k, v, weights]);
  });

  it("shares the arrays of TensorFlow.js's cpu backend, and copies those in memory that cannot be shared", () => {
    tf.tidy(() => {
      const [, k, v] = inputs(1, 6, 6);
      const data = Float32Array.from({ length: 6 * 16 }, (_, i) => Math.sin(i));
      const shared = new Float32Array(new SharedArrayBuffer(data.byteLength));
      shared.set(data);
      const weights = weightsOf(sizes);
      const of = (values: Float32Array) =>
        sasAttention(tf.tensor4d(values, [1, 6, 2, 8]), k, v, weights).dataSync() as Float32Array;
      expect(relativeError(of(shared), of(data))).toBe(0);
      // Only a buffer that is shared is marked untransferable: depending on Node, transferring it throws or leaves it alone.
      expect(transferred(data)).toBe(false);
      expect(transferred(data.slice())).toBe(true);
    });
  });
});

describe('refuses', () => {
  type Arguments = [q: unknown, k: unknown, v: unknown, weights: unknown, options?: unknown];
  const call = (change: (...given: [tf.Tensor4D, tf.Tensor4D, tf.Tensor4D, Weights]) => Arguments) => () =>
    tf.tidy(() => {
      const given = change(...inputs(1, 4, 4), weightsOf(sizes));
      return sasAttention(...(given as Parameters<typeof sasAttention>));
    });
  const without = (weights: Weights, name: string) =>
    Object.fromEntries(Object.entries(weights).filter(([key]) => key !== name));

  it.each<[string, abstract new (...args: never[]) => Error, () => unknown]>([
    [
      'sasAttention: q has shape [64], expected [B, Tq, H, D]',
      ShapeError,
      call((q, k, v, w) => [tf.reshape(q, [64]), k, v, w]),
    ],
    [
      'sasAttention: k has shape [1, 4, 1, 16], expected [1, Tk, 2, 8] (q has shape [1, 4, 2, 8])',
      ShapeError,
      call((q, k, v, w) => [q, tf.reshape(k, [1, 4, 1, 16]), v, w]),
    ],
    [
      "sasAttention: sas_q.0.weight has shape [6, 4, 3], expected [H', 2, k] (q has 2 heads)",
      ShapeError,
      call((q, k, v, w) => [q, k, v, { ...w, 'sas_q.0.weight': tf.zeros([6, 4, 3]) }]),
    ],
    [
      'sasAttention: sas_v.1.process.bias has shape [5], expected [6] (by the shapes of q and of the weights)',
      ShapeError,
      call((q, k, v, w) => [q, k, v, { ...w, 'sas_v.1.process.bias': tf.zeros([5]) }]),
    ],
    [
      "sasAttention: expected exactly the module's 22 parameters; missing: output_dense.bias; unexpected: extra",
      ArgumentError,
      call((q, k, v, w) => [q, k, v, { ...without(w, 'output_dense.bias'), extra: q }]),
    ],
    [
      'sasAttention: the weight sas_q.2.weight is missing',
      ArgumentError,
      call((q, k, v, w) => [q, k, v, without(w, 'sas_q.2.weight')]),
    ],
    [
      'sasAttention: v has dtype int32, expected float32',
      DTypeError,
      call((q, k, v, w) => [q, k, tf.cast(v, 'int32'), w]),
    ],
    [
      'sasAttention: q is an array, expected a tensor of TensorFlow.js',
      ArgumentError,
      call((_, k, v, w) => [[1, 2], k, v, w]),
    ],
    [
      'sasAttention: k has been disposed',
      DisposedError,
      call((q, k, v, w) => {
        k.dispose();
        return [q, k, v, w];
      }),
    ],
    [
      "sasAttention: there is no option 'heads'; known: causal, scale, device",
      ArgumentError,
      call((q, k, v, w) => [q, k, v, w, { heads: 2 }]),
    ],
    [
      'sasAttention: a gradient of its gradient was asked for, expected the first only',
      ArgumentError,
      call((q, k, v, w) => {
        const f = (x: tf.Tensor) => sasAttention(x as tf.Tensor4D, k, v, w);
        return tf.grad((x) => tf.grad(f)(x))(q) as never;
      }),
    ],
  ])('%s', (message, kind, refused) => {
    let error: unknown;
    try {
      refused();
    } catch (thrown) {
      error = thrown;
    }
    expect(error).toBeInstanceOf(kind);
    expect((error as Error).message).toBe(message);
  });
});
