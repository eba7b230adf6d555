/**
 * Tilings of a card with 99 KB of shared memory per block, whose kernels wait where others have a second buffer: a few cases of
 * each. The matrix runs everything so (small-shared-memory).
 */
import { describe, it } from 'vitest';
import { attentionOf } from '../helpers/attention_shapes.js';
import type { Case, Op } from '../helpers/op.js';
import { here } from '../helpers/op_run.js';
import { timeout } from '../helpers/parity.js';
import { checkCase } from '../helpers/parity_tests.js';
import attention from '../ops/attention.js';
import expansions from '../ops/expand.js';

const [expand] = expansions;
const referenceSize = expand.cases.filter(({ label }) => label.includes("H=12 D=64 H'=36"));
const cases: readonly [Op, Case][] = [
  [attention, attentionOf({ time: 70, heads: [4, 2], width: [160, 112] })],
  [attention, attentionOf({ time: [64, 97], heads: 2, width: 256, causal: false })],
  ...referenceSize.map((item): [Op, Case] => [expand, here(item)]),
];

describe('99 KB of shared memory', () => {
  it.each(cases.map(([op, item]) => [op.name, item.label, op, item] as const))(
    '%s %s',
    { timeout },
    async (_, __, op, item) => {
      for (const dtype of ['f32', 'bf16'] as const) await checkCase(op, item, dtype);
    },
  );
});
