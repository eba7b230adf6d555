// What tensor-product attention (TPA) makes queries, keys and values of.
import { expect } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError, type Tensor } from '../../lib/index.js';
import { bf16, f32, i32, type Refusal } from '../api/helpers.js';
import { activation, type Case, defineOp } from '../helpers/op.js';
import * as reference from '../reference/index.js';

/** headFactors [B, T, R, H], featureFactors [B, T, R, D] */
function product([batch, time, rank, heads, width]: readonly number[], scale = 1): Case {
  return {
    label: `B=${batch} T=${time} R=${rank} H=${heads} D=${width} x${scale}`,
    options: {},
    inputs: {
      headFactors: activation([batch, time, rank, heads], scale),
      featureFactors: activation([batch, time, rank, width]),
      gradOutput: activation([batch, time, heads, width]),
    },
  };
}

const heads = () => f32(1, 3, 2, 4);
const features = () => f32(1, 3, 2, 5);

/** Both directions refuse the same factors. */
const refusals = (op: string, call: (headFactors: Tensor, featureFactors: Tensor) => unknown): Refusal[] => [
  [`${op}: featureFactors is undefined, expected a Tensor`, ArgumentError, () => call(heads(), undefined as never)],
  [`${op}: headFactors has shape [3, 2, 4], expected [B, T, R, H]`, ShapeError, () => call(f32(3, 2, 4), features())],
  [
    `${op}: headFactors has shape [1, 3, 0, 4], expected [B, T, R, H] with every size at least 1`,
    ShapeError,
    () => call(f32(1, 3, 0, 4), features()),
  ],
  [
    `${op}: featureFactors has shape [1, 3, 3, 5], expected [1, 3, 2, D] (headFactors has shape [1, 3, 2, 4])`,
    ShapeError,
    () => call(heads(), f32(1, 3, 3, 5)),
  ],
  [`${op}: headFactors has dtype i32, expected f32, bf16, f16`, DTypeError, () => call(i32(1, 3, 2, 4), features())],
  [
    `${op}: featureFactors has dtype bf16, expected f32 (headFactors has dtype f32)`,
    DTypeError,
    () => call(heads(), bf16(1, 3, 2, 5)),
  ],
];

export default defineOp({
  name: 'tensorProduct',
  // B, T, R, H, D
  cases: [
    product([1, 1, 1, 1, 1]),
    product([1, 1, 1, 7, 5]),
    product([2, 31, 6, 12, 64]),
    product([1, 64, 2, 16, 128]),
    product([2, 97, 3, 1, 40]),
    product([1, 128, 16, 5, 24]),
    product([1, 257, 5, 9, 13], 100),
    product([1, 3, 16, 128, 256]),
    product([2, 2, 1, 33, 160]),
    product([1, 2, 19, 6, 515]), // wider and of higher rank than any tile
    product([1, 1023, 2, 3, 8]),
  ],
  repeated: [product([3, 67, 6, 5, 40])], // gradients are sums over heads and features
  small: [product([1, 4, 3, 4, 8])],
  random: (draw) => product([1, draw.size(19), draw.size(20), draw.size(20), draw.size(37)]),

  forward: { call: ops.tensorProduct, args: ({ headFactors, featureFactors }) => [headFactors, featureFactors] },
  backward: {
    call: ops.tensorProductBackward,
    args: ({ gradOutput, headFactors, featureFactors }) => [gradOutput, headFactors, featureFactors],
  },
  reference: {
    forward: ({ headFactors, featureFactors }) => ({ output: reference.tensorProduct(headFactors, featureFactors) }),
    backward: ({ gradOutput, headFactors, featureFactors }) => {
      const gradients = reference.tensorProductBackward(gradOutput, headFactors, featureFactors);
      return { headFactors: gradients.gradHeadFactors, featureFactors: gradients.gradFeatureFactors };
    },
  },
  special: { forward: {}, backward: {} },

  arguments: {
    tensorProduct: { refuses: refusals('tensorProduct', ops.tensorProduct) },
    tensorProductBackward: {
      refuses: [
        ...refusals('tensorProductBackward', (a, b) => ops.tensorProductBackward(f32(1, 3, 4, 5), a, b)),
        [
          'tensorProductBackward: gradOutput has shape [1, 3, 2, 5], expected [1, 3, 4, 5] (the shape of the output)',
          ShapeError,
          () => ops.tensorProductBackward(f32(1, 3, 2, 5), heads(), features()),
        ],
        [
          'tensorProductBackward: gradOutput has dtype bf16, expected f32 (headFactors has dtype f32)',
          DTypeError,
          () => ops.tensorProductBackward(bf16(1, 3, 4, 5), heads(), features()),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          const [headFactors, featureFactors] = [bf16(2, 3, 6, 4), bf16(2, 3, 6, 5)];
          const output = ops.tensorProduct(headFactors, featureFactors);
          expect(output).toMatchObject({ shape: [2, 3, 4, 5], dtype: 'bf16' });
          const gradients = ops.tensorProductBackward(output, headFactors, featureFactors);
          expect(gradients.gradHeadFactors).toMatchObject({ shape: [2, 3, 6, 4], dtype: 'bf16' });
          expect(gradients.gradFeatureFactors).toMatchObject({ shape: [2, 3, 6, 5], dtype: 'bf16' });
        },
      },
    },
  },
});
