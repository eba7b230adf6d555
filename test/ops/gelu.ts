import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { expectError } from '../helpers/compare.js';
import { activation, type Case, defineOp } from '../helpers/op.js';
import { activation as pairOf, valuesOf } from '../helpers/parity.js';
import * as reference from '../reference/index.js';

interface Options {
  approximate?: reference.GeluApproximation;
}

function gelu(shape: readonly number[], approximate: reference.GeluApproximation, scale = 1): Case<Options> {
  return {
    label: `${approximate}, ${reference.sizeOf(shape)} values x${scale}`,
    options: { approximate },
    inputs: { x: activation(shape, scale), gradOutput: activation(shape) },
  };
}

const forms = ['none', 'tanh'] as const;
const each = (shape: readonly number[], scale?: number) => forms.map((form) => gelu(shape, form, scale));

export default defineOp<Options>({
  name: 'gelu',
  cases: [...each([1]), ...each([1000]), ...each([1023], 4), ...each([257], 100)],
  repeated: each([3, 67, 3, 40]),
  small: each([8, 16]),
  random: (draw) => gelu([draw.size(), draw.size()], draw.pick(forms)),

  forward: { call: ops.gelu, args: ({ x }, options) => [x, options] },
  backward: { call: ops.geluBackward, args: ({ gradOutput, x }, options) => [gradOutput, x, options] },
  reference: {
    forward: ({ x }, { approximate }) => ({ output: reference.gelu(x, approximate) }),
    backward: ({ gradOutput, x }, { approximate }) => ({ x: reference.geluBackward(gradOutput, x, approximate) }),
  },
  special: { forward: {}, backward: {} },

  arguments: {
    gelu: {
      refuses: [
        ['gelu: x is 3, expected a Tensor', ArgumentError, () => ops.gelu(3 as never)],
        ['gelu: x has dtype i32, expected f32, bf16, f16', DTypeError, () => ops.gelu(i32(3))],
        ['gelu: x has shape [0], expected [...] with every size at least 1', ShapeError, () => ops.gelu(f32(0))],
        [
          "gelu: approximate is 'erf', expected 'none' or 'tanh'",
          ArgumentError,
          () => ops.gelu(f32(3), { approximate: 'erf' as never }),
        ],
        [
          'geluBackward: gradOutput has shape [2], expected [3] (the shape of x)',
          ShapeError,
          () => ops.geluBackward(f32(2), f32(3)),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.gelu(bf16(2, 3))).toMatchObject({ shape: [2, 3], dtype: 'bf16' });
          expect(ops.gelu(f32())).toMatchObject({ shape: [] });
        },
      },
    },
  },

  extra: (dtype) => {
    it('is the erf form by default', async () => {
      const x = pairOf([257], 3, dtype);
      expect(await valuesOf(ops.gelu(x.tensor))).toEqual(await valuesOf(ops.gelu(x.tensor, { approximate: 'none' })));
    });
  },

  referenceTests: () => {
    // To the last digit of a float64, from tables of the error function.
    it.each([
      [0, 0],
      [1e-3, 0.0011283787909692363],
      [0.5, 0.5204998778130465],
      [1, 0.8427007929497149],
      [1.9999, 0.9953201979070294],
      [2, 0.9953222650189527],
      [2.5, 0.999593047982555],
      [3, 0.9999779095030014],
      [5, 0.9999999999984626],
    ])('erf(%d)', (x, expected) => {
      expectError(Math.abs(reference.erf(x) - expected), 1e-15, 'erf: value');
      expect(reference.erf(-x)).toBe(-reference.erf(x));
    });
    it('erfc keeps its relative accuracy in the tail', () => {
      expectError(Math.abs(reference.erfc(5) / 1.537459794428035e-12 - 1), 1e-14, 'erfc: 5');
      expectError(Math.abs(reference.erfc(10) / 2.088487583762545e-45 - 1), 1e-13, 'erfc: 10');
    });
  },
});
