/** The one measure of how far a result is off. */

/** Of the finite values: an infinity has no size. */
export function norm(values: ArrayLike<number>): number {
  let sum = 0;
  for (let i = 0; i < values.length; i++) {
    const value = values[i] as number;
    if (Math.abs(value) !== Number.POSITIVE_INFINITY) sum += value ** 2;
  }
  return Math.sqrt(sum);
}

/**
 * ||actual - expected|| / scale, by default the norm of `expected`. Where `expected` is infinite (logSumExp of a row that sees
 * no key), `actual` must be that infinity; any other infinity or NaN makes the error infinite or NaN, so does another
 * length. No difference is an error of 0, whatever the scale.
 */
export function relativeError(
  actual: ArrayLike<number>,
  expected: ArrayLike<number>,
  scale: number = norm(expected),
): number {
  if (actual.length !== expected.length) return Number.NaN;
  let difference = 0;
  for (let i = 0; i < expected.length; i++) {
    const [a, e] = [actual[i] as number, expected[i] as number];
    if (Math.abs(e) === Number.POSITIVE_INFINITY) {
      if (a !== e) return Number.NaN;
    } else {
      difference += (a - e) ** 2;
    }
  }
  return difference === 0 ? 0 : Math.sqrt(difference) / scale;
}
