/** Head and feature expansion: arXiv 2507.07694, sections on simulated heads and simulated feature sizes. */
import { type BufferHandle, binding } from '../binding.js';
import * as check from '../checks.js';
import { floats } from '../dtype.js';
import { ArgumentError } from '../errors.js';
import { type Output, operands, produce, type Tensor } from '../tensor.js';
import { type RopeOptions, ropeAngles } from './rope.js';

/** The weights of one tensor's expansion, all f32. H' simulated heads, D' simulated features, k the odd kernel size. */
export interface ExpandWeights {
  /** [H', H, k], first convolution over heads. */
  headWeight: Tensor;
  /** [H'] */
  headBias: Tensor;
  /** [H', H', k], residual convolution. */
  headResidualWeight: Tensor;
  /** [H'] */
  headResidualBias: Tensor;
  /** [D', D], first feature projection. All four feature weights are given (query, key) or none (value: D' = D). */
  featureWeight?: Tensor;
  /** [D'] */
  featureBias?: Tensor;
  /** [D', D'], residual feature projection. */
  featureResidualWeight?: Tensor;
  /** [D'] */
  featureResidualBias?: Tensor;
}

/** Settings of `expand` and its backward. */
export interface ExpandOptions {
  /** Rotates the output in the same pass as `rope(output, { ...rope, interleaved: true })` would; its width is even. Default: no rotation. */
  rope?: Pick<RopeOptions, 'base' | 'offset'>;
}

type WeightName = keyof ExpandWeights;
const headNames: readonly WeightName[] = ['headWeight', 'headBias', 'headResidualWeight', 'headResidualBias'];
const featureNames: readonly WeightName[] = [
  'featureWeight',
  'featureBias',
  'featureResidualWeight',
  'featureResidualBias',
];

const allNames: readonly WeightName[] = [...headNames, ...featureNames];

/** The operands in the order of the binding, and the values that both directions pass to it last. */
function checked(
  op: string,
  naive: boolean,
  x: Tensor,
  weights: ExpandWeights,
  options: ExpandOptions | undefined,
  gradient: { gradOutput?: Tensor } = {},
) {
  check.record(op, 'weights', weights, allNames);
  const features = featureNames.filter((name) => weights[name] !== undefined);
  const missing = featureNames.find((name) => weights[name] === undefined);
  if (features.length && missing) {
    throw new ArgumentError(`${op}: ${missing} is missing, expected all of ${featureNames.join(', ')} or none`);
  }
  const names = features.length ? allNames : headNames;
  const given = { x } as Record<'x' | 'gradOutput' | WeightName, Tensor>;
  for (const name of names) given[name] = weights[name] as Tensor;
  Object.assign(given, gradient);
  const { device, buffers } = operands(op, given);

  const [B, T, H, D] = check.shape(op, 'x', x, ['B', 'T', 'H', 'D']);
  check.dtype(op, 'x', x, floats);
  for (const name of names) check.dtype(op, name, given[name], 'f32', 'parameters are f32');
  const [Hs, , k] = check.shape(op, 'headWeight', given.headWeight, ["H'", H, 'k'], `x has ${H} heads`);
  const heads = check.because('headWeight', given.headWeight);
  check.odd(op, 'the kernel size', k, heads);
  check.shape(op, 'headBias', given.headBias, [Hs], heads);
  check.shape(op, 'headResidualWeight', given.headResidualWeight, [Hs, Hs, k], heads);
  check.shape(op, 'headResidualBias', given.headResidualBias, [Hs], heads);
  let Ds = D;
  if (features.length) {
    [Ds] = check.shape(op, 'featureWeight', given.featureWeight, ["D'", D], `x has width ${D}`);
    const width = check.because('featureWeight', given.featureWeight);
    check.shape(op, 'featureBias', given.featureBias, [Ds], width);
    check.shape(op, 'featureResidualWeight', given.featureResidualWeight, [Ds, Ds], width);
    check.shape(op, 'featureResidualBias', given.featureResidualBias, [Ds], width);
  }
  const rotation = rotationOf(op, Ds, options);
  const outputShape = [B, T, Hs, Ds];
  const { gradOutput } = gradient;
  if (gradOutput) {
    check.shape(op, 'gradOutput', gradOutput, outputShape, 'the shape of the output');
    if (naive || gradOutput.dtype !== 'f32') {
      check.dtype(op, 'gradOutput', gradOutput, x.dtype, `x has dtype ${x.dtype}`);
    }
  }
  return {
    device,
    x: buffers.x,
    gradOutput: buffers.gradOutput,
    names,
    weights: names.map((name) => buffers[name]),
    outputShape,
    settings: [naive, ...rotation] as const,
  };
}

