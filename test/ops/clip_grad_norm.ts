import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops } from '../../lib/index.js';
import { bf16, f32 } from '../api/helpers.js';
import { expectClose } from '../helpers/compare.js';
import { clipGradNormCases, toArray64 } from '../helpers/fixtures.js';
import { exact } from '../helpers/gradient_checks.js';
import { type Case, defineOp, normalParameter } from '../helpers/op.js';
import { pair } from '../helpers/parity.js';
import * as reference from '../reference/index.js';

interface Options {
  maxNorm: number;
}

function clip(shapes: readonly (readonly number[])[], maxNorm: number, scale = 1): Case<Options> {
  return {
    label: `scales gradients of ${scale} to a norm of ${maxNorm} at most`,
    options: { maxNorm },
    seed: 10,
    inputs: Object.fromEntries(shapes.map((shape, i) => [`gradient ${i}`, normalParameter(shape, scale)])),
  };
}

const shapes = [[1], [7, 13], [100003], [64, 40]];

export default defineOp<Options>({
  name: 'clipGradNorm',
  onlyF32: true,
  inPlace: true,
  cases: [
    ...[0.5, 100, 1e6].map((maxNorm) => clip(shapes, maxNorm)),
    clip(shapes, 1e-6, 3e-9), // a norm of about 1e-6, which is what the denominator has added to it
    clip([[7, 13]], 1, 1e-25), // squares vanish in f32
    clip(shapes, 1e20, 1e30), // squares overflow in f32
  ],
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

  extra: () => {
    it('gradients whose norm f32 does not hold are scaled, not lost', async () => {
      const gradients = [0, 1].map(() => pair(new Float32Array(1000).fill(3e38), [1000], 'f32').tensor);
      const norm = ops.clipGradNorm(gradients, 1e30);
      expect([...(await norm.data())]).toEqual([Number.POSITIVE_INFINITY]);
      const each = 1e30 / Math.sqrt(2000);
      for (const gradient of gradients) {
        for (const value of await gradient.data()) expect(Math.abs(value / each - 1)).toBeLessThanOrEqual(2e-6);
      }
    });
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
