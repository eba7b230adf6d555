/** What the file system can do to a save or a load: kinds of files, links, names, modes, folders, and bits that flip. */
import { execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmod,
  chown,
  lstat,
  mkdir,
  mkdtemp,
  readdir,
  readFile,
  readlink,
  rm,
  stat,
  symlink,
  writeFile,
} from 'node:fs/promises';
import { createServer } from 'node:net';
import { freemem, tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, test } from 'vitest';
import {
  MultiHeadAttention,
  MultiHeadLatentAttention,
  SimulatedAttention,
  TensorProductAttention,
} from '../../lib/attentions/index.js';
import {
  ArgumentError,
  loadSafetensors,
  loadSafetensorsMetadata,
  SasAttention,
  type SasError,
  saveSafetensors,
  Tensor,
} from '../../lib/index.js';
import { small } from './helpers.js';

let folder: string;
const at = (...names: string[]) => join(folder, ...names);
beforeEach(async () => {
  folder = await mkdtemp(join(tmpdir(), 'sas-files-'));
});
afterEach(() => rm(folder, { recursive: true }));

const one = { shape: [1], data: Float32Array.of(1) };
const root = process.getuid?.() === 0;

async function rejection(promise: Promise<unknown>): Promise<SasError> {
  return promise.then(
    () => Promise.reject(new Error('expected a rejection')),
    (error: SasError) => error,
  );
}

/** Paths that name something else than a file, each with the word for it. */
type Special = readonly [what: string, make: (path: string) => Promise<unknown>];
const SPECIAL: readonly Special[] = [
  ['a folder', (path) => mkdir(path)],
  ['a FIFO', async (path) => execFileSync('mkfifo', [path])],
  ['a socket', (path) => new Promise<void>((resolve) => createServer().unref().listen(path, resolve))],
  ...(root ? [['a device', async (path: string) => execFileSync('mknod', [path, 'c', '1', '3'])] as const] : []),
];

describe('what is no regular file', () => {
  test.each(SPECIAL)('%s is refused and stays what it is', async (kind, make) => {
    await make(at('special'));
    const before = await lstat(at('special'));
    for (const path of [at('special'), at('link')]) {
      if (path === at('link')) await symlink('special', path);
      const calls = {
        saveSafetensors: () => saveSafetensors(path, [['a', one]]),
        loadSafetensors: () => loadSafetensors(path),
        loadSafetensorsMetadata: () => loadSafetensorsMetadata(path),
      };
      for (const [op, call] of Object.entries(calls)) {
        const error = await rejection(call());
        expect(error.message).toBe(`${op}: '${path}' is ${kind}, expected a regular file`);
        expect(error).toBeInstanceOf(ArgumentError);
      }
    }
    const { mode, ino } = await lstat(at('special'));
    expect({ mode, ino }).toEqual({ mode: before.mode, ino: before.ino });
    expect((await readdir(folder)).sort()).toEqual(['link', 'special']);
  });

  test('FIFOs that nobody writes hold up no other file', async () => {
    const fifos = Array.from({ length: 16 }, (_, i) => at(`fifo${i}`));
    execFileSync('mkfifo', fifos);
    const loads = fifos.map((path) => rejection(loadSafetensors(path)));
    await saveSafetensors(at('file'), [['a', one]]);
    expect((await loadSafetensors(at('file'))).get('a')?.data).toEqual(Float32Array.of(1));
    for (const error of await Promise.all(loads)) expect(error.message).toContain('is a FIFO');
  });
});

describe('links', () => {
  test('are followed, in chains, through folders and to files that are not there yet', async () => {
    await mkdir(at('far'));
    await mkdir(at('far', 'deep'));
    await symlink('far/deep', at('near'));
    await symlink('../file', at('near', 'back')); // from far/deep, whatever the way there
    await symlink('near/back', at('first'));
    for (const value of [1, 2]) {
      await saveSafetensors(at('first'), [['a', { shape: [1], data: Float32Array.of(value) }]]);
      expect(await readlink(at('first'))).toBe('near/back');
      expect(await readlink(at('far', 'deep', 'back'))).toBe('../file');
      expect((await lstat(at('far', 'file'))).isFile()).toBe(true);
      expect((await loadSafetensors(at('first'))).get('a')?.data).toEqual(Float32Array.of(value));
    }
    expect((await readdir(folder)).sort()).toEqual(['far', 'first', 'near']);
    expect((await readdir(at('far'))).sort()).toEqual(['deep', 'file']);
  });

  test('in a circle are refused', async () => {
    await symlink('b', at('a'));
    await symlink('a', at('b'));
    const error = await rejection(saveSafetensors(at('a'), [['a', one]]));
    expect(error).toMatchObject({ code: 'ELOOP', path: at('a') });
    expect(error.message).toContain(`saveSafetensors: '${at('a')}' cannot be written: ELOOP: `);
  });
});

