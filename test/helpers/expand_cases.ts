// Expansions for the parity and property tests.
import { ops, scope, type Tensor } from '../../lib/index.js';
import * as reference from '../reference/index.js';
import { roundedExpand, roundedExpandBackward } from '../reference/rounded_pipeline.js';
import { activation, type Pair, parameter, type Results, type Truth } from './parity.js';
import type { FloatType } from './random.js';

export interface ExpandShape {
  batch: number; // B
  time: number; // T
  heads: number; // H
  width: number; // D
  simHeads: number; // H'
  simWidth: number; // D', 0: a value tensor, no feature expansion
  kernel: number; // k
  inputScale?: number; // default 1
  rope?: ExpandRope; // default: the output is not turned
}

type ExpandRope = NonNullable<ops.ExpandOptions['rope']>;

type ExpandWeights = Parameters<typeof ops.expand>[1];

export interface ExpandProblem {
  x: Pair;
  gradOutput: Pair;
  tensors: ExpandWeights;
  weights: reference.ExpandWeights64;
  rope?: ExpandRope;
}

export function expandName(shape: ExpandShape): string {
  const { batch, time, heads, width, simHeads, simWidth, kernel, inputScale = 1, rope } = shape;
  const scale = inputScale === 1 ? '' : ` x${inputScale}`;
  const turn = rope === undefined ? '' : ` rope ${JSON.stringify(rope)}`;
  return `B=${batch} T=${time} H=${heads} D=${width} H'=${simHeads} D'=${simWidth || 'D'} k=${kernel}${scale}${turn}`;
}

export function expandProblem(shape: ExpandShape, dtype: FloatType, seed: number): ExpandProblem {
  const { batch, time, heads, width, simHeads, simWidth, kernel, inputScale = 1, rope } = shape;
  const head = {
    headWeight: parameter([simHeads, heads, kernel], seed + 1, heads * kernel),
    headBias: parameter([simHeads], seed + 2, heads * kernel),
    headResidualWeight: parameter([simHeads, simHeads, kernel], seed + 3, simHeads * kernel),
    headResidualBias: parameter([simHeads], seed + 4, simHeads * kernel),
  };
  const x = activation([batch, time, heads, width], seed + 5, dtype, inputScale);
  const outWidth = simWidth === 0 ? width : simWidth;
  const gradOutput = activation([batch, time, simHeads, outWidth], seed + 6, dtype);
  if (simWidth === 0) return { x, gradOutput, tensors: pick(head, 'tensor'), weights: pick(head, 'exact'), rope };
  const all = {
    ...head,
    featureWeight: parameter([simWidth, width], seed + 7, width),
    featureBias: parameter([simWidth], seed + 8, width),
    featureResidualWeight: parameter([simWidth, simWidth], seed + 9, simWidth),
    featureResidualBias: parameter([simWidth], seed + 10, simWidth),
  };
  return { x, gradOutput, tensors: pick(all, 'tensor'), weights: pick(all, 'exact'), rope };
}

/** One side of every pair, under the same names. */
function pick<Name extends string, Side extends keyof Pair>(
  pairs: Record<Name, Pair>,
  side: Side,
): Record<Name, Pair[Side]> {
  const entries = Object.entries<Pair>(pairs).map(([name, pair]) => [name, pair[side]]);
  return Object.fromEntries(entries) as Record<Name, Pair[Side]>;
}

export function expandTruth({ x, gradOutput, weights, rope }: ExpandProblem): Truth {
  const turn = rope && { ...rope, interleaved: true };
  const expanded = reference.expand(x.exact, weights);
  const gradExpanded = turn ? reference.ropeBackward(gradOutput.exact, turn) : gradOutput.exact;
  const { gradX, gradWeights } = reference.expandBackward(gradExpanded, x.exact, weights);
  return {
    outputs: { output: turn ? reference.rope(expanded, turn) : expanded },
    gradients: { x: gradX, ...gradWeights },
  };
}

/** The unfused pipeline emulated in `dtype`, which judges ops.naive.expand. */
export function expandEmulated(
  { x, gradOutput, weights }: ExpandProblem,
  dtype: FloatType,
): Results<reference.Array64> {
  const { gradX, gradWeights } = roundedExpandBackward(gradOutput.exact, x.exact, weights, dtype);
  return { outputs: { output: roundedExpand(x.exact, weights, dtype) }, gradients: { x: gradX, ...gradWeights } };
}

/** The op under test, ops itself (fused) or ops.naive; a rotation is fused too, or a step of its own. */
export function runExpand(implementation: 'fused' | 'naive', problem: ExpandProblem): Results<Tensor> {
  const run = implementation === 'fused' ? runFused : runNaive;
  const { output, gradX, gradWeights } = scope(() => run(problem));
  const gradients: Record<string, Tensor> = { x: gradX };
  for (const [name, gradient] of Object.entries<Tensor | undefined>({ ...gradWeights })) {
    if (gradient !== undefined) gradients[name] = gradient;
  }
  return { outputs: { output }, gradients };
}

const runFused = ({ x, gradOutput, tensors, rope }: ExpandProblem) => ({
  output: ops.expand(x.tensor, tensors, { rope }),
  ...ops.expandBackward(gradOutput.tensor, x.tensor, tensors, { rope }),
});

function runNaive({ x, gradOutput, tensors, rope }: ExpandProblem) {
  const turn = rope && { ...rope, interleaved: true };
  const expanded = ops.naive.expand(x.tensor, tensors);
  const gradExpanded = turn ? ops.ropeBackward(gradOutput.tensor, turn) : gradOutput.tensor;
  return {
    output: turn ? ops.rope(expanded, turn) : expanded,
    ...ops.naive.expandBackward(gradExpanded, x.tensor, tensors),
  };
}

export function disposeExpand({ x, gradOutput, tensors }: ExpandProblem): void {
  const weights = Object.values<Tensor | undefined>({ ...tensors });
  for (const tensor of [x.tensor, gradOutput.tensor, ...weights]) tensor?.dispose();
}
