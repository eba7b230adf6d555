/** Lifetimes: which tensors die when a block of code ends. */
import { types } from 'node:util';
import { together } from './buffers.js';
import { call, describe, isPlain } from './checks.js';
import { ArgumentError } from './errors.js';

/** What a scope can dispose of. */
export interface Resource {
  dispose(): void;
}

/** What has been made in the innermost scope that is running. */
let current: Set<Resource> | null = null;

/** Puts a new resource under the care of the innermost scope, if one is running. */
export function track(resource: Resource): void {
  current?.add(resource);
}

/** Takes a resource out of the innermost scope's care: its maker has another owner for it. */
export function forget(resource: Resource): void {
  current?.delete(resource);
}

/**
 * Runs `body` and disposes every `Tensor` and `SasSaved` made inside, except those found in what it returns: itself, or
 * inside arrays, plain objects, Maps and Sets (not inside instances of other classes). What survives belongs to the
 * enclosing scope, if there is one. The parameters of a `SasAttention` made inside belong to it and live on.
 *
 * A scope ends when its body returns, so the body must be synchronous: one that returns a promise throws ArgumentError.
 * When the body throws, everything made inside is disposed.
 */
export function scope<R>(body: () => R): R {
  const op = call('scope', arguments.length, 1);
  if (typeof body !== 'function') throw new ArgumentError(`${op}: body is ${describe(body)}, expected a function`);
  const outer = current;
  const made = new Set<Resource>();
  let kept: ReadonlySet<unknown> = new Set();
  current = made;
  try {
    const result = body();
    refusePromise(result);
    kept = reachable(result);
    return result;
  } finally {
    current = outer;
    together(() => {
      for (const resource of made) {
        if (kept.has(resource)) track(resource);
        else resource.dispose();
      }
    });
  }
}

function refusePromise(result: unknown): void {
  if (typeof result !== 'object' || result === null || !('then' in result) || typeof result.then !== 'function') return;
  // Its tensors are about to go, so it is bound to fail; the error below is the one to see.
  Promise.resolve(result).catch(() => {});
  throw new ArgumentError(
    'scope: the body returned a promise, expected a synchronous body (a scope ends when its body returns: ' +
      'return the tensors, and await outside of the scope)',
  );
}

/** Every object found in `value` through arrays, plain objects, Maps and Sets. */
function reachable(value: unknown, found = new Set<unknown>()): Set<unknown> {
  if (typeof value === 'object' && value !== null && !found.has(value)) {
    found.add(value);
    for (const child of children(value)) reachable(child, found);
  }
  return found;
}

function children(value: object): Iterable<unknown> {
  if (Array.isArray(value) || types.isSet(value)) return value;
  if (types.isMap(value)) return [...value.keys(), ...value.values()];
  return isPlain(value) ? Object.values(value) : [];
}
