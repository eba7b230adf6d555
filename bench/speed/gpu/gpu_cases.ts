/** What is timed on a GPU: the ops and the module at the paper's reference heads, in batches that fill the device. */
import { type DType, ops, SasAttention, scope, Tensor } from '../../../lib/index.js';
import { expandWeights } from '../../../lib/measure/cases.js';
import { attentionWork, expandWork, linearWork, REFERENCE, sasWork } from '../../../lib/measure/work.js';

export type Float = Exclude<DType, 'i32'>;

/** One measurement at a given batch. Rates follow from `flops` and `bytes` of one run. */
export interface Prepared {
  /** Useful FLOPs: recomputed work does not count. */
  readonly flops: number;
  /** Each operand and result moved once; absent where many ops make many intermediates. */
  readonly bytes?: number;
  /** Enqueues the work once and frees what it made; or, where the wait belongs to what is timed, returns it. */
  run(): void | Promise<void>;
}

export interface GpuCase {
  readonly name: string;
  readonly length: number;
  /** The first that fits in memory is measured. */
  readonly batches: readonly number[];
  /** Makes inputs through `own`, which frees them afterwards. */
  prepare(batch: number, dtype: Float, own: Own): Prepared;
}

/** Keeps what is to be disposed after the measurement. */
export type Own = <Item extends { dispose(): void }>(item: Item) => Item;

const { heads: H, headDim: D, simHeads: S, simHeadDim: E } = REFERENCE;
/** A batch: 64 sequences of 512. */
export const TOKENS = 32768;
/** The naive ops get this part of a batch: they keep whole matrices of scores. */
export const NAIVE_PART = 1 / 8;
/** Features of a token: H heads of D. */
export const REFERENCE_WIDTH = H * D;

export const elementSize = (dtype: Float) => (dtype === 'f32' ? 4 : 2);
export const inScope = (body: () => void) => () => scope(body);
/** The length of a sequence: `tokens` where a batch is less than one of them. */
export const lengthOf = (tokens: number, length = 512): number => Math.max(1, Math.min(length, Math.floor(tokens)));
/** The batch of `tokens`, and halves of it down to 1. */
export function batchesOf(tokens: number, length: number): number[] {
  const batches = [Math.max(1, Math.floor(tokens / length))];
  for (let last = batches[0] ?? 1; last > 1; batches.push(last)) last = Math.floor(last / 2);
  return batches;
}

let seed = 0;
export const randn = (own: Own, shape: readonly number[], dtype: Float) =>
  own(Tensor.randn(shape, { seed: ++seed, dtype }));

export function expandCases(implementation: 'fused' | 'naive', tokens: number): GpuCase[] {
  const { expand, expandBackward } = implementation === 'fused' ? ops : ops.naive;
  const prefix = implementation === 'fused' ? 'expand' : 'naive expand';
  const length = lengthOf(tokens);
  const batches = batchesOf(tokens, length);
  return [true, false].flatMap((features): GpuCase[] => {
    const kind = features ? 'Q' : 'V';
    const width = features ? E : D;
    const inputs = (batch: number, dtype: Float, own: Own) => {
      const weights = expandWeights({ Tensor }, features);
      for (const weight of Object.values(weights)) own(weight);
      return { x: randn(own, [batch, length, H, D], dtype), weights, rows: length * batch };
    };
    const work = (rows: number, dtype: Float) => expandWork(rows, REFERENCE, features, elementSize(dtype));
    return [
      {
        name: `${prefix} ${kind} forward`,
        length,
        batches,
        prepare(batch, dtype, own) {
          const { x, weights, rows } = inputs(batch, dtype, own);
          return {
            ...work(rows, dtype).forward,
            run: inScope(() => void expand(x, weights)),
          };
        },
      },
      {
        name: `${prefix} ${kind} backward`,
        length,
        batches,
        prepare(batch, dtype, own) {
          const { x, weights, rows } = inputs(batch, dtype, own);
          const gradOutput = randn(own, [batch, length, S, width], dtype);
          return {
            ...work(rows, dtype).backward,
            run: inScope(() => void expandBackward(gradOutput, x, weights)),
          };
        },
      },
    ];
  });
}

