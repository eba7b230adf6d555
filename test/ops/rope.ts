import { expect } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { activation, type Case, defineOp } from '../helpers/op.js';
import * as reference from '../reference/index.js';

/** x [B, T, H, D] */
function rope([batch, time, heads, width]: readonly number[], options: ops.RopeOptions = {}): Case<ops.RopeOptions> {
  const shape = [batch, time, heads, width];
  return {
    label: `B=${batch} T=${time} H=${heads} D=${width} ${JSON.stringify(options)}`,
    options,
    inputs: { x: activation(shape), gradOutput: activation(shape) },
  };
}

export default defineOp<ops.RopeOptions>({
  name: 'rope',
  cases: [
    rope([1, 1, 1, 8]),
    rope([2, 31, 3, 24]),
    rope([1, 97, 2, 40], { interleaved: true }),
    rope([1, 1023, 1, 96], { base: 500 }),
    rope([1, 2, 2, 112], { offset: 1000, interleaved: true }),
    rope([2, 5, 1, 2], { offset: 7 }),
  ],
  repeated: [rope([3, 67, 3, 40]), rope([3, 67, 3, 40], { interleaved: true })],
  small: [rope([1, 4, 2, 8])],
  random: (draw) => {
    const options = { base: 100, offset: draw.below(5), interleaved: draw.chance(0.5) };
    return rope([1, draw.size(), 2, 2 * draw.size(20)], options);
  },

  forward: { call: ops.rope, args: ({ x }, options) => [x, options] },
  backward: { call: ops.ropeBackward, args: ({ gradOutput }, options) => [gradOutput, options] },
  reference: {
    forward: ({ x }, options) => ({ output: reference.rope(x, options) }),
    backward: ({ gradOutput }, options) => ({ x: reference.ropeBackward(gradOutput, options) }),
  },
  special: { forward: {}, backward: {} },

  arguments: {
    rope: {
      refuses: [
        ['rope: x has shape [2, 3, 4], expected [B, T, H, D]', ShapeError, () => ops.rope(f32(2, 3, 4))],
        [
          'rope: the width of x is 5, expected a multiple of 2 (rotary positions rotate pairs of features)',
          ShapeError,
          () => ops.rope(f32(1, 2, 3, 5)),
        ],
        [
          'rope: base is 0, expected a finite number above 0',
          ArgumentError,
          () => ops.rope(f32(1, 2, 3, 4), { base: 0 }),
        ],
        [
          'rope: offset is 0.5, expected an integer at least 0',
          ArgumentError,
          () => ops.rope(f32(1, 2, 3, 4), { offset: 0.5 }),
        ],
        [
          "rope: interleaved is 'yes', expected true or false",
          ArgumentError,
          () => ops.rope(f32(1, 2, 3, 4), { interleaved: 'yes' as never }),
        ],
        [
          'ropeBackward: gradOutput has dtype i32, expected f32, bf16, f16',
          DTypeError,
          () => ops.ropeBackward(i32(1, 2, 3, 4)),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.rope(bf16(1, 2, 3, 4))).toMatchObject({ shape: [1, 2, 3, 4], dtype: 'bf16' });
          expect(ops.ropeBackward(f32(1, 2, 3, 4))).toMatchObject({ shape: [1, 2, 3, 4], dtype: 'f32' });
        },
      },
    },
  },
});
