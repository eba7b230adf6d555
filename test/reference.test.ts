// Before a float64 reference sets the limits of an op: it agrees with PyTorch autograd where there are fixtures, and finite
// differences prove its gradients.
import { afterAll, describe, expect, it } from 'vitest';
import { summary } from './helpers/compare.js';
import { opCases } from './helpers/fixtures.js';
import { compareWithDifferences, compareWithFixture, type Differentiable } from './helpers/gradient_checks.js';
import { opTable } from './helpers/op_table.js';
import { array64 } from './reference/index.js';

afterAll(() => console.log(summary()));

describe.each(opTable.map((op) => [op.name, op] as const))('%s', (name, op) => {
  const fixtures = opCases(name);
  const { forward, backward } = op.reference;
  it('has fixtures, or says why not', () => {
    expect(fixtures.length === 0).toBe(op.noFixtures !== undefined);
  });
  if (fixtures.length > 0) {
    it('agrees with PyTorch autograd', () => {
      for (const fixture of fixtures)
        compareWithFixture(name, { forward, backward } as Differentiable<unknown>, fixture);
    });
  }

  if (backward !== undefined) {
    const differentiable = { forward, backward };
    const gradientsOf = (inputs: object) =>
      Object.entries(inputs).flatMap(([key, { role }]) => (role === 'integer' || key === 'gradOutput' ? [] : [key]));
    if (fixtures.length > 0) {
      it('has the gradients that finite differences show', () => {
        for (const fixture of fixtures)
          compareWithDifferences(name, differentiable, fixture, Object.keys(fixture.gradients));
      });
    }
    it.each(op.small.map((item) => [item.label, item] as const))(
      'has the gradients that finite differences show (%s)',
      (_, { inputs, options, seed = 1 }) => {
        const arrays = Object.entries(inputs).map(([key, { shape, values }], i) => [
          key,
          array64(values(seed + i), shape),
        ]);
        expect(arrays.length).toBeGreaterThan(1);
        compareWithDifferences(
          name,
          differentiable,
          { inputs: Object.fromEntries(arrays), options },
          gradientsOf(inputs),
        );
      },
    );
  }
  op.referenceTests?.();
});
