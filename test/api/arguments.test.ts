/** What every op refuses, and how it says so; what it returns; and that no argument is so odd that only native code notices. */
import { describe, expect, test } from 'vitest';
import { getDevice, SasError, scope } from '../../lib/index.js';
import { Draw } from '../helpers/draw.js';
import { libraryCalls } from '../helpers/library_calls.js';
import { opTable } from '../helpers/op_table.js';
import { expectRefusal, thrownBy } from './helpers.js';

describe.each(opTable.flatMap((op) => Object.entries(op.arguments)))('%s', (_, { refuses, tests = {} }) => {
  test.each(refuses)('%s', (...refusal) => expectRefusal(refusal));
  test.each(Object.entries(tests))('%s', (_, body) => body());
});

/** Of the kind of no argument that is a number, a tensor, a list or a record. */
const odd: readonly [string, () => unknown][] = [
  ['null', () => null],
  ['a string', () => '3'],
  ['a bigint', () => 3n],
  ['a symbol', () => Symbol('s')],
  ['a function', () => () => 3],
  ['NaN', () => Number.NaN],
  ['a negative number', () => -1],
];

describe.each(libraryCalls.map((calls) => [calls.name, calls] as const))('%s', (_, { make }) => {
  test.each(odd)('%s in the place of any argument is refused before native code sees it', (_, wrong) => {
    scope(() => {
      const { run, args } = make(new Draw(1), getDevice('cpu'), []);
      expect(args.length).toBeGreaterThan(0);
      for (const i of args.keys()) {
        const error = thrownBy(() => (run as (...all: unknown[]) => unknown)(...args.with(i, wrong())));
        expect(error, `argument ${i}`).toBeInstanceOf(SasError);
        expect(error.code, `argument ${i}: ${error.message}`).not.toBe('SAS_INTERNAL');
      }
    });
  });
});
