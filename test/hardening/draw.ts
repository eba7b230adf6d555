/** Seeded draws for the fuzzers: values of the right kind and of wrong ones. */
import type { Draw } from '../helpers/draw.js';
import { inAnotherRealm } from './realm.js';

export { Draw } from '../helpers/draw.js';

/** Thrown by getters that the fuzzers plant: an error of the caller's own passes through the library as it is. */
export class PlantedError extends Error {}

const thrower = (): never => {
  throw new PlantedError('planted');
};

/** Numbers that are no sizes, or no sizes that exist. */
const wrongNumbers: readonly unknown[] = [
  -1,
  0,
  -0,
  0.5,
  7,
  2 ** 31,
  2 ** 32,
  2 ** 32 + 1,
  2 ** 53,
  2 ** 53 - 1,
  2 ** 62,
  2 ** 63,
  -(2 ** 63),
  1e300,
  Number.MIN_VALUE,
  Number.NaN,
  Number.POSITIVE_INFINITY,
  Number.NEGATIVE_INFINITY,
];

/** No size that exists, or one beside the right one. */
export const wrongNumber = (draw: Draw, right: number): unknown =>
  draw.chance(0.4) ? right + draw.pick([-1, 1]) : draw.pick(wrongNumbers);

/** Values of every other kind; each call makes them anew, because some calls keep what they are given. */
export function wrongValue(draw: Draw): unknown {
  return draw.pick<() => unknown>([
    () => undefined,
    () => null,
    () => true,
    () => '3',
    () => 'cpu',
    () => 10n ** 30n,
    () => Symbol('s'),
    () => thrower,
    () => ({}),
    () => Object.freeze({ shape: [2], dtype: 'f32', size: 2 }),
    () => Object.create(null),
    () => [],
    () => [1, 2, 3],
    () => Object.freeze([1]),
    () => new Array(3),
    () => new Date(0),
    () => new Map([[1, 2]]),
    () => inAnotherRealm({ shape: [1, 2] }),
    () => new Proxy({}, { get: thrower, has: thrower, ownKeys: thrower }),
    () => new Proxy([1, 2], {}),
    () => Object.defineProperty([1, 2], 0, { get: thrower }),
    () => ({
      get shape() {
        return thrower();
      },
    }),
    () => ({ valueOf: thrower, toString: thrower }),
    () => wrongArray(draw),
    () => draw.pick(wrongNumbers),
  ])();
}

/** Arrays of host data of every kind but the plain one. */
export function wrongArray(draw: Draw): unknown {
  return draw.pick<() => unknown>([
    () => new Float64Array(3),
    () => new Uint8Array(4),
    () => new DataView(new ArrayBuffer(8)),
    () => new ArrayBuffer(8),
    () => new Float32Array(0),
    () => new Float32Array(new SharedArrayBuffer(16)),
    () => new Float32Array(new ArrayBuffer(8, { maxByteLength: 64 })),
    () => new Float32Array(new ArrayBuffer(32), 8, 2),
    () => detached(new Float32Array(4)),
    () => detached(new Int32Array(4)),
    () => Object.defineProperty(new Float32Array(2), 'length', { value: 1e6 }),
    () => new (class extends Float32Array {})(2),
    () => ['a', {}, Number.NaN],
    () => inAnotherRealm(draw.pick([new Float64Array(3), new Float32Array(0), [1, 1e39]])),
  ])();
}

/** The array after its buffer has gone elsewhere. */
export function detached<A extends Float32Array | Int32Array | Uint16Array>(array: A): A {
  structuredClone(array.buffer, { transfer: [array.buffer as ArrayBuffer] });
  return array;
}
