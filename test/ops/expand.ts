// Two descriptions: the expansion, and with a rotation (rope) fused onto its output.
import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError, type Tensor } from '../../lib/index.js';
import { bf16, f16, f32, i32, type Refusal } from '../api/helpers.js';
import { limit, relativeError } from '../helpers/compare.js';
import {
  activation,
  type Calls,
  type Case,
  defineOp,
  type Named,
  type Op,
  parameter,
  type Reference,
  smallerOnEmulator,
  wideTypes,
} from '../helpers/op.js';
import { dispose, problemOf, run, truthOf } from '../helpers/op_run.js';
import { device, errorsOf, expectWithinLimits, pair, take, takeResults, timeout } from '../helpers/parity.js';
import type { FloatType } from '../helpers/random.js';
import * as reference from '../reference/index.js';
import { roundedExpand, roundedExpandBackward } from '../reference/rounded_pipeline.js';

interface Options {
  rope?: NonNullable<ops.ExpandOptions['rope']>;
}

interface More {
  inputScale?: number;
  rope?: Options['rope'];
  sample?: boolean;
}

/** x [B, T, H, D] -> [B, T, H', D']; D' = 0: a value tensor, which keeps its width. */
function expand(
  [batch, time, heads, width, simHeads, simWidth, kernel]: readonly number[],
  { inputScale = 1, rope, sample }: More = {},
): Case<Options> {
  const scale = inputScale === 1 ? '' : ` x${inputScale}`;
  const rotation = rope === undefined ? '' : ` rope ${JSON.stringify(rope)}`;
  const sizes = `H=${heads} D=${width} H'=${simHeads} D'=${simWidth || 'D'} k=${kernel}`;
  return {
    label: `B=${batch} T=${time} ${sizes}${scale}${rotation}`,
    options: rope === undefined ? {} : { rope },
    seed: rope === undefined ? 101 : 201,
    sample,
    inputs: {
      headWeight: parameter([simHeads, heads, kernel], heads * kernel),
      headBias: parameter([simHeads], heads * kernel),
      headResidualWeight: parameter([simHeads, simHeads, kernel], simHeads * kernel),
      headResidualBias: parameter([simHeads], simHeads * kernel),
      x: activation([batch, time, heads, width], inputScale),
      gradOutput: activation([batch, time, simHeads, simWidth || width]),
      ...(simWidth > 0 && {
        featureWeight: parameter([simWidth, width], width),
        featureBias: parameter([simWidth], width),
        featureResidualWeight: parameter([simWidth, simWidth], simWidth),
        featureResidualBias: parameter([simWidth], simWidth),
      }),
    },
  };
}

/** The emulated GPU takes the most time for these: there they have fewer tokens, which share nothing but their weights. */
const shorter = (sizes: readonly number[], time: number, more?: More) =>
  smallerOnEmulator(expand(sizes, more), expand(sizes.with(1, time), more));

/** [B, T, H, D, H', D', k] */
const cases = [
  expand([1, 1, 1, 8, 1, 8, 1]), // B*T = 1, one head
  shorter([1, 31, 12, 64, 36, 96, 5], 9), // the reference size
  expand([2, 2, 4, 40, 20, 24, 3]), // D' < D
  expand([1, 64, 2, 8, 6, 40, 7], { sample: true }),
  expand([1, 97, 3, 24, 6, 8, 5]), // D' < D
  shorter([1, 128, 1, 112, 3, 160, 3], 33),
  expand([1, 257, 2, 8, 4, 24, 1]),
  shorter([1, 1023, 1, 8, 2, 8, 3], 191),
  expand([2, 3, 2, 2, 6, 5, 7], { sample: true }), // k > D
  expand([1, 5, 3, 1, 3, 4, 3]), // k > D
  { ...expand([2, 33, 3, 24, 6, 40, 3], { inputScale: 1e30 }), dtypes: wideTypes },
  expand([1, 3, 2, 160, 2, 112, 5]), // r = 1, D' < D
  expand([1, 4, 2, 96, 4, 96, 7]),
  shorter([1, 31, 12, 64, 36, 0, 5], 9), // values: heads only
  shorter([1, 128, 4, 24, 20, 0, 3], 65),
  expand([1, 1, 1, 8, 1, 0, 1]),
  expand([2, 3, 2, 3, 6, 0, 7], { sample: true }), // k > D
  shorter([1, 64, 4, 40, 20, 24, 5], 33, { inputScale: 100 }),
  shorter([1, 64, 4, 40, 20, 0, 5], 33, { inputScale: 100 }),
];

