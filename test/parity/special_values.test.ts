// NaN, infinities and denormals through every op on this device: a share of test/hardening/special_values.ts.
import { randomInt } from 'node:crypto';
import { describe, expect, it } from 'vitest';
import { keepDenormals, propagate } from '../hardening/special_values.js';
import { device, timeout } from '../helpers/parity.js';

describe('special values', () => {
  it('NaN and infinities spread as in float64', { timeout }, async () => {
    const seed = randomInt(2 ** 32);
    const { checked, faults } = await propagate(device, seed);
    expect(checked).toBeGreaterThan(200);
    expect(faults, `seed ${seed}`).toEqual([]);
  });

  it('denormals are kept', { timeout }, async () => {
    const seed = randomInt(2 ** 32);
    const { checked, faults } = await keepDenormals(device, seed);
    expect(checked).toBeGreaterThan(15);
    expect(faults, `seed ${seed}`).toEqual([]);
  });
});
