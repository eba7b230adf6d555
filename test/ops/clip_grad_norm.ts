import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops } from '../../lib/index.js';
import { bf16, f32 } from '../api/helpers.js';
import { expectClose } from '../helpers/compare.js';
import { clipGradNormCases, toArray64 } from '../helpers/fixtures.js';
import { exact } from '../helpers/gradient_checks.js';
import { type Case, defineOp, normalParameter } from '../helpers/op.js';
import * as reference from '../reference/index.js';

interface Options {
  maxNorm: number;
}

function clip(shapes: readonly (readonly number[])[], maxNorm: number): Case<Options> {
  return {
    label: `scales all gradients to a norm of ${maxNorm} at most`,
    options: { maxNorm },
    seed: 10,
    inputs: Object.fromEntries(shapes.map((shape, i) => [`gradient ${i}`, normalParameter(shape)])),
  };
}

const shapes = [[1], [7, 13], [100003], [64, 40]];

export default defineOp<Options>({
  name: 'clipGradNorm',
  onlyF32: true,
  inPlace: true,
  cases: [0.5, 100, 1e6].map((maxNorm) => clip(shapes, maxNorm)),
  repeated: [clip([[40003], [64, 40], [1]], 1)],
  small: [],
  random: (draw) =>
    clip(
      Array.from({ length: 1 + draw.below(3) }, () => [draw.size()]),
      1,
    ),

  forward: { call: ops.clipGradNorm, args: (gradients, { maxNorm }) => [Object.values(gradients), maxNorm] },
  reference: {
    forward: (x, { maxNorm }) => {
      const { norm, gradients } = reference.clipGradNorm(Object.values(x), maxNorm);
      return { output: norm, ...Object.fromEntries(Object.keys(x).map((name, i) => [name, gradients[i]])) };
    },
  },

  noFixtures: 'lists, for referenceTests',
  arguments: {
    clipGradNorm: {
      refuses: [
        [
          'clipGradNorm: gradients is empty, expected an array of at least one',
          ArgumentError,
          () => ops.clipGradNorm([], 1),
        ],
        [
          'clipGradNorm: gradients is a Map, expected an array of at least one',
          ArgumentError,
          () => ops.clipGradNorm(new Map() as never, 1),
        ],
        [
          'clipGradNorm: gradients[0] is undefined, expected a Tensor', // a hole
          ArgumentError,
          () => ops.clipGradNorm(new Array(2), 1),
        ],
        [
          'clipGradNorm: gradients[1] has dtype bf16, expected f32 (gradients of parameters are f32)',
          DTypeError,
          () => ops.clipGradNorm([f32(2), bf16(2)], 1),
        ],
        [
          'clipGradNorm: maxNorm is -1, expected a finite number at least 0',
          ArgumentError,
          () => ops.clipGradNorm([f32(2)], -1),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.clipGradNorm([f32(2), f32(3, 4)], 1)).toMatchObject({ shape: [], dtype: 'f32' });
        },
      },
    },
  },

  referenceTests: () => {
    it('clips like PyTorch', () => {
      for (const { maxNorm, gradients, norm, clipped } of clipGradNormCases) {
        const result = reference.clipGradNorm(gradients.map(toArray64), maxNorm);
        expectClose(result.norm, toArray64(norm), exact, 'clipGradNorm: norm');
        result.gradients.forEach((gradient, i) => {
          expectClose(gradient, toArray64(clipped[i]), exact, 'clipGradNorm: gradient');
        });
      }
    });
  },
});