describe('mode and owner', () => {
  test.each([0o600, 0o640, 0o444, 0o666])('%o is kept', async (mode) => {
    await saveSafetensors(at('file'), [['a', one]]);
    await chmod(at('file'), mode);
    await saveSafetensors(at('file'), [['b', one]]);
    expect((await stat(at('file'))).mode & 0o7777).toBe(mode);
    expect([...(await loadSafetensors(at('file'))).keys()]).toEqual(['b']);
  });

  test('a new file has what the umask leaves', async () => {
    await writeFile(at('other'), '');
    await saveSafetensors(at('file'), [['a', one]]);
    expect((await stat(at('file'))).mode).toBe((await stat(at('other'))).mode);
  });

  test.runIf(root)('the owner is kept', async () => {
    await writeFile(at('file'), '', { mode: 0o600 });
    await chown(at('file'), 65534, 65533);
    await saveSafetensors(at('file'), [['a', one]]);
    const { uid, gid, mode } = await stat(at('file'));
    expect({ uid, gid, mode: mode & 0o7777 }).toEqual({ uid: 65534, gid: 65533, mode: 0o600 });
  });
});

describe('names', () => {
  test.each(['n'.repeat(240), 'n'.repeat(255), 'ü'.repeat(127), '🫖'.repeat(63)])('%s', async (name) => {
    for (let i = 0; i < 2; i++) await saveSafetensors(at(name), [['a', one]]);
    expect((await loadSafetensors(at(name))).size).toBe(1);
    expect(await readdir(folder)).toEqual([name]);
  });

  test('the path is that of the call, though the current folder changes', async () => {
    const before = process.cwd();
    await mkdir(at('there'));
    try {
      process.chdir(folder);
      const saving = saveSafetensors('file', [['a', one]]);
      process.chdir(at('there'));
      await saving;
      process.chdir(folder);
      const loading = loadSafetensors('file');
      process.chdir(at('there'));
      expect((await loading).size).toBe(1);
    } finally {
      process.chdir(before);
    }
    expect((await readdir(folder)).sort()).toEqual(['file', 'there']);
  });

  test('messages name the target, and keep the code', async () => {
    const path = at('missing', 'file');
    for (const [op, deed, call] of [
      ['saveSafetensors', 'written', () => saveSafetensors(path, [['a', one]])],
      ['loadSafetensors', 'read', () => loadSafetensors(path)],
    ] as const) {
      const error = await rejection(call());
      expect(error.message).toBe(`${op}: '${path}' cannot be ${deed}: ENOENT: no such file or directory`);
      expect(error).toMatchObject({ code: 'ENOENT', path, errno: expect.any(Number), syscall: expect.any(String) });
    }
  });
});

