// The one measure and the one table of limits (relative L2 error per tensor, against a float64 reference).
import { expect } from 'vitest';
import { relativeError as measured, norm } from '../../lib/measure/relative_error.js';
import type { Array64 } from '../reference/array64.js';
import type { FloatType } from './random.js';

export interface Values {
  shape: readonly number[];
  data: ArrayLike<number>;
}

/**
 * The largest error that passes, for every shape alike. `naiveError` is the error, against the same float64 truth, of the
 * unfused pipeline in the same precision (every step rounded to the storage type).
 */
export function limit(dtype: FloatType | 'tf32', kind: 'output' | 'gradient', naiveError: number): number {
  if (Number.isNaN(naiveError)) throw new Error('limit: the naive error is NaN');
  if (dtype === 'f32') return Math.max(kind === 'output' ? 2e-6 : 5e-6, 2 * naiveError);
  if (dtype === 'tf32') return Math.max(kind === 'output' ? 1e-3 : 2e-3, 2 * naiveError);
  return 2 * naiveError + (kind === 'output' ? 1e-3 : 2e-3);
}

/** The gradient that is zero in exact arithmetic: largest norm, relative to the norm of the gradient of sas_k.2.bias. */
export const vanishingParameter = 'sas_k.3.process.bias';
export const vanishingScaleFrom = 'sas_k.2.bias';
export function vanishingLimit(dtype: FloatType): number {
  return dtype === 'f32' ? 1e-5 : 1e-2;
}

/**
 * ||actual - reference|| / ||reference||, as `lib/measure` has it. A reference of norm 0 has no relative error: the norm is then
 * taken relative to `zeroScale`, and without one only exact zeros pass. What cannot be a reference throws.
 */
export function relativeError(actual: ArrayLike<number>, reference: ArrayLike<number>, zeroScale = 0): number {
  if (actual.length !== reference.length) throw new Error(`${actual.length} values, reference has ${reference.length}`);
  for (let i = 0; i < reference.length; i++) {
    if (Number.isNaN(reference[i])) throw new Error(`reference value ${i} is NaN`);
  }
  return measured(actual, reference, norm(reference) || zeroScale);
}

interface Worst {
  error: number;
  limit: number;
  label: string;
  count: number;
}
const worstByGroup = new Map<string, Worst>();

function record(label: string, error: number, bound: number): void {
  const group = label.split(':')[0];
  const worst = worstByGroup.get(group);
  const ratio = Number.isNaN(error) ? Number.POSITIVE_INFINITY : error / bound;
  if (worst === undefined) {
    worstByGroup.set(group, { error, limit: bound, label, count: 1 });
    return;
  }
  worst.count++;
  if (ratio > worst.error / worst.limit) Object.assign(worst, { error, limit: bound, label });
}

/**
 * What is wrong, or undefined: passes only if error <= limit, so that a NaN fails. The label is 'group: tensor'; the summary
 * has one line per group.
 */
export function faultOf(error: number, bound: number, label: string): string | undefined {
  record(label, error, bound);
  if (process.env.SAS_TEST_VERBOSE === '1') {
    console.log(`${label}: error ${error.toExponential(2)}, limit ${bound.toExponential(2)}`);
  }
  // A limit that is not a finite number would let everything pass.
  if (Number.isFinite(bound) && error <= bound) return undefined;
  return `${label}: relative error ${error.toExponential(3)} exceeds the limit ${bound.toExponential(3)}`;
}

export function expectError(error: number, bound: number, label: string): void {
  const fault = faultOf(error, bound, label);
  if (fault !== undefined) expect.fail(fault);
}

export function expectShape(actual: readonly number[], reference: readonly number[], label: string): void {
  expect([...actual], `${label}: shape`).toEqual([...reference]);
}

export function expectClose(
  actual: Values,
  reference: Array64,
  bound: number,
  label: string,
  options: { zeroScale?: number } = {},
): void {
  expectShape(actual.shape, reference.shape, label);
  expectError(relativeError(actual.data, reference.data, options.zeroScale), bound, label);
}

/** Per group, the check that came closest to its limit. */
export function worstChecks(): { group: string; checks: number; error: number; limit: number; label: string }[] {
  return [...worstByGroup].map(([group, { count, ...worst }]) => ({ group, checks: count, ...worst }));
}

/** One line per group. For a test file's afterAll. */
export function summary(): string {
  const lines = worstChecks().map(({ group, checks, error, limit: bound, label }) => {
    const share = ((100 * error) / bound).toFixed(0);
    return `${group}: ${checks} checks, worst ${share}% of its limit (${error.toExponential(2)} of ${bound.toExponential(2)}, ${label})`;
  });
  return lines.join('\n');
}
