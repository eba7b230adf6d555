/** Arguments so odd that the message itself, or the native side, could trip over them; each was found by the fuzzer. */
import { describe, expect, test } from 'vitest';
import type { DTypeCode } from '../../binding.js';
import { binding } from '../../lib/binding.js';
import { ArgumentError, getDevice, SasError, ShapeError, Tensor } from '../../lib/index.js';
import { allocate } from '../hardening/raw_calls.js';
import { expectRefusal, f32, thrownBy } from './helpers.js';

describe('messages', () => {
  test('sizes that no string can be made of', () => {
    expectRefusal([
      'Tensor.zeros: shape is [an object, Symbol(s)], expected integers of at least 0',
      ShapeError,
      () => Tensor.zeros([Object.create(null), Symbol('s')] as never),
    ]);
    expectRefusal([
      'Tensor.reshape: shape is [Symbol(s), -1], expected integers of at least 0',
      ShapeError,
      () => f32(2).reshape([Symbol('s'), -1] as never),
    ]);
  });

  test.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY, '1', null, 1e-50])(
    'seconds of a measurement: %s',
    async (seconds) => {
      await expect(getDevice('cpu').measurePeakFlops(seconds as never)).rejects.toBeInstanceOf(ArgumentError);
    },
  );
});

describe('the binding', () => {
  const device = binding.openDevice('cpu');
  const make = (dtype: DTypeCode, ...shape: number[]) => allocate(device, dtype, shape);
  const floats = (...shape: number[]) => make(0, ...shape);

  test.each([[2 ** 32, 2 ** 32], [2 ** 53 - 1], [2, 2 ** 62]])('a shape that no memory holds: %s, %s', (...shape) => {
    expect(thrownBy(() => floats(...shape)).message).toMatch(/^allocate: /);
  });

  test('shapes of more sizes than any tensor has', () => {
    expect(() => floats(1, 1, 1, 1, 1, 1, 1, 1)).not.toThrow();
    expect(() => floats(1, 1, 1, 1, 1, 1, 1, 1, 1)).toThrow('allocate: a shape has more than 8 sizes');
  });

  interface Expansion {
    x?: number[];
    output?: number[];
    kernel?: number;
    count?: number;
    naive?: boolean;
  }
  const expand = ({ x = [1, 2, 1, 2], output = x, kernel = 1, count = 4, naive = false }: Expansion = {}) => {
    const weights = [floats(1, 1, kernel), floats(1), floats(1, 1, kernel), floats(1)].slice(0, count);
    binding.expand(floats(...x), weights, floats(...output), null, null, null, naive, 100, 0);
  };
  const attention = ({ heads = 2, k = [1, 3, 2, 3], v = [1, 3, 2, 4], last = 1 } = {}) => {
    const [q, output, logSumExp] = [floats(1, 1, heads, 3), floats(1, 1, heads, 4), floats(1, heads / last, last)];
    binding.attention(q, floats(...k), floats(...v), output, logSumExp, true, 1, false);
  };
  const gradients = (dtype: DTypeCode, naive = false) => {
    const [x, logSumExp] = [floats(1, 2, 1, 1), floats(1, 1, 2)];
    const [gradQ, gradK, gradV] = [make(dtype, 1, 2, 1, 1), make(dtype, 1, 2, 1, 1), make(dtype, 1, 2, 1, 1)];
    binding.attentionBackward(x, x, x, x, x, logSumExp, gradQ, gradK, gradV, false, 1, naive);
  };

  test('takes what is refused below but for one thing', () => {
    expand();
    attention();
    gradients(0);
    binding.concat(floats(1, 2, 1), floats(1, 1, 3), floats(1, 2, 4));
    binding.concatBackward(floats(1, 2, 2), floats(1, 2, 1), floats(1, 1, 1));
    binding.aggregate(floats(1, 4, 3), floats(1, 6));
  });

  test.each<[string, () => void]>([
    ['an empty axis', () => binding.aggregate(floats(1, 0, 1), floats(1, 0))],
    ['heads that kvHeads does not divide', () => attention({ heads: 3 })],
    ['keys of another width than the queries', () => attention({ k: [1, 3, 2, 4] })],
    ['as many elements in another shape', () => attention({ last: 2 })],
    ['an operand of another rank', () => attention({ v: [3, 2, 4] })],
    ['an even kernel', () => expand({ kernel: 2 })],
    ['a list of three weights', () => expand({ count: 3 })],
    ['an odd width of a fused rope', () => expand({ x: [1, 2, 1, 3] })],
    ['an output of another width without weights for it', () => expand({ output: [1, 2, 1, 4] })],
    ['a rope of the unfused pipeline', () => expand({ naive: true })],
    ['an odd width of rope', () => binding.rope(floats(1, 1, 1, 3), floats(1, 1, 1, 3), 100, 0, false, false)],
    ['a mean of heads that are not whole', () => binding.aggregate(floats(1, 4, 3), floats(1, 4))],
    ['numbers of heads of which none is 1', () => binding.concat(floats(1, 2, 1), floats(1, 3, 1), floats(1, 3, 2))],
    ['parts that are not as wide as the whole', () => binding.concat(floats(1, 1), floats(1, 1), floats(1, 3))],
    [
      'a gradient of more heads than its tensor has',
      () => binding.concatBackward(floats(1, 2, 2), floats(1, 1, 1), floats(1, 1, 1)),
    ],
    ['factors of another rank', () => binding.tensorProduct(floats(1, 2, 3), floats(1, 1, 1), floats(1, 3, 1))],
    ['too few positions', () => binding.embedding(make(3, 1, 2), floats(1, 1), floats(1, 1), floats(1, 2, 1))],
    ['f16 gradients of an f32 op', () => gradients(2)],
    ['integers where floats are expected', () => binding.add(make(3, 2), make(3, 2), null, make(3, 2))],
    ['two dtypes', () => binding.add(floats(2), floats(2), null, make(1, 2))],
    ['one buffer for two outputs', () => ((x) => binding.concatBackward(floats(1, 2, 2), x, x))(floats(1, 2, 1))],
    ['an input as the output', () => ((x) => binding.gelu(x, x, false))(floats(2))],
    ['a list of nothing', () => binding.adamW([], [], [], [], null, 1, 0.9, 0.9, 1, 0, 1)],
    ['a view of another number of elements', () => binding.share(floats(2, 3), [5])],
    ['a target of another kind', () => binding.readSync(floats(2), new Int32Array(2))],
    ['a target of another length', () => binding.readSync(make(1, 2), new Float32Array(3))],
    ['a source of another kind', () => binding.upload(device, 1, [2], new Float32Array(2))],
  ])('refuses %s', (_, call) => {
    expect(thrownBy(call)).toBeInstanceOf(SasError);
  });

  test('an operand released by a getter while the call reads its arguments', () => {
    const gradient = floats(4);
    const gradients = [gradient, gradient];
    Object.defineProperty(gradients, 1, {
      get: () => {
        binding.release([gradient]);
        return floats(4);
      },
    });
    const call = () => binding.clipGradNorm(gradients, floats(), 1);
    expect(thrownBy(call).message).toBe('clipGradNorm: an operand was released during the call');
  });

  test('wrapped memory that has been detached', async () => {
    const data = new Float32Array(4);
    const wrapped = binding.wrap(device, 0, [4], data); // Tensor.wrap marks the buffer, which stops structuredClone only
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(thrownBy(() => binding.add(wrapped, wrapped, null, floats(4))).message).toContain('has been detached');
    expect(() => binding.read(wrapped, new Float32Array(4))).toThrow('has been detached');
    binding.release([wrapped]);
  });
});
