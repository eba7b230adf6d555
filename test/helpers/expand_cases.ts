// Expansions for the parity and property tests.
import { ops, type Tensor } from '../../lib/index.js';
import { activation, type Pair, parameter, type Results, type Truth } from './parity.js';
import type { FloatType } from './random.js';
import * as reference from './reference/index.js';
import { roundedExpand, roundedExpandBackward } from './rounded_pipeline.js';

export interface ExpandShape {
  batch: number; // B
  time: number; // T
  heads: number; // H
  width: number; // D
  simHeads: number; // H'
  simWidth: number; // D', 0: a value tensor, no feature expansion
  kernel: number; // k
  inputScale?: number; // default 1
}

type ExpandWeights = Parameters<typeof ops.expand>[1];

export interface ExpandProblem {
  x: Pair;
  gradOutput: Pair;
  tensors: ExpandWeights;
  weights: reference.ExpandWeights64;
}

export function expandName(shape: ExpandShape): string {
  const { batch, time, heads, width, simHeads, simWidth, kernel, inputScale = 1 } = shape;
  const scale = inputScale === 1 ? '' : ` x${inputScale}`;
  return `B=${batch} T=${time} H=${heads} D=${width} H'=${simHeads} D'=${simWidth || 'D'} k=${kernel}${scale}`;
}

export function expandProblem(shape: ExpandShape, dtype: FloatType, seed: number): ExpandProblem {
  const { batch, time, heads, width, simHeads, simWidth, kernel, inputScale = 1 } = shape;
  const head = {
    headWeight: parameter([simHeads, heads, kernel], seed + 1, heads * kernel),
    headBias: parameter([simHeads], seed + 2, heads * kernel),
    headResidualWeight: parameter([simHeads, simHeads, kernel], seed + 3, simHeads * kernel),
    headResidualBias: parameter([simHeads], seed + 4, simHeads * kernel),
  };
  const x = activation([batch, time, heads, width], seed + 5, dtype, inputScale);
  const outWidth = simWidth === 0 ? width : simWidth;
  const gradOutput = activation([batch, time, simHeads, outWidth], seed + 6, dtype);
  if (simWidth === 0) return { x, gradOutput, tensors: pick(head, 'tensor'), weights: pick(head, 'exact') };
  const all = {
    ...head,
    featureWeight: parameter([simWidth, width], seed + 7, width),
    featureBias: parameter([simWidth], seed + 8, width),
    featureResidualWeight: parameter([simWidth, simWidth], seed + 9, simWidth),
    featureResidualBias: parameter([simWidth], seed + 10, simWidth),
  };
  return { x, gradOutput, tensors: pick(all, 'tensor'), weights: pick(all, 'exact') };
}

/** One side of every pair, under the same names. */
function pick<Name extends string, Side extends keyof Pair>(
  pairs: Record<Name, Pair>,
  side: Side,
): Record<Name, Pair[Side]> {
  const entries = Object.entries<Pair>(pairs).map(([name, pair]) => [name, pair[side]]);
  return Object.fromEntries(entries) as Record<Name, Pair[Side]>;
}

export function expandTruth({ x, gradOutput, weights }: ExpandProblem): Truth {
  const { gradX, gradWeights } = reference.expandBackward(gradOutput.exact, x.exact, weights);
  return { outputs: { output: reference.expand(x.exact, weights) }, gradients: { x: gradX, ...gradWeights } };
}

/** The unfused pipeline emulated in `dtype`, which judges ops.naive.expand. */
export function expandEmulated(
  { x, gradOutput, weights }: ExpandProblem,
  dtype: FloatType,
): Results<reference.Array64> {
  const { gradX, gradWeights } = roundedExpandBackward(gradOutput.exact, x.exact, weights, dtype);
  return { outputs: { output: roundedExpand(x.exact, weights, dtype) }, gradients: { x: gradX, ...gradWeights } };
}

/** The op under test: ops itself (fused) or ops.naive. */
export function runExpand(
  implementation: 'fused' | 'naive',
  { x, gradOutput, tensors }: ExpandProblem,
): Results<Tensor> {
  const { expand, expandBackward } = implementation === 'fused' ? ops : ops.naive;
  const output = expand(x.tensor, tensors);
  const { gradX, gradWeights } = expandBackward(gradOutput.tensor, x.tensor, tensors);
  const gradients: Record<string, Tensor> = { x: gradX };
  for (const [name, gradient] of Object.entries<Tensor | undefined>({ ...gradWeights })) {
    if (gradient !== undefined) gradients[name] = gradient;
  }
  return { outputs: { output }, gradients };
}

export function disposeExpand({ x, gradOutput, tensors }: ExpandProblem): void {
  const weights = Object.values<Tensor | undefined>({ ...tensors });
  for (const tensor of [x.tensor, gradOutput.tensor, ...weights]) tensor?.dispose();
}
