/** Arguments so odd that the message itself, or the native side, could trip over them; each was found by the fuzzer. */
import { describe, expect, test } from 'vitest';
import { binding } from '../../lib/binding.js';
import { ArgumentError, getDevice, SasError, ShapeError, Tensor } from '../../lib/index.js';
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

  test.each([0, -1, Number.NaN, Number.POSITIVE_INFINITY, '1'])('seconds of a measurement: %s', async (seconds) => {
    await expect(getDevice('cpu').measurePeakFlops(seconds as never)).rejects.toBeInstanceOf(ArgumentError);
  });
});

describe('the binding', () => {
  const device = binding.openDevice('cpu');
  const floats = (count: number) => binding.upload(device, new Float32Array(count));
  const empty = floats(0);

  test('products of sizes that overflow are not taken for what is left of them', () => {
    const huge = 2 ** 32; // heads * heads is 2^64
    const weights = [empty, empty, empty, empty];
    const call = () => binding.expand(0, 1, huge, 1, huge, 1, 1, false, false, 0, 0, 0, empty, weights, empty);
    expect(thrownBy(call).message).toMatch(/^expand: /);
  });

  const rotated = (tokens: number, width: number, naive: boolean, length: number) => {
    const sizes = [tokens, 1, width, 1, width, 1] as const;
    const [x, output] = [floats(tokens * width), floats(tokens * width)];
    binding.expand(0, ...sizes, false, naive, length, 100, 0, x, [1, 1, 1, 1].map(floats), output);
  };

  test('takes what is refused below but for one number', () => {
    expect(() => rotated(2, 2, false, 2)).not.toThrow();
    expect(() => rotated(2, 2, false, 1)).not.toThrow();
  });

  test.each<[string, () => void]>([
    ['an empty axis', () => binding.aggregate(0, 1, 0, 0, 1, empty, empty)],
    [
      'heads that kvHeads does not divide',
      () =>
        binding.attention(
          0,
          1,
          1,
          1,
          3,
          2,
          1,
          1,
          false,
          1,
          false,
          floats(3),
          floats(2),
          floats(2),
          floats(3),
          floats(3),
        ),
    ],
    [
      'an even kernel',
      () =>
        binding.expand(
          0,
          1,
          1,
          1,
          1,
          1,
          2,
          false,
          false,
          0,
          0,
          0,
          floats(1),
          [floats(2), floats(1), floats(2), floats(1)],
          floats(1),
        ),
    ],
    ['an odd width of a fused rope', () => rotated(2, 1, false, 1)],
    ['a fused rope of sequences that do not divide the tokens', () => rotated(3, 2, false, 2)],
    ['a rope of the unfused pipeline', () => rotated(2, 2, true, 1)],
    ['an odd width of rope', () => binding.rope(0, 1, 1, 1, 3, 100, 0, false, false, floats(3), floats(3))],
    ['numbers of heads of which none is 1', () => binding.concat(0, 1, 2, 3, 1, 1, floats(2), floats(3), floats(6))],
    [
      'a gradient of more heads than its tensor has',
      () => binding.concatBackward(0, 1, 2, 1, 1, 1, floats(4), floats(2), floats(2)),
    ],
    ['factors of another rank', () => binding.tensorProduct(0, 1, 2, 3, 1, floats(6), floats(1), floats(3))],
    [
      'too few positions',
      () =>
        binding.embedding(0, 1, 2, 1, 1, 1, binding.upload(device, new Int32Array(2)), floats(1), floats(1), floats(2)),
    ],
    [
      'f16 gradients of an f32 op',
      () =>
        binding.attentionBackward(
          0,
          1,
          2,
          2,
          1,
          1,
          1,
          1,
          false,
          1,
          false,
          2,
          floats(2),
          floats(2),
          floats(2),
          floats(2),
          floats(2),
          floats(2),
          floats(1),
          floats(1),
          floats(1),
        ),
    ],
    ['a list of nothing', () => binding.adamW([], 1, 0.9, 0.9, 1, 0, 1)],
  ])('refuses %s', (_, call) => {
    expect(thrownBy(call)).toBeInstanceOf(SasError);
  });

  test('an operand released by a getter while the call reads its arguments', () => {
    const gradient = floats(4);
    const gradients = [gradient, gradient];
    Object.defineProperty(gradients, 1, {
      get: () => {
        binding.release(gradient);
        return floats(4);
      },
    });
    const call = () => binding.clipGradNorm(gradients, [4, 4], 1, floats(1));
    expect(thrownBy(call).message).toBe('clipGradNorm: an operand was released during the call');
  });

  test('wrapped memory that has been detached', async () => {
    const data = new Float32Array(4);
    const wrapped = binding.wrap(device, data); // Tensor.wrap marks the buffer, which stops structuredClone only
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(thrownBy(() => binding.add(0, 4, wrapped, wrapped, floats(4))).message).toContain('has been detached');
    expect(() => binding.read(wrapped, 0, 4, new Float32Array(4))).toThrow('has been detached');
    binding.release(wrapped);
  });
});
