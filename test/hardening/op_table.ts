/** Every op on float inputs of a given size: the inputs by name, how to run it, and its float64 twin where there is one. */
import { ops, Tensor } from '../../lib/index.js';
import type { Array64 } from '../reference/index.js';
import * as reference from '../reference/index.js';

export type Inputs<T> = Record<string, T>;

export interface OpCase {
  shapes: Record<string, readonly number[]>;
  /** Inputs that are parameters: f32 whatever the dtype of the others. */
  parameters?: readonly string[];
  run: (inputs: Inputs<Tensor>) => Tensor | Record<string, Tensor>;
  truth?: (inputs: Inputs<Array64>) => Record<string, Array64>;
  /** Why special values do not spread exactly as in float64. */
  exception?: string;
}

/** At infinite x the formulas of gelu say infinity times 0; the ops give the limit instead. */
const limits = (truth: Array64, x: Array64, limit: (value: number, index: number) => number): Array64 => ({
  ...truth,
  data: truth.data.map((value, i) => (Math.abs(x.data[i]) === Number.POSITIVE_INFINITY ? limit(x.data[i], i) : value)),
});

const hidden = 'a masked key times its weight of 0 is NaN where the product is computed, and a row of -Infinity is 0';
const turning = 'an infinity times what rounding turns from positive to negative ends in a ReLU, or does not';
const relu = 'relu(NaN) is 0 in the fused kernel: a NaN stays in the heads it comes from';