const rotated = [
  shorter([1, 31, 12, 64, 36, 96, 5], 9, { rope: {} }), // the reference size
  expand([3, 7, 2, 8, 6, 12, 3], { rope: { offset: 1000 }, sample: true }),
  expand([5, 1, 3, 6, 3, 2, 1], { rope: { base: 500, offset: 9 } }),
  shorter([2, 129, 1, 24, 5, 22, 3], 65, { rope: { base: 100 } }), // H' odd
  shorter([2, 70, 4, 40, 20, 40, 5], 19, { inputScale: 100, rope: {} }),
  shorter([2, 31, 12, 64, 36, 0, 5], 9, { rope: { offset: 3 } }), // heads only
  expand([7, 3, 3, 12, 9, 0, 3], { rope: { offset: 70 }, sample: true }),
  expand([4, 1, 1, 2, 7, 0, 1], { rope: { offset: 5 } }),
  shorter([2, 129, 2, 22, 2, 0, 7], 65, { rope: { base: 100 } }),
];

/** Everything but x and gradOutput, in the library and in float64. */
function weightsOf<Weights>({ x, gradOutput, ...weights }: Named<unknown>): Weights {
  return weights as Weights;
}

const interleaved = ({ rope }: Options) => rope && { ...rope, interleaved: true };
const optionsOf = ({ rope }: Options) => (rope ? [{ rope }] : []);

const calls: Calls<Options> = {
  forward: { call: ops.expand, args: (x, options) => [x.x, weightsOf(x), ...optionsOf(options)] },
  backward: {
    call: ops.expandBackward,
    args: (x, options) => [x.gradOutput, x.x, weightsOf(x), ...optionsOf(options)],
  },
};

const naive: NonNullable<Op<Options>['naive']> = {
  name: 'naive.expand',
  forward: { call: ops.naive.expand, args: (x) => [x.x, weightsOf(x)] },
  backward: { call: ops.naive.expandBackward, args: (x) => [x.gradOutput, x.x, weightsOf(x)] },
};

/** The rotation as a step of its own. */
const composed: Calls<Options> = {
  forward: {
    call: (x: Named<Tensor>, options: Options) => ops.rope(ops.naive.expand(x.x, weightsOf(x)), interleaved(options)),
    args: (x, options) => [x, options],
  },
  backward: {
    call: (x: Named<Tensor>, options: Options) => {
      const gradExpanded = ops.ropeBackward(x.gradOutput, interleaved(options));
      return ops.naive.expandBackward(gradExpanded, x.x, weightsOf(x));
    },
    args: (x, options) => [x, options],
  },
};

const exact: Reference<Options> = {
  forward: (x, options) => {
    const output = reference.expand(x.x, weightsOf(x));
    return { output: options.rope ? reference.rope(output, interleaved(options)) : output };
  },
  backward: (x, options) => {
    const { gradOutput } = x;
    const gradExpanded = options.rope ? reference.ropeBackward(gradOutput, interleaved(options)) : gradOutput;
    const { gradX, gradWeights } = reference.expandBackward(gradExpanded, x.x, weightsOf(x));
    return { x: gradX, ...gradWeights };
  },
};

const noNan = { exception: 'relu(NaN) is 0 in the fused kernel: a NaN stays in the heads it comes from' };
const reluSign = {
  exception: 'an infinity times what rounding brings from positive to negative ends in a ReLU, or does not',
};

/** Weights that fit x [B, T, 2, 4]: H' = 6, k = 3, D' = 5. */
const weights = () => ({
  headWeight: f32(6, 2, 3),
  headBias: f32(6),
  headResidualWeight: f32(6, 6, 3),
  headResidualBias: f32(6),
});
const all = () => ({
  ...weights(),
  featureWeight: f32(5, 4),
  featureBias: f32(5),
  featureResidualWeight: f32(5, 5),
  featureResidualBias: f32(5),
});
const x = () => f32(1, 3, 2, 4);

