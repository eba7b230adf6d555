/** Values of another realm, as a `vm` context or Jest's sandbox makes them: equal, but of other constructors. */
import { runInNewContext } from 'node:vm';

interface Realm {
  readonly record: (value: object) => object;
  readonly list: (value: readonly unknown[]) => unknown[];
  readonly array: (name: string, value: ArrayLike<number>) => unknown;
}

const realm = runInNewContext(`({
  record: (value) => ({ ...value }),
  list: (value) => [...value],
  array: (name, value) => new globalThis[name](value),
})`) as Realm;

/** The same value of another realm, and so are the arrays and records in it. Instances of classes are what they are. */
export function inAnotherRealm(value: unknown): unknown {
  if (Array.isArray(value)) return realm.list(value.map(inAnotherRealm));
  if (ArrayBuffer.isView(value)) return realm.array(value.constructor.name, value as Float32Array);
  if (typeof value !== 'object' || value === null || Object.getPrototypeOf(value) !== Object.prototype) return value;
  const entries = Object.entries(value).map(([key, item]) => [key, inAnotherRealm(item)]);
  return realm.record(Object.fromEntries(entries));
}
