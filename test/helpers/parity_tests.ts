// Parity with float64: every case of every described op, and the tests that an op has for itself.
import { afterAll, describe, it } from 'vitest';
import { summary } from './compare.js';
import type { Case, Op } from './op.js';
import { compare, dispose, dtypesOf, expectDtypes, groupOf, here, problemOf, run, truthOf } from './op_run.js';
import { expectWithinLimits, timeout } from './parity.js';
import type { FloatType } from './random.js';

/**
 * One case against its limits. Of `random` sizes the twin only sets the limits of the op: it flips the signs of other ReLU
 * arguments than the reference in few elements, which nothing averages out.
 */
export async function checkCase(op: Op, item: Case, dtype: FloatType, random = false): Promise<void> {
  const problem = problemOf(op, item, dtype);
  const truth = truthOf(problem);
  const results = run(op, problem);
  expectDtypes(problem, results);
  const { fused, naive, naiveErrors, roundedErrors } = await compare(problem, truth, results);
  const group = groupOf(op, dtype);
  if (naive && roundedErrors && !random) {
    expectWithinLimits(`naive.${group}`, item.label, dtype, naive, truth, roundedErrors);
  }
  expectWithinLimits(random ? `random ${group}` : group, item.label, dtype, fused, truth, naiveErrors);
  await op.also?.(problem.tensors, item.options, fused, { dtype, naiveErrors });
  dispose(problem);
}

/** Every `of`-th case, so that files which run side by side have equal shares; an op's own tests are in one of them. */
export function parityTests(table: readonly Op[], share: { part: number; of: number }): void {
  const isMine = (i: number) => i % share.of === share.part;
  let cases = 0;
  afterAll(() => console.log(summary()));
  for (const [i, op] of table.entries()) {
    const mine = op.cases.filter(() => isMine(cases++)).map(here);
    if (mine.length === 0 && !(isMine(i) && op.extra)) continue;
    for (const dtype of dtypesOf(op)) {
      describe(groupOf(op, dtype), () => {
        const held = mine.filter(({ dtypes }) => dtypes?.includes(dtype) ?? true);
        it.each(held.map((item): [string, Case] => [item.label, item]))('%s', { timeout }, (_, item) =>
          checkCase(op, item, dtype),
        );
        if (isMine(i)) op.extra?.(dtype);
      });
    }
  }
}