const forwardArguments = (op: string, call: typeof ops.naive.expand): Op['arguments'][string] => ({
  refuses: [
    [`${op}: weights is undefined, expected an object`, ArgumentError, () => call(x(), undefined as never)],
    [`${op}: x has shape [3, 2, 4], expected [B, T, H, D]`, ShapeError, () => call(f32(3, 2, 4), all())],
    [
      `${op}: headBias is undefined, expected a Tensor`,
      ArgumentError,
      () => call(x(), { ...all(), headBias: undefined as never }),
    ],
    [
      `${op}: featureBias is missing, expected all of featureWeight, featureBias, featureResidualWeight, featureResidualBias or none`,
      ArgumentError,
      () => call(x(), { ...all(), featureBias: undefined }),
    ],
    [
      `${op}: headWeight has shape [6, 2, 3], expected [H', 3, k] (x has 3 heads)`,
      ShapeError,
      () => call(f32(1, 3, 3, 4), all()),
    ],
    [
      `${op}: the kernel size is 4, expected an odd number (headWeight has shape [6, 2, 4])`,
      ShapeError,
      () => call(x(), { ...all(), headWeight: f32(6, 2, 4) }),
    ],
    [
      `${op}: headResidualWeight has shape [6, 6, 5], expected [6, 6, 3] (headWeight has shape [6, 2, 3])`,
      ShapeError,
      () => call(x(), { ...all(), headResidualWeight: f32(6, 6, 5) }),
    ],
    [
      `${op}: featureWeight has shape [5, 3], expected [D', 4] (x has width 4)`,
      ShapeError,
      () => call(x(), { ...all(), featureWeight: f32(5, 3) }),
    ],
    [
      `${op}: featureResidualBias has shape [4], expected [5] (featureWeight has shape [5, 4])`,
      ShapeError,
      () => call(x(), { ...all(), featureResidualBias: f32(4) }),
    ],
    [
      `${op}: headBias has dtype bf16, expected f32 (parameters are f32)`,
      DTypeError,
      () => call(x(), { ...all(), headBias: bf16(6) }),
    ],
    [`${op}: x has dtype i32, expected f32, bf16, f16`, DTypeError, () => call(i32(1, 3, 2, 4), all())],
  ],
  tests: {
    'shapes of the results': () => {
      expect(call(bf16(1, 3, 2, 4), all())).toMatchObject({ shape: [1, 3, 6, 5], dtype: 'bf16' });
      expect(call(x(), weights())).toMatchObject({ shape: [1, 3, 6, 4], dtype: 'f32' });
    },
  },
});

const backwardArguments = (op: string, call: typeof ops.naive.expandBackward): Op['arguments'][string] => ({
  refuses: [
    [
      `${op}: gradOutput has shape [1, 3, 6, 4], expected [1, 3, 6, 5] (the shape of the output)`,
      ShapeError,
      () => call(f32(1, 3, 6, 4), x(), all()),
    ],
    [
      `${op}: gradOutput has dtype bf16, expected f32 (x has dtype f32)`,
      DTypeError,
      () => call(bf16(1, 3, 6, 5), x(), all()),
    ],
  ],
  tests: {
    'shapes of the results': () => {
      const { gradX, gradWeights } = call(bf16(1, 3, 6, 5), bf16(1, 3, 2, 4), all());
      expect(gradX).toMatchObject({ shape: [1, 3, 2, 4], dtype: 'bf16' });
      for (const [name, weight] of Object.entries(all())) {
        expect(gradWeights).toHaveProperty(name, expect.objectContaining({ shape: weight.shape, dtype: 'f32' }));
      }
      const value = call(f32(1, 3, 6, 4), x(), weights());
      expect(Object.keys(value.gradWeights)).toEqual(Object.keys(weights()));
    },
  },
});

/** `call`: the op on x of this width, with these options. */
const ropeRefusals = (op: string, other: string, call: (width: number, options: unknown) => unknown): Refusal[] => [
  [`${op}: options is null, expected an object`, ArgumentError, () => call(4, null)],
  [`${op}: there is no option 'base'; known: rope, ${other}`, ArgumentError, () => call(4, { base: 100 })],
  [`${op}: rope is true, expected an object`, ArgumentError, () => call(4, { rope: true })],
  [
    `${op}: there is no option 'rope.interleaved'; known: rope.base, rope.offset`,
    ArgumentError,
    () => call(4, { rope: { interleaved: false } }),
  ],
  [`${op}: rope.base is 0, expected a finite number above 0`, ArgumentError, () => call(4, { rope: { base: 0 } })],
  [`${op}: rope.offset is -1, expected an integer at least 0`, ArgumentError, () => call(4, { rope: { offset: -1 } })],
  [
    `${op}: the width of the output is 5, expected a multiple of 2 (rotary positions rotate pairs of features)`,
    ShapeError,
    () => call(5, { rope: {} }),
  ],
];