describe('what a file cannot hold', () => {
  class Kept {
    format = 'pt';
  }
  const refused: [string, () => Promise<void>][] = [
    [
      'tensors is an array with an array at 0, expected pairs of a name and an entry, as a Map has them',
      () => saveSafetensors(at('x'), [[1 as never, one]]),
    ],
    [
      'tensors is an array with an array at 1, expected pairs of a name and an entry, as a Map has them',
      () =>
        saveSafetensors(at('x'), [
          ['1', one],
          [1 as never, one],
        ]),
    ],
    [
      "the name '1' occurs twice",
      () =>
        saveSafetensors(at('x'), [
          ['1', one],
          ['1', one],
        ]),
    ],
    [
      'tensors is an array with an array at 0, expected pairs of a name and an entry, as a Map has them',
      () => saveSafetensors(at('x'), [[Symbol('a') as never, one]]),
    ],
    [
      'tensors is an object, expected pairs of a name and an entry, as a Map has them',
      () => saveSafetensors(at('x'), { a: one } as never),
    ],
    [
      "tensors is 'ab', expected pairs of a name and an entry, as a Map has them",
      () => saveSafetensors(at('x'), 'ab' as never),
    ],
    [
      'tensors is an array with an object at 0, expected pairs of a name and an entry, as a Map has them',
      () => saveSafetensors(at('x'), [one] as never),
    ],
    ['a is undefined, expected an object', () => saveSafetensors(at('x'), [['a']] as never)],
    ['path is 3, expected a string', () => saveSafetensors(3 as never, [['a', one]])],
    ["path is '', expected the name of a file", () => saveSafetensors('', [['a', one]])],
    ["path is 'folder/', expected the name of a file", () => saveSafetensors('folder/', [['a', one]])],
    ["path is 'a\\u0000b', expected the name of a file", () => saveSafetensors('a\0b', [['a', one]])],
    [
      'metadata is an array, expected a plain object or a Map of strings',
      () => saveSafetensors(at('x'), [], { metadata: [] as never }),
    ],
    [
      'metadata is a Date, expected a plain object or a Map of strings',
      () => saveSafetensors(at('x'), [], { metadata: new Date() as never }),
    ],
    [
      'metadata is a Kept, expected a plain object or a Map of strings',
      () => saveSafetensors(at('x'), [], { metadata: new Kept() as never }),
    ],
    [
      'metadata is a Set, expected a plain object or a Map of strings',
      () => saveSafetensors(at('x'), [], { metadata: new Set() as never }),
    ],
    ["metadata is 'pt', expected an object", () => saveSafetensors(at('x'), [], { metadata: 'pt' as never })],
    [
      'metadata.a is 1, expected a string',
      () => saveSafetensors(at('x'), [], { metadata: new Map([['a', 1]]) as never }),
    ],
    [
      'a key of metadata is 1, expected a string',
      () => saveSafetensors(at('x'), [], { metadata: new Map([[1, 'a']]) as never }),
    ],
    ['checksum is 1, expected true or false', () => saveSafetensors(at('x'), [], { checksum: 1 as never })],
    [
      "metadata.sha256 is the checksum's, expected the option checksum: true with it",
      () => saveSafetensors(at('x'), [], { metadata: { sha256: 'a' } }),
    ],
    [
      'the call has 4 arguments, expected at most 3',
      () => (saveSafetensors as (...args: unknown[]) => Promise<void>)(at('x'), [], {}, 1),
    ],
  ];
  test.each(refused)('saveSafetensors: %s', async (message, call) => {
    const error = await rejection(call());
    expect(error.message).toBe(`saveSafetensors: ${message}`);
    expect(error).toBeInstanceOf(ArgumentError);
    expect(await readdir(folder)).toEqual([]);
  });

  test('metadata as a Map, as an object without a prototype, and as it was loaded', async () => {
    const metadata = new Map([
      ['format', 'pt'],
      ['__proto__', 'b'],
      ['2', 'c'],
      ['1', 'd'],
    ]);
    await saveSafetensors(at('a'), [['a', one]], { metadata });
    await saveSafetensors(at('b'), [['a', one]], { metadata: await loadSafetensorsMetadata(at('a')), checksum: true });
    await saveSafetensors(at('c'), [], { metadata: await loadSafetensorsMetadata(at('b')), checksum: true });
    await saveSafetensors(at('d'), [], { metadata: Object.assign(Object.create(null), { format: 'pt' }) });
    expect(await loadSafetensorsMetadata(at('a'))).toEqual(metadata);
    const { sha256, ...rest } = Object.fromEntries(await loadSafetensorsMetadata(at('c')));
    expect(rest).toEqual(Object.fromEntries(metadata));
    expect(sha256).toBe(createHash('sha256').digest('hex')); // of nothing, not that of the file before
    expect(await loadSafetensorsMetadata(at('d'))).toEqual(new Map([['format', 'pt']]));
  });
});

