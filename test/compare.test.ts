// The tools of the parity tests: the error measure and the 16-bit storage types.
import { describe, expect, it } from 'vitest';
import { expectClose, expectError, limit, relativeError } from './helpers/compare.js';
import { fromBf16Bits, fromF16Bits, toBf16Bits, toF16Bits } from './helpers/random.js';
import { type Array64, array64 } from './reference/index.js';

describe('the measure itself', () => {
  it('lets no NaN, infinity, wrong zero or wrong shape pass', () => {
    const one = array64([3, 4], [2]);
    const zero = array64([0, 0], [2]);
    const masked = array64([Number.NEGATIVE_INFINITY, 2], [2]);
    const fails = (actual: number[], expected: Array64, zeroScale = 0) => {
      const values = { shape: [2], data: actual };
      expect(() => expectClose(values, expected, 0.1, 'measure: must fail', { zeroScale })).toThrow();
    };
    fails([3, Number.NaN], one);
    fails([3, Number.POSITIVE_INFINITY], one);
    fails([3, 4.6], one);
    fails([0, 1e-30], zero);
    fails([0, Number.NaN], zero, 1);
    fails([0, 0.2], zero, 1);
    fails([-1e30, 2], masked);
    fails([Number.NaN, 2], masked);
    fails([3], array64([3], [1]));
    expect(relativeError([3, 4.5], one.data)).toBeCloseTo(0.1, 12);
    expect(relativeError([0, 0.05], zero.data, 1)).toBeCloseTo(0.05, 12);
    expect(relativeError([Number.NEGATIVE_INFINITY, 2], masked.data)).toBe(0);
    expect(() => limit('f32', 'output', Number.NaN)).toThrow();
    expect(() => expectError(1, Number.POSITIVE_INFINITY, 'measure: must fail')).toThrow();
  });
});

describe('16-bit storage types', () => {
  it.each([
    ['bf16', toBf16Bits, fromBf16Bits, 0x7f80],
    ['f16', toF16Bits, fromF16Bits, 0x7c00],
  ] as const)('%s rounds to nearest, ties to even', (_, toBits, fromBits, infinity) => {
    const wrong: number[] = [];
    for (let bits = 0; bits < infinity - 1; bits++) {
      const [low, high] = [fromBits(bits), fromBits(bits + 1)];
      const middle = (low + high) / 2; // exact in f32
      const even = bits % 2 === 0 ? bits : bits + 1;
      const below = Math.fround(middle - (middle - low) / 64);
      const above = Math.fround(middle + (high - middle) / 64);
      const ok =
        toBits(low) === bits &&
        toBits(-low) === (bits | 0x8000) &&
        toBits(middle) === even &&
        // Subnormal bf16 neighbours are too close for f32 to separate their thirds; all others are.
        (low < 2 ** -126 || (toBits(below) === bits && toBits(above) === bits + 1));
      if (!ok) wrong.push(bits);
    }
    expect(wrong).toEqual([]);
    expect(toBits(fromBits(infinity))).toBe(infinity);
    expect(fromBits(toBits(Number.NaN))).toBeNaN();
  });
});
