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

/**
 * What `expand` keeps for `expandBackward`, which computes anew what is not there: the same bits either way. Tensors of the
 * caller, to be disposed. Kept on the CPU in f32; elsewhere computing them anew is cheaper, and this is empty.
 */
export interface ExpandKept {
  /** relu(C1) [B, T, H', D], f32. */
  readonly headRelu?: Tensor;
  /** Y [B, T, H', D], f32; with feature weights. */
  readonly heads?: Tensor;
  /** relu(Z1) [B, T, H', D'], f32; with feature weights. */
  readonly featureRelu?: Tensor;
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
  { rope }: ExpandOptions,
  gradient: { gradOutput?: Tensor } = {},
  kept: ExpandKept = {},
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
  const { headRelu, heads: keptHeads, featureRelu } = kept;
  const { device, buffers } = operands(op, given, { headRelu, heads: keptHeads, featureRelu });

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
  const rotation = rotationOf(op, Ds, rope);
  const outputShape = [B, T, Hs, Ds];
  const keptShapes = {
    headRelu: [B, T, Hs, D],
    ...(features.length && { heads: [B, T, Hs, D], featureRelu: outputShape }),
  };
  checkKept(op, kept, keptShapes);
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
    keptShapes,
    kept: [buffers.headRelu, buffers.heads, buffers.featureRelu] as const,
    settings: [naive, ...rotation] as const,
  };
}

const keptNames = ['headRelu', 'heads', 'featureRelu'] as const;
type KeptShapes = Partial<Record<(typeof keptNames)[number], readonly number[]>>;

/** All that belongs to such weights, or nothing. */
function checkKept(op: string, kept: ExpandKept, shapes: KeptShapes): void {
  if (keptNames.every((name) => kept[name] === undefined)) return;
  for (const name of keptNames) {
    const tensor = kept[name];
    const shape = shapes[name];
    if ((tensor === undefined) !== (shape === undefined)) {
      const expected = keptNames.filter((one) => shapes[one]).join(', ');
      throw new ArgumentError(
        `${op}: kept has ${tensor ? '' : 'no '}${name}, expected ${expected} (what expand keeps with these weights)`,
      );
    }
    if (!tensor || !shape) continue;
    check.shape(op, `kept.${name}`, tensor, shape, 'what expand keeps with these weights');
    check.dtype(op, `kept.${name}`, tensor, 'f32', 'what expand keeps is f32');
  }
}

/** The rotation as the binding takes it: base (null: none) and offset. */
function rotationOf(
  op: string,
  width: number,
  rope: ExpandOptions['rope'],
): readonly [base: number | null, offset: number] {
  if (rope === undefined) return [null, 0];
  const { base, offset } = ropeAngles(op, check.options(op, rope, ['base', 'offset'], 'rope'), 'rope.');
  check.multiple(op, 'the width of the output', width, 2, 'rotary positions rotate pairs of features');
  return [base, offset];
}

/** `expand`, fused or not, and what is kept of it; `op` is its name in messages. */
export function runExpand(
  op: string,
  naive: boolean,
  x: Tensor,
  weights: ExpandWeights,
  options: ExpandOptions = {},
  keep = false,
): { output: Tensor; kept: ExpandKept } {
  const { device, outputShape, keptShapes, ...from } = checked(op, naive, x, weights, options);
  const outputs: Record<string, Output> = { output: [outputShape, x.dtype] };
  if (keep && device.info.kind === 'cpu' && x.dtype === 'f32') {
    for (const name of keptNames) {
      const shape = keptShapes[name];
      if (shape) outputs[name] = [shape, 'f32'];
    }
  }
  const { output, ...kept } = produce(op, device, outputs, (to) => {
    const { output, headRelu = null, heads = null, featureRelu = null } = to;
    binding.expand(from.x, from.weights, output as BufferHandle, headRelu, heads, featureRelu, ...from.settings);
  });
  return { output: output as Tensor, kept };
}

/** `expandBackward`, fused or not; `op` is its name in messages. */
export function runExpandBackward(
  op: string,
  naive: boolean,
  gradOutput: Tensor,
  x: Tensor,
  weights: ExpandWeights,
  options: ExpandOptions = {},
  kept?: ExpandKept,
): { gradX: Tensor; gradWeights: ExpandWeights } {
  const { device, names, ...from } = checked(op, naive, x, weights, options, { gradOutput }, kept);
  const outputs: Record<string, Output> = { gradX: [x.shape, x.dtype] };
  for (const name of names) outputs[name] = [(weights[name] as Tensor).shape, 'f32'];
  const { gradX, ...gradWeights } = produce(op, device, outputs, (to) => {
    const gradients = names.map((name) => to[name] as BufferHandle);
    const { gradX } = to as { gradX: BufferHandle };
    binding.expandBackward(from.gradOutput, from.x, from.weights, gradX, gradients, ...from.kept, ...from.settings);
  });
  return { gradX: gradX as Tensor, gradWeights: gradWeights as unknown as ExpandWeights };
}

/**
 * The simulated heads and features of one projected tensor (query, key or value), fused: per token two convolutions over
 * heads, C1 + conv(relu(C1)), and with feature weights two projections, Z1 + linear(relu(Z1)).
 *
 * x [B, T, H, D] f32, bf16 or f16 -> [B, T, H', D' or D], same dtype. With `keep` also what the backward pass can use:
 * 4 H' (2 D + D') bytes per token with feature weights, 4 H' D without, for a third of its work.
 */
export function expand(x: Tensor, weights: ExpandWeights, options?: ExpandOptions & { keep?: false }): Tensor;
export function expand(
  x: Tensor,
  weights: ExpandWeights,
  options: ExpandOptions & { keep: true },
): { output: Tensor; kept: ExpandKept };
export function expand(
  x: Tensor,
  weights: ExpandWeights,
  options?: ExpandOptions & { keep?: boolean },
): Tensor | { output: Tensor; kept: ExpandKept } {
  const op = check.call('expand', arguments.length, 3);
  const { keep = false, rope } = check.options(op, options, ['rope', 'keep']);
  check.boolean(op, 'keep', keep);
  const result = runExpand(op, false, x, weights, { rope }, keep);
  return keep ? result : result.output;
}

/**
 * The gradients of `expand`: gradOutput [B, T, H', D' or D], of the dtype of x or f32, and the forward's own arguments -> gradX as
 * x, gradWeights as weights (f32). `options` are those of the forward, and what it kept, if it did.
 */
export function expandBackward(
  gradOutput: Tensor,
  x: Tensor,
  weights: ExpandWeights,
  options?: ExpandOptions & { kept?: ExpandKept },
): { gradX: Tensor; gradWeights: ExpandWeights } {
  const op = check.call('expandBackward', arguments.length, 4);
  const { kept, rope } = check.options(op, options, ['rope', 'kept']);
  if (kept !== undefined) check.record(op, 'kept', kept, keptNames);
  return runExpandBackward(op, false, gradOutput, x, weights, { rope }, kept);
}
