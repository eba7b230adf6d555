import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { activation, type Case, defineOp, type Input, integers, type Named } from '../helpers/op.js';
import { device, integerTensor, pair, activation as pairOf, valuesOf } from '../helpers/parity.js';
import { integers as drawIntegers } from '../helpers/random.js';
import * as reference from '../reference/index.js';

interface Options {
  ignoreIndex?: number;
}

/** The gradient of the loss. */
const factor: Input = { shape: [], role: 'parameter', values: () => Float32Array.of(0.37) };

/** logits [..., V], targets [...], a share of which is ignored. */
function crossEntropy(
  shape: readonly number[],
  vocabulary: number,
  ignoreIndex: number,
  ignored = 0,
  scale = 1,
): Case<Options> {
  return {
    label: `[${shape}] V=${vocabulary} ignoreIndex=${ignoreIndex}`,
    options: { ignoreIndex },
    inputs: {
      logits: activation([...shape, vocabulary], scale),
      targets: integers(shape, vocabulary, (targets, seed) => {
        const chance = drawIntegers(targets.length, seed + 1000, 1000);
        return targets.map((target, i) => (chance[i] < 1000 * ignored ? ignoreIndex : target));
      }),
      gradOutput: factor,
    },
  };
}

const targetsOf = ({ targets }: Named<reference.Array64>) => Int32Array.from(targets.data);
const saved = () => ({ logits: f32(2, 3, 5), targets: i32(2, 3), logSumExp: f32(6) });

export default defineOp<Options>({
  name: 'crossEntropy',
  cases: [
    crossEntropy([1], 1, -100),
    crossEntropy([1], 50, -100),
    crossEntropy([2, 31], 97, -1, 0.3),
    crossEntropy([64], 1023, -100, 0.5),
    crossEntropy([5], 5003, 0, 0.4), // target 0 is the ignored one
    crossEntropy([128], 40, -100, 0.1, 100),
    crossEntropy([3], 24, -100, 1), // nothing counts: loss 0, gradient 0
  ],
  repeated: [crossEntropy([2, 101], 517, -100, 0, 3)],
  small: [crossEntropy([8], 16, -100)],
  random: (draw) => crossEntropy([draw.size()], 4 + draw.size(60), 1, 0.2),

  forward: { call: ops.crossEntropy, args: ({ logits, targets }, options) => [logits, targets, options] },
  backward: {
    call: ops.crossEntropyBackward,
    args: ({ gradOutput, logits, targets }, options, { logSumExp }) => [
      gradOutput,
      { logits, targets, logSumExp },
      options,
    ],
  },
  f32Outputs: ['loss', 'logSumExp'],
  reference: {
    forward: (x, { ignoreIndex }) => ({ ...reference.crossEntropy(x.logits, targetsOf(x), ignoreIndex) }),
    backward: (x, { ignoreIndex }) => ({
      logits: reference.crossEntropyBackward(x.gradOutput.data[0], x.logits, targetsOf(x), ignoreIndex),
    }),
  },
  special: { forward: {} },

  arguments: {
    crossEntropy: {
      refuses: [
        ['crossEntropy: targets has dtype f32, expected i32', DTypeError, () => ops.crossEntropy(f32(2, 5), f32(2))],
        [
          'crossEntropy: targets has shape [6], expected [2, 3] (logits has shape [2, 3, 5])',
          ShapeError,
          () => ops.crossEntropy(f32(2, 3, 5), i32(6)),
        ],
        [
          'crossEntropy: ignoreIndex is 0.5, expected an integer at least -2147483648 and at most 2147483647',
          ArgumentError,
          () => ops.crossEntropy(f32(2, 5), i32(2), { ignoreIndex: 0.5 }),
        ],
        [
          'crossEntropyBackward: gradLoss is 1, expected a Tensor',
          ArgumentError,
          () => ops.crossEntropyBackward(1 as never, saved()),
        ],
        [
          'crossEntropyBackward: gradLoss has shape [1], expected [] (the loss is a scalar)',
          ShapeError,
          () => ops.crossEntropyBackward(f32(1), saved()),
        ],
        [
          'crossEntropyBackward: logSumExp has shape [2, 3], expected [6] (logits has 6 rows)',
          ShapeError,
          () => ops.crossEntropyBackward(f32(), { ...saved(), logSumExp: f32(2, 3) }),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          const { loss, logSumExp } = ops.crossEntropy(bf16(2, 3, 5), i32(2, 3));
          expect([loss.shape, loss.dtype, logSumExp.shape, logSumExp.dtype]).toEqual([[], 'f32', [6], 'f32']);
          expect(ops.crossEntropyBackward(f32(), saved())).toMatchObject({ shape: [2, 3, 5], dtype: 'f32' });
          expect(ops.crossEntropy(f32(5), i32()).logSumExp.shape).toEqual([1]);
        },
      },
    },
  },

  extra: (dtype) => {
    it.each([40, 1100])('a target outside of %d classes rejects the wait', async (vocabulary) => {
      const logits = pairOf([2, 35, vocabulary], 1, dtype).tensor;
      const gradLoss = pair(Float32Array.of(1), [], 'f32').tensor;
      const targets = new Int32Array(70).fill(1);
      const sound = integerTensor(targets, [2, 35]);
      const { loss, logSumExp } = ops.crossEntropy(logits, sound);
      targets.set([-100, -2, vocabulary], 50); // -100 is ignored
      const wrong = integerTensor(targets, [2, 35]);
      const failed = ops.crossEntropy(logits, wrong).loss;
      const gradient = ops.crossEntropyBackward(gradLoss, { logits, targets: wrong, logSumExp });
      const problem = `target -2 at position 51 is outside the ${vocabulary} classes`;
      await valuesOf(loss);
      await expect(valuesOf(failed)).rejects.toThrow(`crossEntropy: ${problem}`);
      await expect(valuesOf(gradient)).rejects.toThrow(`crossEntropyBackward: ${problem}`);
      await expect(device.synchronize()).rejects.toThrow(`crossEntropy: ${problem}`);
      expect(await valuesOf(ops.crossEntropy(logits, sound).loss)).toEqual(await valuesOf(loss));
    });

    if (dtype !== 'f32') return;
    // Each probability by itself: a relative error over whole tensors would not show the last term of the exponential's
    // polynomial, which is 2.4e-6 at most.
    it('probabilities are exponentials to the last digits', async () => {
      const rows = 1999;
      const falling = Array.from({ length: rows }, (_, i) => Math.fround((-4 * i) / (rows - 1)));
      const logits = pair(Float32Array.from(falling.flatMap((logit) => [0, logit])), [rows, 2], dtype).tensor;
      const targets = integerTensor(new Int32Array(rows), [rows]);
      const { logSumExp } = ops.crossEntropy(logits, targets);
      const gradLoss = pair(Float32Array.of(rows), [], 'f32').tensor;
      const { data } = await valuesOf(ops.crossEntropyBackward(gradLoss, { logits, targets, logSumExp }));
      const errors = falling.map((logit, i) => {
        const power = Math.exp(logit);
        return Math.abs((data[2 * i + 1] * (1 + power)) / power - 1);
      });
      expect(Math.max(...errors)).toBeLessThanOrEqual(1.2e-6);
    });
  },
});
