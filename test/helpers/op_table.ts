// Every op that the library exports has its description in test/ops, under its name: crossEntropy in cross_entropy.ts.
import { ops } from '../../lib/index.js';
import type { Op } from './op.js';

const names = Object.keys(ops).filter((name) => name !== 'naive' && !name.endsWith('Backward'));
const fileOf = (name: string): string => name.replace(/([a-z])([A-Z])(?=[a-z])/g, '$1_$2').toLowerCase();

/** In the order of their names. A description may hold variants of its op. */
export const opTable: readonly Op[] = (
  await Promise.all(
    names.map(async (name) => {
      const description = (await import(`../ops/${fileOf(name)}.ts`)) as { default: Op | readonly Op[] };
      return description.default;
    }),
  )
).flat();
