// Tensor.randn: the same numbers on every device, those of the published generator, for all 53 bits of a seed.
import { describe, expect, it } from 'vitest';
import { Tensor } from '../../lib/index.js';
import { relativeError } from '../helpers/compare.js';
import { device } from '../helpers/parity.js';
import { normalElement, philox } from '../reference/random.js';

const words = (text: string) => text.split(' ').map((word) => BigInt(`0x${word}`));

describe('randn', () => {
  // From the authors' known answers (Random123, kat_vectors).
  it.each([
    ['00000000 00000000 00000000 00000000', '00000000 00000000', '6627e8d5 e169c58d bc57ac4c 9b00dbd8'],
    ['ffffffff ffffffff ffffffff ffffffff', 'ffffffff ffffffff', '408f276d 41c83b0e a20bc7c6 6d5451fd'],
    ['243f6a88 85a308d3 13198a2e 03707344', 'a4093822 299f31d0', 'd16cfe09 94fdcceb 5001e420 24126ea1'],
  ])('the reference is Philox: %s', (counter, key, answer) => {
    expect(philox(words(counter), words(key))).toEqual(words(answer));
  });

  it.each([0, 7, 2 ** 32, 2 ** 32 + 7, 7 * 2 ** 40 + 7, Number.MAX_SAFE_INTEGER])('of seed %d', async (seed) => {
    const data = await Tensor.randn([1001], { seed, device }).data();
    const expected = Float64Array.from(data, (_, i) => normalElement(seed, i));
    expect(relativeError(data, expected)).toBeLessThanOrEqual(1e-7);
  });
});
