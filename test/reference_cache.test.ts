// The cache of float64 references (helpers/reference_cache.ts): what is read is what was computed, or it is computed anew.
import { execFile } from 'node:child_process';
import {
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterEach, describe, expect, it } from 'vitest';
import { type Arrays, type CacheKey, ReferenceCache } from './helpers/reference_cache.js';

const folder = mkdtempSync(join(tmpdir(), 'sas-reference-cache-'));
afterEach(() => rmSync(folder, { recursive: true, force: true }));

const settings = { folder, version: 'one' };
const files = () => readdirSync(folder).map((name) => join(folder, name));

function keyOf(values: number[], facts: unknown = ['op', { scale: 2 }]): CacheKey {
  const bits = Float32Array.from(values);
  return { facts, inputs: { x: { exact: { shape: [bits.length] }, bits } } };
}

/** Every kind of number, a scalar and an empty array among them. */
const truth = (): Arrays => ({
  output: { shape: [2, 3], data: Float64Array.of(Number.NaN, Number.POSITIVE_INFINITY, -0, 5e-324, 1 / 3, -1e308) },
  loss: { shape: [], data: Float64Array.of(Number.NEGATIVE_INFINITY) },
  nothing: { shape: [0, 4], data: new Float64Array(0) },
});

const never = (): Arrays => {
  throw new Error('computed again');
};

describe('the cache of references', () => {
  it('gives back every bit, in another process too', () => {
    const first = new ReferenceCache(settings);
    expect(first.get(keyOf([1, 2]), truth)).toEqual(truth());
    const second = new ReferenceCache(settings);
    const read = second.get(keyOf([1, 2]), never);
    expect(read).toEqual(truth());
    expect(Object.is(read.output.data[2], -0)).toBe(true);
    expect(second.counts).toEqual({ read: 1, computed: 0, spoiled: 0 });
  });

  it.each<[string, () => [CacheKey, string]]>([
    ['one bit of an input', () => [keyOf([1, 2 + 2 ** -22]), 'one']],
    ['the sign of a zero', () => [keyOf([1, -0]), 'one']],
    ['the options', () => [keyOf([1, 2], ['op', { scale: 3 }]), 'one']],
    ['the sources', () => [keyOf([1, 2]), 'another']],
    [
      'the shape',
      () => [{ ...keyOf([1, 2]), inputs: { x: { ...keyOf([1, 2]).inputs.x, exact: { shape: [2, 1] } } } }, 'one'],
    ],
  ])('another key for another value of %s', (_, other) => {
    const cache = new ReferenceCache(settings);
    for (const values of [
      [1, 2],
      [1, 0],
    ])
      cache.get(keyOf(values), truth);
    const [key, version] = other();
    const changed = new ReferenceCache({ folder, version });
    changed.get(key, truth);
    expect(changed.counts).toEqual({ read: 0, computed: 1, spoiled: 0 });
  });

  it.each<[string, (file: Buffer) => Buffer]>([
    [
      'a flipped bit of a value',
      (file) => {
        file[file.length - 3] ^= 1;
        return file;
      },
    ],
    [
      'a flipped bit of the header',
      (file) => {
        file[50] ^= 4;
        return file;
      },
    ],
    [
      'a flipped bit of the checksum',
      (file) => {
        file[5] ^= 128;
        return file;
      },
    ],
    ['a file cut short', (file) => file.subarray(0, file.length - 8)],
    ['a file with nothing in it', () => Buffer.alloc(0)],
    ['a file of zeros', (file) => Buffer.alloc(file.length)],
    ['bytes after the end', (file) => Buffer.concat([file, Buffer.alloc(8)])],
  ])('notices %s, and computes anew', (_, spoil) => {
    new ReferenceCache(settings).get(keyOf([1, 2]), truth);
    const [file] = files();
    writeFileSync(file, spoil(readFileSync(file)));
    const cache = new ReferenceCache(settings);
    expect(cache.get(keyOf([1, 2]), truth)).toEqual(truth());
    expect(cache.counts).toEqual({ read: 0, computed: 1, spoiled: 1 });
    expect(new ReferenceCache(settings).get(keyOf([1, 2]), never)).toEqual(truth());
  });

  it('without settings computes every time and writes nothing', () => {
    const cache = new ReferenceCache(undefined);
    for (let i = 0; i < 2; i++) cache.get(keyOf([1, 2]), truth);
    expect(cache.counts).toEqual({ read: 0, computed: 2, spoiled: 0 });
  });

  it('goes on where the folder cannot be made', () => {
    const blocked = join(tmpdir(), `sas-reference-cache-${process.pid}`);
    writeFileSync(blocked, '');
    const cache = new ReferenceCache({ ...settings, folder: blocked });
    expect(cache.get(keyOf([1, 2]), truth)).toEqual(truth());
    rmSync(blocked);
  });

  it('stays below its size, and what was used last stays', () => {
    mkdirSync(folder, { recursive: true });
    const entry = () => ({ output: { shape: [1000], data: new Float64Array(1000) } });
    // Files are counted when a process first writes.
    for (let i = 0; i < 20; i++) {
      const before = files().length;
      new ReferenceCache({ ...settings, maxBytes: 50_000 }).get(keyOf([i]), entry);
      for (const [age, file] of files().entries()) if (before === 0) utimesSync(file, age, age);
    }
    const total = files().reduce((sum, file) => sum + statSync(file).size, 0);
    expect(total).toBeLessThanOrEqual(50_000);
    expect(files().length).toBeGreaterThan(2);
    new ReferenceCache(settings).get(keyOf([19]), () => {
      throw new Error('the newest is gone');
    });
  });

  it('may be written by several processes at once', async () => {
    const program = `
      import { ReferenceCache } from '${join(import.meta.dirname, 'helpers/reference_cache.ts')}';
      const cache = new ReferenceCache(${JSON.stringify(settings)});
      for (let round = 0; round < 20; round++) {
        for (let i = 0; i < 10; i++) {
          const bits = Float32Array.of(i);
          const data = new Float64Array(5000).fill(i);
          const read = cache.get({ facts: [], inputs: { x: { exact: { shape: [1] }, bits } } }, () => ({ output: { shape: [5000], data } }));
          if (read.output.data.some((value) => value !== i)) throw new Error('another entry');
        }
      }
      if (cache.counts.spoiled > 0) throw new Error('half an entry');`;
    const run = () => promisify(execFile)(process.execPath, ['--import', 'tsx', '--input-type=module', '-e', program]);
    await Promise.all([run(), run(), run()]);
    expect(files().length).toBe(10);
  });
});
