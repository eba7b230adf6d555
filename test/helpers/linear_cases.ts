// Linear layers for the parity and property tests.
import { ops, type Tensor } from '../../lib/index.js';
import * as reference from '../reference/index.js';
import { round64 } from '../reference/rounded_pipeline.js';
import { activation, errorsOf, type Pair, parameter, type Results, type Truth } from './parity.js';
import type { FloatType } from './random.js';

export interface LinearShape {
  rows: number[]; // leading shape of x
  width: number; // K
  outWidth: number; // N
  bias: boolean;
  inputScale?: number; // default 1
}

export interface LinearProblem {
  x: Pair;
  weight: Pair;
  bias?: Pair;
  gradOutput: Pair;
}

export function linearName({ rows, width, outWidth, bias, inputScale = 1 }: LinearShape): string {
  return `[${rows.join(', ')}] K=${width} N=${outWidth}${bias ? ' bias' : ''}${inputScale === 1 ? '' : ` x${inputScale}`}`;
}

export function linearProblem(shape: LinearShape, dtype: FloatType, seed: number): LinearProblem {
  const { rows, width, outWidth, bias, inputScale = 1 } = shape;
  return {
    x: activation([...rows, width], seed + 1, dtype, inputScale),
    weight: parameter([outWidth, width], seed + 2, width),
    bias: bias ? parameter([outWidth], seed + 3, width) : undefined,
    gradOutput: activation([...rows, outWidth], seed + 4, dtype),
  };
}

function linearWith({ x, bias, gradOutput }: LinearProblem, weight: reference.Array64): Truth {
  const { gradX, gradWeight, gradBias } = reference.linearBackward(gradOutput.exact, x.exact, weight);
  const gradients: Record<string, reference.Array64> = { x: gradX, weight: gradWeight };
  if (bias !== undefined) gradients.bias = gradBias;
  return { outputs: { output: reference.linear(x.exact, weight, bias?.exact) }, gradients };
}

export function linearTruth(problem: LinearProblem): Truth {
  return linearWith(problem, problem.weight.exact);
}

/** Errors of a matrix product in `dtype`: the weight rounded once, activations rounded, gradients of parameters in f32. */
export function linearNaiveErrors(problem: LinearProblem, truth: Truth, dtype: FloatType): Record<string, number> {
  const { outputs, gradients } = linearWith(problem, round64(problem.weight.exact, dtype));
  const rounded = {
    outputs: { output: round64(outputs.output, dtype) },
    gradients: { ...gradients, x: round64(gradients.x, dtype) },
  };
  return errorsOf(rounded, truth);
}

export function runLinear({ x, weight, bias, gradOutput }: LinearProblem): Results<Tensor> {
  const output = ops.linear(x.tensor, weight.tensor, bias?.tensor);
  const options = { bias: bias !== undefined };
  const { gradX, gradWeight, gradBias } = ops.linearBackward(gradOutput.tensor, x.tensor, weight.tensor, options);
  const gradients: Record<string, Tensor> = { x: gradX, weight: gradWeight };
  if (gradBias !== undefined) gradients.bias = gradBias;
  return { outputs: { output }, gradients };
}