/** `n` scales the rows and `time` the time axis: 1 for a look at values, more for timing. */
export function opTable(n: number, time = n): Record<string, OpCase> {
  const [T, H, D, Hs, Ds, k] = [4 * time, 2, 8, 4, 12, 3];
  const [rows, width] = [8 * n, 16];
  const head = { headWeight: [Hs, H, k], headBias: [Hs], headResidualWeight: [Hs, Hs, k], headResidualBias: [Hs] };
  const feature = {
    featureWeight: [Ds, D],
    featureBias: [Ds],
    featureResidualWeight: [Ds, Ds],
    featureResidualBias: [Ds],
  };
  const weights = { ...head, ...feature };
  const pick = <T>(inputs: Inputs<T>, names: object) =>
    Object.fromEntries(Object.keys(names).map((name) => [name, inputs[name] as T]));
  const one = (output: Array64) => ({ output });
  const factors = { a: [1, T, k, Hs], b: [1, T, k, D] };
  const sharing = { widthA: D, headsA: H, headsB: 1 };
  const attentionShapes = { q: [1, T, H, D], k: [1, T, H, D], v: [1, T, H, D] };
  const forward = ({ q, k, v }: Inputs<Tensor>) => ops.attention(q as Tensor, k as Tensor, v as Tensor);
  return {
    add: {
      shapes: { a: [rows, width], b: [rows, width] },
      run: ({ a, b }) => ops.add(a, b),
      truth: ({ a, b }) => one(reference.add64(a, b)),
    },
    gelu: {
      shapes: { x: [rows, width] },
      run: ({ x }) => ops.gelu(x),
      truth: ({ x }) => one(limits(reference.gelu(x), x, (value) => Math.max(value, 0))),
    },
    'gelu tanh': {
      shapes: { x: [rows, width] },
      run: ({ x }) => ops.gelu(x, { approximate: 'tanh' }),
      truth: ({ x }) => one(limits(reference.gelu(x, 'tanh'), x, (value) => Math.max(value, 0))),
    },
    geluBackward: {
      shapes: { g: [rows, width], x: [rows, width] },
      run: ({ g, x }) => ops.geluBackward(g, x),
      truth: ({ g, x }) => one(limits(reference.geluBackward(g, x), x, (value, i) => (value > 0 ? g.data[i] : 0))),
    },
    cast: {
      shapes: { x: [rows, width] },
      run: ({ x }) => x.to({ dtype: x.dtype === 'f32' ? 'bf16' : 'f32' }),
      truth: ({ x }) => one(x),
    },
    aggregate: {
      shapes: { x: [1, T, Hs, D] },
      run: ({ x }) => ops.aggregate(x, H),
      truth: ({ x }) => one(reference.aggregate(x, H)),
    },
    concat: {
      shapes: { a: [1, T, H, D], b: [1, T, 1, D] },
      run: ({ a, b }) => ops.concat(a, b),
      truth: ({ a, b }) => one(reference.concat(a, b)),
    },
    concatBackward: {
      shapes: { g: [1, T, H, 2 * D] },
      run: ({ g }) => ops.concatBackward(g, sharing),
      truth: ({ g }) => reference.concatBackward(g, sharing),
    },
    tensorProduct: {
      shapes: factors,
      run: ({ a, b }) => ops.tensorProduct(a, b),
      truth: ({ a, b }) => one(reference.tensorProduct(a, b)),
    },
    tensorProductBackward: {
      shapes: { g: [1, T, Hs, D], ...factors },
      run: ({ g, a, b }) => ops.tensorProductBackward(g, a, b),
      truth: ({ g, a, b }) => reference.tensorProductBackward(g, a, b),
    },
    linear: {
      shapes: { x: [rows, width], weight: [24, width], bias: [24] },
      parameters: ['weight', 'bias'],
      run: ({ x, weight, bias }) => ops.linear(x, weight, bias),
      truth: ({ x, weight, bias }) => one(reference.linear(x, weight, bias)),
    },
    linearBackward: {
      shapes: { g: [rows, 24], x: [rows, width], weight: [24, width] },
      parameters: ['weight'],
      run: ({ g, x, weight }) => ({ ...ops.linearBackward(g, x, weight) }),
      truth: ({ g, x, weight }) => ({ ...reference.linearBackward(g, x, weight) }),
    },
    layerNorm: {
      shapes: { x: [rows, width], weight: [width], bias: [width] },
      parameters: ['weight', 'bias'],
      run: ({ x, weight, bias }) => ops.layerNorm(x, weight, bias).output,
      truth: ({ x, weight, bias }) => one(reference.layerNorm(x, weight, bias).output),
    },
    rmsNorm: {
      shapes: { x: [rows, width], weight: [width] },
      parameters: ['weight'],
      run: ({ x, weight }) => ops.rmsNorm(x, weight).output,
      truth: ({ x, weight }) => one(reference.rmsNorm(x, weight).output),
    },
    rope: { shapes: { x: [1, T, H, D] }, run: ({ x }) => ops.rope(x), truth: ({ x }) => one(reference.rope(x)) },
    crossEntropy: {
      shapes: { logits: [rows, width] },
      run: ({ logits }) => {
        const targets = Tensor.zeros([rows], { dtype: 'i32', device: logits.device });
        return { ...ops.crossEntropy(logits, targets) };
      },
      truth: ({ logits }) => ({ ...reference.crossEntropy(logits, new Int32Array(rows)) }),
    },
    expand: {
      exception: relu,
      shapes: { x: [1, T, H, D], ...weights },
      parameters: Object.keys(weights),
      run: (inputs) => ops.expand(inputs.x as Tensor, pick(inputs, weights) as never),
      truth: (inputs) => one(reference.expand(inputs.x as Array64, pick(inputs, weights) as never)),
    },
    'expand with rope': {
      exception: relu,
      shapes: { x: [1, T, H, D], ...weights },
      parameters: Object.keys(weights),
      run: (inputs) => ops.expand(inputs.x as Tensor, pick(inputs, weights) as never, { rope: {} }),
      truth: (inputs) =>
        one(
          reference.rope(reference.expand(inputs.x as Array64, pick(inputs, weights) as never), { interleaved: true }),
        ),
    },
    'naive.expand': {
      exception: turning,
      shapes: { x: [1, T, H, D], ...weights },
      parameters: Object.keys(weights),
      run: (inputs) => ops.naive.expand(inputs.x as Tensor, pick(inputs, weights) as never),
      truth: (inputs) => one(reference.expand(inputs.x as Array64, pick(inputs, weights) as never)),
    },
    expandBackward: {
      shapes: { g: [1, T, Hs, Ds], x: [1, T, H, D], ...weights },
      parameters: Object.keys(weights),
      run: (inputs) => ops.expandBackward(inputs.g as Tensor, inputs.x as Tensor, pick(inputs, weights) as never).gradX,
    },
    attention: {
      exception: hidden,
      shapes: attentionShapes,
      run: (inputs) => forward(inputs).output,
      truth: ({ q, k, v }) => one(reference.attention(q, k, v).output),
    },
    'naive.attention': {
      exception: hidden,
      shapes: attentionShapes,
      run: ({ q, k, v }) => ops.naive.attention(q, k, v).output,
      truth: ({ q, k, v }) => one(reference.attention(q, k, v).output),
    },
    attentionBackward: {
      shapes: { g: [1, T, H, D], ...attentionShapes },
      run: (inputs) => {
        const { output, logSumExp } = forward(inputs);
        const { g, q, k, v } = inputs as Inputs<Tensor> & { g: Tensor; q: Tensor; k: Tensor; v: Tensor };
        return { ...ops.attentionBackward(g, { q, k, v, output, logSumExp }) };
      },
    },
    clipGradNorm: {
      shapes: { x: [rows, width] },
      parameters: ['x'],
      run: ({ x }) => ops.clipGradNorm([x], 1),
    },
    adamW: {
      shapes: { parameter: [rows, width], gradient: [rows, width], firstMoment: [rows, width] },
      parameters: ['parameter', 'gradient', 'firstMoment'],
      run: ({ parameter, gradient, firstMoment }) => {
        ops.adamW([{ parameter, gradient, firstMoment, secondMoment: gradient }], { lr: 1e-3, step: 1 });
        return parameter;
      },
    },
  };
}
