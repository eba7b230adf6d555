// What a description of an op (test/ops) holds. Parity, the references' own proofs, repeatability, special values, arguments
// and the fuzzer loop over the descriptions and name no op themselves.

import type { Tensor } from '../../lib/index.js';
import type { Refusal } from '../api/helpers.js';
import type { Array64 } from '../reference/index.js';
import type { Values } from './compare.js';
import type { Draw } from './draw.js';
import type { Results } from './parity.js';
import { integers as drawIntegers, type FloatType, normal, uniformArray } from './random.js';

export type Named<Value> = Record<string, Value>;

/** One input: activations have the dtype under test, parameters f32, integers i32. */
export interface Input {
  shape: readonly number[];
  role: 'activation' | 'parameter' | 'integer';
  values(seed: number): Float32Array | Int32Array;
}

/** Standard normal numbers times `scale`, plus `shift`. */
export const activation = (shape: readonly number[], scale = 1, shift = 0): Input => ({
  shape,
  role: 'activation',
  values: (seed) => {
    const values = normal(shape, seed, scale);
    return shift === 0 ? values : values.map((value) => value + shift);
  },
});

/** As wide as f32: what f16 cannot hold. */
export const wideTypes: readonly FloatType[] = ['f32', 'bf16'];

/** Uniform in +-1/sqrt(fanIn). */
export const parameter = (shape: readonly number[], fanIn: number): Input => ({
  shape,
  role: 'parameter',
  values: (seed) => uniformArray(shape, seed, 1 / Math.sqrt(fanIn)),
});

/** Normal numbers of that deviation and mean, f32 whatever the dtype under test. */
export const normalParameter = (shape: readonly number[], deviation = 1, mean = 0): Input => ({
  shape,
  role: 'parameter',
  values: (seed) => normal(shape, seed, deviation).map((value) => mean + value),
});

/** Integers in [0, limit), or what `make` does of them. */
export const integers = (
  shape: readonly number[],
  limit: number,
  make: (values: Int32Array, seed: number) => Int32Array = (values) => values,
): Input => ({
  shape,
  role: 'integer',
  values: (seed) =>
    make(
      drawIntegers(
        shape.reduce((product, extent) => product * extent, 1),
        seed,
        limit,
      ),
      seed,
    ),
});

/** One call of an op. What backward differentiates by is the input `gradOutput`. */
export interface Case<Options = unknown> {
  label: string;
  options: Options;
  inputs: Named<Input>;
  /** Of the first input; every further input has the next number. Default 1. */
  seed?: number;
  /** What the emulated GPU computes instead: as many kinds of tails, less of each. */
  onEmulator?: Case<Options>;
  /** Storage types whose range holds its values; all by default. */
  dtypes?: readonly FloatType[];
  /** Storage types in which the unfused pipeline overflows. */
  overflows?: readonly FloatType[];
  /** Cases for an emulated processor (test/arm64); of an op without any all are. */
  sample?: boolean;
}

/** `item`, but on the emulated GPU what takes a fraction of its minutes there. */
export const smallerOnEmulator = <Options>(item: Case<Options>, onEmulator: Case<Options>): Case<Options> => ({
  ...item,
  onEmulator,
});

export interface Call<Options> {
  call: (...args: never[]) => unknown;
  /** `outputs`: what forward returned, for backward. */
  args(x: Named<Tensor>, options: Options, outputs: Named<Tensor>): readonly unknown[];
}

export interface Calls<Options> {
  forward: Call<Options>;
  /** Returns a tensor, the gradient of the first input, or tensors named gradX, gradWeight, ... */
  backward?: Call<Options>;
}

/** The op in float64: results by name, gradients by the name of their input. */
export interface Reference<Options> {
  forward(x: Named<Array64>, options: Options): Named<Array64>;
  backward?(x: Named<Array64>, options: Options): Named<Array64>;
}

/** How special values spread: as in float64, or with an exception, and then a NaN must only not be lost. */
export interface Special<Options = unknown> {
  exception?: string;
  /** Cases that it goes for; all by default. */
  excepted?(options: Options): boolean;
  /** Results that it goes for; all by default. */
  only?: readonly string[];
}

export interface Op<Options = unknown> extends Calls<Options> {
  /** In the library, and of its group in the summary. */
  name: string;
  /** If there is no float input whose dtype may vary. */
  onlyF32?: boolean;
  cases: readonly Case<Options>[];
  /** What is computed again and again: sizes that are split between threads, blocks and tiles. */
  repeated: readonly Case<Options>[];
  /** Few elements: for finite differences where there are no fixtures, and for special values. */
  small: readonly Case<Options>[];
  /** Draws sizes and options. */
  random(draw: Draw): Case<Options>;
  reference: Reference<Options> & {
    /** Where a gradient is exactly zero: the terms that cancel in it, whose norm its error is relative to. */
    cancelling?(x: Named<Array64>, options: Options): Named<Array64>;
  };
  /** Outputs that are f32 whatever the dtype: statistics, losses. */
  f32Outputs?: readonly string[];
  /** Inputs are changed by the call; all of them count as outputs. */
  inPlace?: boolean;
  /** The unfused twin whose error sets the limits: an op of its own if it has a name, else made of ops. */
  naive?: Calls<Options> & { name?: string };
  /** Every step rounded to `dtype`: sets the limits of the twin; without a twin those of the op. Default: results rounded once. */
  rounded?(x: Named<Array64>, options: Options, dtype: FloatType): Results<Array64>;
  /** What else must hold of every case. */
  also?(
    x: Named<Tensor>,
    options: Options,
    results: Results<Values>,
    limits: { dtype: FloatType; naiveErrors: Named<number> },
  ): Promise<void>;
  special?: { forward?: Special<Options>; backward?: Special<Options>; naive?: Special<Options> };
  /** A ReLU of a number near 0 may go either way: random gradients are compared where there are many elements only. */
  kinked?: boolean;
  /** By function of the library: what it refuses, with the whole message, and tests of what it returns. */
  arguments: Named<{ refuses: readonly Refusal[]; tests?: Named<() => void> }>;
  /** Tests of its own on every device, per dtype; onlyF32: once. */
  extra?(dtype: FloatType): void;
  /** Why test/fixtures has none of PyTorch for it. */
  noFixtures?: string;
  /** Tests of its reference beside fixtures and differences. */
  referenceTests?(): void;
}

/** Descriptions as the loops see them; the options are the description's own affair. */
export function defineOp<Options>(op: Op<Options>): Op {
  return op as Op;
}

/** 'gradHeadFactors' -> 'headFactors' */
export function inputOfGradient(name: string): string {
  return name.replace(/^grad(.)/, (_, first: string) => first.toLowerCase());
}