export function attentionCases(implementation: 'fused' | 'naive', length: number, tokens: number): GpuCase[] {
  const { attention, attentionBackward } = implementation === 'fused' ? ops : ops.naive;
  const prefix = implementation === 'fused' ? 'attention' : 'naive attention';
  const batches = batchesOf(tokens, length);
  const inputs = (batch: number, dtype: Float, own: Own) => {
    const [q, k] = [randn(own, [batch, length, S, E], dtype), randn(own, [batch, length, S, E], dtype)];
    return { q, k, v: randn(own, [batch, length, S, D], dtype) };
  };
  const work = (batch: number, dtype: Float) =>
    attentionWork({ batch, length, heads: S, width: E, valueWidth: D }, elementSize(dtype));
  return [
    {
      name: `${prefix} forward`,
      length,
      batches,
      prepare(batch, dtype, own) {
        const { q, k, v } = inputs(batch, dtype, own);
        return {
          ...work(batch, dtype).forward,
          run: inScope(() => void attention(q, k, v)),
        };
      },
    },
    {
      name: `${prefix} backward`,
      length,
      batches,
      prepare(batch, dtype, own) {
        const { q, k, v } = inputs(batch, dtype, own);
        const { output, logSumExp } = attention(q, k, v);
        const saved = { q, k, v, output: own(output), logSumExp: own(logSumExp) };
        const gradOutput = randn(own, [batch, length, S, D], dtype);
        return {
          ...work(batch, dtype).backward,
          run: inScope(() => void attentionBackward(gradOutput, saved)),
        };
      },
    },
  ];
}

export function linearCases(width: number, outWidth: number, tokens: number): GpuCase[] {
  const length = lengthOf(tokens);
  const inputs = (batch: number, dtype: Float, own: Own) => ({
    x: randn(own, [batch, length, width], dtype),
    weight: randn(own, [outWidth, width], 'f32'),
    rows: length * batch,
  });
  const work = (rows: number, dtype: Float) => linearWork(rows, width, outWidth, elementSize(dtype));
  const batches = batchesOf(tokens, length);
  return [
    {
      name: `linear ${width}->${outWidth} forward`,
      length,
      batches,
      prepare(batch, dtype, own) {
        const { x, weight, rows } = inputs(batch, dtype, own);
        const bias = randn(own, [outWidth], 'f32');
        return {
          ...work(rows, dtype).forward,
          run: inScope(() => void ops.linear(x, weight, bias)),
        };
      },
    },
    {
      name: `linear ${width}->${outWidth} backward`,
      length,
      batches,
      prepare(batch, dtype, own) {
        const { x, weight, rows } = inputs(batch, dtype, own);
        const gradOutput = randn(own, [batch, length, outWidth], dtype);
        return {
          ...work(rows, dtype).backward,
          run: inScope(() => void ops.linearBackward(gradOutput, x, weight)),
        };
      },
    },
  ];
}

export function moduleCases(length: number, tokens: number): GpuCase[] {
  const inputs = (batch: number, dtype: Float, own: Own) => {
    const [q, k, v] = [1, 2, 3].map(() => randn(own, [batch, length, H, D], dtype)) as [Tensor, Tensor, Tensor];
    return { module: own(new SasAttention({ ...REFERENCE, dtype })), q, k, v };
  };
  const work = (batch: number) => sasWork(batch, length, REFERENCE);
  const batches = batchesOf(tokens, length);
  return [
    {
      name: 'SasAttention forward',
      length,
      batches,
      prepare(batch, dtype, own) {
        const { module, q, k, v } = inputs(batch, dtype, own);
        return {
          flops: work(batch).forward.flops,
          run: inScope(() => void module.forward(q, k, v, { save: false })),
        };
      },
    },
    {
      name: 'SasAttention forward + backward',
      length,
      batches,
      prepare(batch, dtype, own) {
        const { module, q, k, v } = inputs(batch, dtype, own);
        const gradOutput = randn(own, [batch, length, H * D], dtype);
        return {
          flops: work(batch).forward.flops + work(batch).backward.flops,
          run: inScope(() => {
            const { saved } = module.forward(q, k, v);
            module.backward(gradOutput, saved);
          }),
        };
      },
    },
  ];
}
