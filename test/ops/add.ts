import { expect } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { activation, type Case, defineOp } from '../helpers/op.js';
import * as reference from '../reference/index.js';

const add = (...shape: number[]): Case => ({
  label: `${reference.sizeOf(shape)} values`,
  options: {},
  inputs: { a: activation(shape), b: activation(shape), gradOutput: activation(shape) },
});

export default defineOp({
  name: 'add',
  cases: [add(1), add(7), add(1023)],
  repeated: [add(3, 67, 3, 40)],
  small: [add(8, 16)],
  random: (draw) => add(draw.size(), 2),

  forward: { call: ops.add, args: ({ a, b }) => [a, b] },
  backward: { call: ops.addBackward, args: ({ gradOutput }) => [gradOutput] },
  reference: {
    forward: ({ a, b }) => ({ output: reference.add64(a, b) }),
    backward: ({ gradOutput }) => ({ a: gradOutput, b: gradOutput }),
  },
  special: { forward: {}, backward: {} },

  noFixtures: 'nothing to get wrong',
  arguments: {
    add: {
      refuses: [
        ['add: b has shape [3], expected [2, 3] (the shape of a)', ShapeError, () => ops.add(f32(2, 3), f32(3))],
        ['add: b has dtype bf16, expected f32 (a has dtype f32)', DTypeError, () => ops.add(f32(2), bf16(2))],
        ['add: a has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.add(i32(2), i32(2))],
        [
          'addBackward: gradOutput is undefined, expected a Tensor',
          ArgumentError,
          () => ops.addBackward(undefined as never),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.addBackward(f32(2, 3)).gradB.shape).toEqual([2, 3]);
        },
      },
    },
  },
});