const ropeArguments = (
  op: string,
  other: string,
  call: (width: number, options: unknown) => unknown,
): Op['arguments'][string] => ({
  refuses: ropeRefusals(op, other, call),
  tests: {
    'the width of the output counts, not that of x': () => {
      expect(() => ops.expand(f32(1, 3, 2, 4), all(), { rope: {} })).toThrow('the width of the output is 5');
      expect(call(4, { rope: undefined })).toBeDefined();
    },
  },
});

function gradOutputInF32(op: Op, dtype: FloatType): void {
  it.each([12, 0])("gradOutput in f32, D'=%i", { timeout }, async (simWidth) => {
    const item = { ...expand([2, 9, 3, 10, 9, simWidth, 3], { rope: { offset: 4 } }), seed: 301 };
    const rounded = problemOf(op, item, dtype);
    const naive = errorsOf(await takeResults(run(composed as Calls<unknown>, rounded)), truthOf(rounded));
    const single = pair(item.inputs.gradOutput.values(306) as Float32Array, rounded.exact.gradOutput.shape, 'f32');
    const problem = {
      ...rounded,
      pairs: { ...rounded.pairs, gradOutput: single },
      tensors: { ...rounded.tensors, gradOutput: single.tensor },
      exact: { ...rounded.exact, gradOutput: single.exact },
    };
    const results = await takeResults(run(op, problem));
    expectWithinLimits(`${op.name} ${dtype}`, item.label, dtype, results, truthOf(problem), naive);
    for (const each of [rounded, problem]) dispose(each);
  });
}

function keepsInF32OnTheCpu(dtype: FloatType): void {
  it('keeps what the backward pass can use, in f32 on the CPU', () => {
    const kinds = { f32, bf16, f16 };
    const x = kinds[dtype](1, 3, 2, 4).to({ device });
    const placed = (given: ops.ExpandWeights) =>
      Object.fromEntries(Object.entries(given).map(([name, tensor]) => [name, tensor.to({ device })]));
    const keep = (given: ops.ExpandWeights) =>
      Object.fromEntries(
        Object.entries(ops.expand(x, placed(given) as unknown as ops.ExpandWeights, { keep: true }).kept).map(
          ([name, tensor]) => [name, tensor.shape],
        ),
      );
    const keeps = dtype === 'f32' && device.info.kind === 'cpu';
    expect(keep(all())).toEqual(
      keeps ? { headRelu: [1, 3, 6, 4], heads: [1, 3, 6, 4], featureRelu: [1, 3, 6, 5] } : {},
    );
    expect(keep(weights())).toEqual(keeps ? { headRelu: [1, 3, 6, 4] } : {});
  });
}

const keptArguments = (op: string, call: (kept: unknown) => unknown): Op['arguments'][string] => ({
  refuses: [
    [`${op}: kept is null, expected an object`, ArgumentError, () => call(null)],
    [
      `${op}: kept has no featureRelu, expected headRelu, heads, featureRelu (what expand keeps with these weights)`,
      ArgumentError,
      () => call({ headRelu: f32(1, 3, 6, 4), heads: f32(1, 3, 6, 4) }),
    ],
    [
      `${op}: kept.heads has shape [1, 3, 6, 5], expected [1, 3, 6, 4] (what expand keeps with these weights)`,
      ShapeError,
      () => call({ headRelu: f32(1, 3, 6, 4), heads: f32(1, 3, 6, 5), featureRelu: f32(1, 3, 6, 5) }),
    ],
    [
      `${op}: kept.featureRelu has dtype bf16, expected f32 (what expand keeps is f32)`,
      DTypeError,
      () => call({ headRelu: f32(1, 3, 6, 4), heads: f32(1, 3, 6, 4), featureRelu: bf16(1, 3, 6, 5) }),
    ],
  ],
});