describe('the checksum', () => {
  const save = (path: string) =>
    saveSafetensors(
      path,
      [
        ['a', { shape: [3], data: Float32Array.of(1, 2, 3) }],
        ['b', Tensor.from([7], [1], { dtype: 'i32' })],
      ],
      { checksum: true },
    );

  test('is the SHA-256 of what is behind the header', async () => {
    await save(at('file'));
    const bytes = await readFile(at('file'));
    const data = bytes.subarray(8 + Number(bytes.readBigUInt64LE()));
    expect((await loadSafetensorsMetadata(at('file'))).get('sha256')).toBe(
      createHash('sha256').update(data).digest('hex'),
    );
    expect((await loadSafetensors(at('file'), { checksum: true })).size).toBe(2);
  });

  test('finds every bit that flips in the data, unless it is not to be looked at', async () => {
    await save(at('file'));
    const bytes = await readFile(at('file'));
    const start = 8 + Number(bytes.readBigUInt64LE());
    for (let bit = 0; bit < 8 * (bytes.length - start); bit++) {
      const copy = Buffer.from(bytes);
      copy[start + (bit >> 3)] = (copy[start + (bit >> 3)] as number) ^ (1 << (bit & 7));
      await writeFile(at('copy'), copy);
      const error = await rejection(loadSafetensors(at('copy')));
      expect(error.message).toMatch(
        /^loadSafetensors: .*copy is damaged: the SHA-256 of its data is [0-9a-f]{64}, expected [0-9a-f]{64} /,
      );
      expect(error).toBeInstanceOf(ArgumentError);
      expect((await loadSafetensors(at('copy'), { checksum: false })).size).toBe(2);
    }
  });

  test('can be demanded; one that is none is no checksum', async () => {
    await saveSafetensors(at('file'), [['a', one]]);
    expect((await rejection(loadSafetensors(at('file'), { checksum: true }))).message).toBe(
      `loadSafetensors: ${at('file')} has no checksum (sha256 in its metadata), expected one`,
    );
    await save(at('sum'));
    const text = (await readFile(at('sum'))).toString('latin1').replace(/"sha256":"..../, '"sha256":"none');
    await writeFile(at('sum'), text, 'latin1');
    expect((await loadSafetensors(at('sum'))).size).toBe(2);
    expect((await rejection(loadSafetensors(at('sum'), { checksum: true }))).message).toContain('has no checksum');
  });
});

describe('layout', () => {
  test('every tensor is aligned to its elements, whatever the length of the header', async () => {
    for (let length = 1; length <= 40; length++) {
      const name = 'n'.repeat(length);
      await saveSafetensors(at('file'), [
        [`${name}h`, { shape: [3], dtype: 'f16', data: Uint16Array.of(1, 2, 3) }],
        [`${name}f`, { shape: [1], data: Float32Array.of(1) }],
        [`${name}b`, { shape: [1], dtype: 'bf16', data: Uint16Array.of(4) }],
        [`${name}i`, { shape: [1], data: Int32Array.of(5) }],
      ]);
      const bytes = await readFile(at('file'));
      const start = 8 + Number(bytes.readBigUInt64LE());
      expect(start % 8).toBe(0);
      const header = JSON.parse(bytes.subarray(8, start).toString()) as Record<
        string,
        { dtype: string; data_offsets: [number, number] }
      >;
      for (const { dtype, data_offsets } of Object.values(header)) {
        expect((start + data_offsets[0]) % (dtype.endsWith('16') ? 2 : 4)).toBe(0);
      }
      // Wide elements first, else as given; the header in the order of the data.
      expect(Object.keys(header)).toEqual([`${name}f`, `${name}i`, `${name}h`, `${name}b`]);
      const begins = Object.values(header).map(({ data_offsets: [begin] }) => begin);
      expect(begins).toEqual([0, 4, 8, 14]);
    }
  });

  test('names stay in their order, numbers too', async () => {
    const names = ['b', '10', 'a', '2', '1', '__proto__', 'ä'];
    await saveSafetensors(
      at('file'),
      names.map((name) => [name, one]),
    );
    expect([...(await loadSafetensors(at('file'))).keys()]).toEqual(names);
    const header = (await readFile(at('file'))).subarray(8).toString();
    const places = names.map((name) => header.indexOf(`${JSON.stringify(name)}:`));
    expect(places).toEqual(places.toSorted((a, b) => a - b));
  });

  test('a state dict has the order of its module', async () => {
    const sizes = { width: 8, heads: 2 };
    for (const module of [
      new SasAttention(small),
      new MultiHeadAttention(sizes),
      new MultiHeadLatentAttention({ ...sizes, kvRank: 4, ropeDim: 2 }),
      new TensorProductAttention(sizes),
      new SimulatedAttention({ ...sizes, simHeads: 4, simHeadDim: 6 }),
    ]) {
      const names = [...module.parameters.keys()];
      expect([...(await module.stateDict()).keys()]).toEqual(names);
      await saveSafetensors(at('file'), await module.stateDict());
      expect([...(await loadSafetensors(at('file'))).keys()]).toEqual(names);
    }
    const layer = (name: string) => [`${name}.weight`, `${name}.bias`];
    const expansion = (name: string, maps: string[]) => maps.flatMap((map) => layer(`${name}.${map}`));
    const heads = ['0', '1.process'];
    const both = [...heads, '2', '3.process'];
    expect([...(await new SasAttention(small).stateDict()).keys()]).toEqual([
      ...expansion('sas_q', both),
      ...expansion('sas_k', both),
      ...expansion('sas_v', heads),
      ...layer('output_dense'),
    ]);
  });
});

// The arrays of Node 20 end at 4 GiB of bytes; this one is larger. It takes 4.1 GiB of memory and as much of the disk.
test.runIf(freemem() > 10 * 2 ** 30)(
  'a tensor of more than 4 GiB',
  async () => {
    const length = 2 ** 30 + 5;
    const marks = [0, 1, 2 ** 28, 2 ** 29 - 1, 2 ** 30 - 1, 2 ** 30, 2 ** 30 + 4];
    let data: Float32Array | null = new Float32Array(length);
    for (const [i, at] of marks.entries()) data[at] = i + 1;
    await saveSafetensors(at('file'), [['a', { shape: [length], data }]]);
    data = null;
    const loaded = (await loadSafetensors(at('file'))).get('a');
    expect(loaded?.shape).toEqual([length]);
    expect(marks.map((at) => loaded?.data[at])).toEqual(marks.map((_, i) => i + 1));
    expect(loaded?.data[2 ** 30 + 1]).toBe(0);
  },
  300_000,
);
