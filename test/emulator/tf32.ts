/**
 * SAS_TF32=1: products of f32 on tensor cores, which take 11 significant bits of each factor. Held against float64 with limits of
 * their own, and seen to differ from full f32.
 */
import { afterAll, describe, expect, it } from 'vitest';
import { expectError, limit } from '../helpers/compare.js';
import type { Case, Op } from '../helpers/op.js';
import { compare, dispose, here, problemOf, run, truthOf } from '../helpers/op_run.js';
import { errorsOf, timeout } from '../helpers/parity.js';
import attention from '../ops/attention.js';
import attentionMean from '../ops/attention_mean.js';
import expansions from '../ops/expand.js';
import linear from '../ops/linear.js';

const FULL_F32 = 1e-5; // no result of full f32 has a larger error in these cases

const [expand] = expansions;
/** Where scores are large, rounded factors decide about everything. */
const casesOf = (op: Op): readonly Case[] => op.cases.filter(({ label }) => !/scale|x100/.test(label));

describe.each([attention, attentionMean, expand, linear].map((op): [string, Op] => [op.name, op]))(
  'tf32 %s',
  (_, op) => {
    let worst = 0;
    it.each(casesOf(op).map((item): [string, Case] => [item.label, here(item)]))(
      '%s',
      { timeout },
      async (label, item) => {
        const problem = problemOf(op, item, 'f32');
        const truth = truthOf(problem);
        const { fused, naiveErrors } = await compare(problem, truth, run(op, problem));
        dispose(problem);
        for (const [name, error] of Object.entries(errorsOf(fused, truth))) {
          worst = Math.max(worst, error);
          const kind = name in truth.outputs ? 'output' : 'gradient';
          expectError(error, limit('tf32', kind, naiveErrors[name]), `tf32 ${op.name}: ${label}, ${name}`);
        }
      },
    );
    afterAll(() => {
      console.info(`tf32 ${op.name}: largest error ${worst.toExponential(1)}`);
      expect(worst, 'tf32 is in use').toBeGreaterThan(FULL_F32);
    });
  },
);