const plain = defineOp<Options>({
  name: 'expand',
  cases,
  repeated: [24, 0].map((simWidth) => shorter([2, 67, 4, 40, 20, simWidth, 5], 19)),
  small: [expand([2, 2, 2, 5, 6, 7, 3]), expand([2, 2, 1, 4, 1, 2, 1]), expand([2, 2, 3, 3, 3, 0, 7])],
  random: (draw) => {
    const sizes = [draw.size(2), draw.size(19), 1 + draw.below(4), draw.size(37), draw.size(20)];
    const simWidth = draw.chance(0.5) ? draw.size(37) : 0;
    return expand([...sizes, simWidth, draw.pick([1, 3, 5, 7])]);
  },
  ...calls,
  naive,
  reference: exact,
  rounded: (x, _, dtype) => {
    const { gradX, gradWeights } = roundedExpandBackward(x.gradOutput, x.x, weightsOf(x), dtype);
    return {
      outputs: { output: roundedExpand(x.x, weightsOf(x), dtype) },
      gradients: { x: gradX, ...gradWeights },
    };
  },
  kinked: true,
  /** What the forward pass keeps changes no bit of the backward pass. */
  also: async (x, options, { outputs, gradients }) => {
    const { output, kept } = ops.expand(x.x, weightsOf(x), { ...options, keep: true });
    const { gradX, gradWeights } = ops.expandBackward(x.gradOutput, x.x, weightsOf(x), { ...options, kept });
    const results = await take({ output, gradX, ...gradWeights });
    for (const tensor of Object.values(kept)) tensor.dispose();
    const { gradX: toX, output: again, ...toWeights } = results;
    expect({ output: again }).toEqual(outputs);
    expect({ x: toX, ...toWeights }).toEqual(gradients);
  },
  special: { forward: noNan, naive: reluSign },
  noFixtures: 'those of SasAttention go through it',
  arguments: {
    expand: forwardArguments('expand', ops.expand),
    'naive.expand': forwardArguments('naive.expand', ops.naive.expand),
    expandBackward: backwardArguments('expandBackward', ops.expandBackward),
    'naive.expandBackward': backwardArguments('naive.expandBackward', ops.naive.expandBackward),
    'kept of expandBackward': keptArguments('expandBackward', (kept) =>
      ops.expandBackward(f32(1, 3, 6, 5), f32(1, 3, 2, 4), all(), { kept } as never),
    ),
    'keep of expand': {
      refuses: [
        [
          'expand: keep is 1, expected true or false',
          ArgumentError,
          () => ops.expand(f32(1, 3, 2, 4), all(), { keep: 1 } as never),
        ],
      ],
    },
  },
});

const withRope: Op = defineOp<Options>({
  name: 'expand with rope',
  cases: rotated,
  repeated: [24, 0].map((simWidth) => shorter([2, 67, 4, 40, 20, simWidth, 5], 19, { rope: { offset: 5 } })),
  small: [expand([2, 2, 2, 6, 6, 8, 3], { rope: { offset: 1 } })],
  random: (draw) => {
    const half = (most: number) => 2 * draw.size(most);
    const sizes = [draw.size(2), draw.size(19), 1 + draw.below(4), half(18), draw.size(20)];
    const simWidth = draw.chance(0.5) ? half(18) : 0;
    return expand([...sizes, simWidth, draw.pick([1, 3, 5, 7])], { rope: { base: 100, offset: draw.below(5) } });
  },
  ...calls,
  naive: composed,
  reference: exact,
  kinked: true,
  special: { forward: noNan },
  /** The same rotation as the op's, also where the angles' own rounding is what differs from the truth. */
  also: async (x, options, { outputs }, { dtype, naiveErrors }) => {
    const expanded = ops.expand(x.x, weightsOf(x));
    const apart = ops.rope(expanded, interleaved(options));
    const difference = relativeError(outputs.output.data, await apart.data());
    expect(difference).toBeLessThanOrEqual(limit(dtype, 'output', naiveErrors.output));
    for (const tensor of [expanded, apart]) tensor.dispose();
  },
  noFixtures: 'those of SasAttention go through it',
  arguments: {
    'rope of expand': ropeArguments('expand', 'keep', (width, options) =>
      ops.expand(f32(1, 3, 2, width), weights(), options as never),
    ),
    'rope of expandBackward': ropeArguments('expandBackward', 'kept', (width, options) =>
      ops.expandBackward(f32(1, 3, 6, width), f32(1, 3, 2, width), weights(), options as never),
    ),
  },
  extra: (dtype) => {
    gradOutputInF32(withRope, dtype);
    keepsInF32OnTheCpu(dtype);
  },
});

export default [plain, withRope];