/** The rotation as the binding takes it: base (null: none) and offset. */
function rotationOf(
  op: string,
  width: number,
  options: ExpandOptions | undefined,
): readonly [base: number | null, offset: number] {
  const { rope } = check.options(op, options, ['rope']);
  if (rope === undefined) return [null, 0];
  const { base, offset } = ropeAngles(op, check.options(op, rope, ['base', 'offset'], 'rope'), 'rope.');
  check.multiple(op, 'the width of the output', width, 2, 'rotary positions rotate pairs of features');
  return [base, offset];
}

/** `expand`, fused or not; `op` is its name in messages. */
export function runExpand(
  op: string,
  naive: boolean,
  x: Tensor,
  weights: ExpandWeights,
  options?: ExpandOptions,
): Tensor {
  const { device, outputShape, ...from } = checked(op, naive, x, weights, options);
  return produce(op, device, { output: [outputShape, x.dtype] }, (to) =>
    binding.expand(from.x, from.weights, to.output, ...from.settings),
  ).output;
}

/** `expandBackward`, fused or not; `op` is its name in messages. */
export function runExpandBackward(
  op: string,
  naive: boolean,
  gradOutput: Tensor,
  x: Tensor,
  weights: ExpandWeights,
  options?: ExpandOptions,
): { gradX: Tensor; gradWeights: ExpandWeights } {
  const { device, names, ...from } = checked(op, naive, x, weights, options, { gradOutput });
  const outputs: Record<string, Output> = { gradX: [x.shape, x.dtype] };
  for (const name of names) outputs[name] = [(weights[name] as Tensor).shape, 'f32'];
  const { gradX, ...gradWeights } = produce(op, device, outputs, (to) => {
    const gradients = names.map((name) => to[name] as BufferHandle);
    const { gradX } = to as { gradX: BufferHandle };
    binding.expandBackward(from.gradOutput, from.x, from.weights, gradX, gradients, ...from.settings);
  });
  return { gradX: gradX as Tensor, gradWeights: gradWeights as unknown as ExpandWeights };
}

/**
 * The simulated heads and features of one projected tensor (query, key or value), fused: per token two convolutions over
 * heads, C1 + conv(relu(C1)), and with feature weights two projections, Z1 + linear(relu(Z1)).
 *
 * x [B, T, H, D] f32, bf16 or f16 -> [B, T, H', D' or D], same dtype.
 */
export function expand(x: Tensor, weights: ExpandWeights, options?: ExpandOptions): Tensor {
  return runExpand(check.call('expand', arguments.length, 3), false, x, weights, options);
}

/**
 * The gradients of `expand`: gradOutput [B, T, H', D' or D], of the dtype of x or f32, and the forward's own arguments -> gradX as
 * x, gradWeights as weights (f32). `options` are those of the forward.
 */
export function expandBackward(
  gradOutput: Tensor,
  x: Tensor,
  weights: ExpandWeights,
  options?: ExpandOptions,
): { gradX: Tensor; gradWeights: ExpandWeights } {
  return runExpandBackward(check.call('expandBackward', arguments.length, 4), false, gradOutput, x, weights, options);
}
