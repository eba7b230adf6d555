/** Calls whose operands share memory, of which one is written: no op may take them. */
import { Tensor } from '../../lib/index.js';
import type { Resource } from '../../lib/scope.js';
import { changed } from '../helpers/surplus.js';
import type { Draw } from './draw.js';

/** The n-th tensor among the arguments is another. */
const replaced = (args: readonly unknown[], n: number, tensor: Tensor): unknown[] =>
  [...changed(args, (part) => (part instanceof Tensor ? [tensor] : []))][n]?.[1] as unknown[];

/** Of what an op changes in place, a gradient beside moments is read only. */
const isWritten = (path: string): boolean => !path.endsWith('.gradient');

/**
 * The arguments of an op that writes in place after two of its tensors became one, or views of one, or overlap in one element.
 * Undefined where there are no two. Tensors that are made go to `made`.
 */
export function aliased(draw: Draw, args: readonly unknown[], made: Resource[]): unknown[] | undefined {
  const tensors: Tensor[] = [];
  const paths = [...changed(args, (part) => (part instanceof Tensor && tensors.push(part) ? [part] : []))];
  const pairs = tensors.flatMap((a, i) =>
    tensors.slice(0, i).flatMap((b, j) => {
      const written = isWritten(paths[i]?.[0] ?? '') || isWritten(paths[j]?.[0] ?? '');
      const possible = a.size === b.size || a.device.info.kind === 'cpu';
      return written && possible && a.dtype === 'f32' && b.dtype === 'f32' ? [[i, j] as const] : [];
    }),
  );
  if (pairs.length === 0) return undefined;
  const [i, j] = draw.pick(pairs);
  const [a, b] = [tensors[i], tensors[j]] as [Tensor, Tensor];
  if (a.size === b.size && draw.chance(0.6)) {
    const same = draw.chance(0.3) && String(a.shape) === String(b.shape) ? a : a.reshape(b.shape);
    made.push(same);
    return replaced(args, j, same);
  }
  if (a.device.info.kind !== 'cpu') return undefined;
  const memory = new Float32Array(a.size + b.size - 1);
  const first = Tensor.wrap(memory.subarray(0, a.size), a.shape);
  const second = Tensor.wrap(memory.subarray(a.size - 1), b.shape);
  made.push(first, second);
  return replaced(replaced(args, i, first), j, second);
}
