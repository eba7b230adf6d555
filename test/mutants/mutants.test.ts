/** Every fault of `npm run test:mutants` fits the sources as they are and names tests that are there. Planting them is that command's. */
import { execFileSync } from 'node:child_process';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { describe, expect, it, test } from 'vitest';
import { root } from '../helpers/native_build.js';
import { type Planted, plant, testsOf } from './fault.js';
import { FAULTS } from './faults/index.js';

test('there are at least 80 faults, each with a name of its own, in every area', () => {
  expect(FAULTS.length).toBeGreaterThanOrEqual(80);
  expect(new Set(FAULTS.map(({ name }) => name)).size).toBe(FAULTS.length);
});

it.each(FAULTS.map((fault) => [fault.name, fault] as const))('%s', (_, fault) => {
  const text = readFileSync(join(root, fault.file), 'utf8');
  expect(plant(fault, text)).not.toBe(text);
  expect(fault.tests.length).toBeGreaterThan(0);
  for (const file of testsOf(fault).flatMap(({ files }) => files))
    expect(existsSync(join(root, file)), file).toBe(true);
});

test('the tests that they name are there', () => {
  const wanted = FAULTS.flatMap((fault) => testsOf(fault).map((tests) => ({ fault: fault.name, ...tests })));
  const folder = mkdtempSync(join(tmpdir(), 'sas-mutants-'));
  try {
    const list = join(folder, 'list.json');
    const files = [...new Set(wanted.flatMap(({ files }) => files))];
    const vitest = join(root, 'node_modules/vitest/vitest.mjs');
    execFileSync(
      process.execPath,
      [vitest, 'list', '--config', 'test/mutants/vitest.config.ts', `--json=${list}`, ...files],
      { cwd: root, env: { ...process.env, SAS_DEVICE: 'cpu' }, stdio: 'pipe' },
    );
    const there = JSON.parse(readFileSync(list, 'utf8')) as { name: string; file: string }[];
    const absent = wanted.filter(
      ({ files, part }) =>
        !there.some(
          ({ name, file }) =>
            files.some((each) => join(root, each) === file) && name.replaceAll(' > ', ' ').includes(part),
        ),
    );
    expect(absent).toEqual([]);
  } finally {
    rmSync(folder, { recursive: true });
  }
});

describe('a fault', () => {
  const fault: Planted = { name: 'f', file: 'a.ts', find: 'a + b;', replace: 'a - b;', tests: ['a.test.ts'] };

  it('fits whatever the white space', () => {
    expect(plant(fault, 'x = a\n  + b;')).toBe('x = a - b;');
  });

  it.each([
    ['x = b + a;', 0],
    ['x = a + b; y = a + b;', 2],
  ])('must fit once: %s', (text, places) => {
    expect(() => plant(fault, text)).toThrow(`f: a.ts has ${places} places like \`a + b;\`, expected 1`);
  });

  it('is planted as it is written', () => {
    expect(plant({ ...fault, replace: '$& $1' }, 'a + b;')).toBe('$& $1');
  });
});
