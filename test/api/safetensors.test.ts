import { mkdtemp, readdir, readFile, rm, truncate, writeFile } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import {
  ArgumentError,
  DisposedError,
  DTypeError,
  loadSafetensors,
  loadSafetensorsMetadata,
  OutOfMemoryError,
  SasAttention,
  type SasError,
  ShapeError,
  saveSafetensors,
  Tensor,
} from '../../lib/index.js';
import { f32, small } from './helpers.js';

let folder: string;
let path: string;
beforeAll(async () => {
  folder = await mkdtemp(join(tmpdir(), 'safetensors-'));
  path = join(folder, 'model.safetensors');
});
afterAll(() => rm(folder, { recursive: true }));

/** A file of that header and those bytes of data, the length as announced or as it is. */
async function write(header: string | object, data: number | Uint8Array = 0, announced?: bigint): Promise<string> {
  const json = Buffer.from(typeof header === 'string' ? header : JSON.stringify(header));
  const length = Buffer.alloc(8);
  length.writeBigUInt64LE(announced ?? BigInt(json.length));
  await writeFile(path, Buffer.concat([length, json, typeof data === 'number' ? Buffer.alloc(data) : data]));
  return path;
}

async function rejection(promise: Promise<unknown>): Promise<SasError> {
  try {
    await promise;
  } catch (error) {
    return error as SasError;
  }
  throw new Error('expected a rejection');
}

describe('round trip', () => {
  test('every dtype, from tensors and from arrays', async () => {
    await saveSafetensors(path, [
      ['narrow', Tensor.from([1, -2, 3], [3], { dtype: 'bf16' })],
      ['half', { shape: [1], dtype: 'f16', data: Uint16Array.of(0x3c00) }],
      ['wide', Tensor.from([1, 2, 3, 4], [2, 2])],
      ['array', { shape: [2], data: Float32Array.of(5, 6).subarray(0, 2) }],
      ['tokens', { shape: [2, 1], data: Int32Array.of(-7, 8) }],
      ['scalar', Tensor.from([9], [])],
      ['nothing', { shape: [0, 4], data: new Float32Array(0) }],
      ['__proto__', { shape: [1], data: Float32Array.of(10) }],
      ['7', { shape: [1], data: Float32Array.of(11) }],
    ]);
    const loaded = await loadSafetensors(path);
    expect(Object.fromEntries(loaded)).toEqual(
      Object.fromEntries([
        ['narrow', { shape: [3], dtype: 'bf16', data: Uint16Array.of(0x3f80, 0xc000, 0x4040) }],
        ['half', { shape: [1], dtype: 'f16', data: Uint16Array.of(0x3c00) }],
        ['wide', { shape: [2, 2], dtype: 'f32', data: Float32Array.of(1, 2, 3, 4) }],
        ['array', { shape: [2], dtype: 'f32', data: Float32Array.of(5, 6) }],
        ['tokens', { shape: [2, 1], dtype: 'i32', data: Int32Array.of(-7, 8) }],
        ['scalar', { shape: [], dtype: 'f32', data: Float32Array.of(9) }],
        ['nothing', { shape: [0, 4], dtype: 'f32', data: new Float32Array(0) }],
        ['__proto__', { shape: [1], dtype: 'f32', data: Float32Array.of(10) }],
        ['7', { shape: [1], dtype: 'f32', data: Float32Array.of(11) }],
      ]),
    );
    expect(loaded.size).toBe(9);
  });

  test('the layout is the published one', async () => {
    await saveSafetensors(path, [['a', { shape: [2], data: Float32Array.of(1, 2) }]], { metadata: { format: 'pt' } });
    const bytes = await readFile(path);
    const length = Number(bytes.readBigUInt64LE());
    expect(length % 8).toBe(0);
    expect(JSON.parse(bytes.subarray(8, 8 + length).toString())).toEqual({
      __metadata__: { format: 'pt' },
      a: { dtype: 'F32', shape: [2], data_offsets: [0, 8] },
    });
    expect(bytes.readFloatLE(8 + length)).toBe(1);
    expect(bytes.length).toBe(8 + length + 8);
    expect(await loadSafetensorsMetadata(path)).toEqual(new Map([['format', 'pt']]));
    expect([...(await loadSafetensors(path)).keys()]).toEqual(['a']);
  });

  test('a module through a file', async () => {
    const [source, target] = [new SasAttention({ ...small, seed: 1 }), new SasAttention({ ...small, seed: 2 })];
    await saveSafetensors(path, source.parameters);
    target.loadStateDict(await loadSafetensors(path));
    expect(await target.stateDict()).toEqual(await source.stateDict());
    await saveSafetensors(path, await source.stateDict());
    target.loadStateDict(await loadSafetensors(path));
    expect(await target.stateDict()).toEqual(await source.stateDict());
  });

  test('tensors are saved as they were at the call', async () => {
    const t = Tensor.from([1, 2], [2]);
    const saving = saveSafetensors(path, [['t', t]]);
    t.copyFrom([3, 4]);
    t.dispose();
    await saving;
    expect((await loadSafetensors(path)).get('t')?.data).toEqual(Float32Array.of(1, 2));
  });

  test('offsets may be in another order than names, with a padded header', async () => {
    const a = { dtype: 'F32', shape: [1], data_offsets: [2, 6] };
    const b = { dtype: 'BF16', shape: [1], data_offsets: [0, 2] };
    const data = Uint8Array.of(1, 0, 0, 0, 0x80, 0x3f);
    const loaded = await loadSafetensors(await write(`${JSON.stringify({ a, b })}   `, data));
    expect(loaded.get('a')?.data).toEqual(Float32Array.of(1));
    expect(loaded.get('b')?.data).toEqual(Uint16Array.of(1));
    expect([...loaded.keys()]).toEqual(['a', 'b']);
    expect((await loadSafetensors(await write({}))).size).toBe(0);
  });
});

describe('saving', () => {
  test('replaces the file, or leaves it as it was, and leaves nothing beside it', async () => {
    await saveSafetensors(path, [['old', f32(2)]]);
    await saveSafetensors(path, [['new', f32(2)]]);
    expect([...(await loadSafetensors(path)).keys()]).toEqual(['new']);
    const gone = f32(2);
    gone.dispose();
    await expect(saveSafetensors(path, [['x', gone]])).rejects.toBeInstanceOf(DisposedError);
    await expect(saveSafetensors(join(folder, 'missing', 'x'), [['x', f32(2)]])).rejects.toMatchObject({
      code: 'ENOENT',
    });
    await expect(saveSafetensors(folder, [['x', f32(2)]])).rejects.toThrow();
    expect([...(await loadSafetensors(path)).keys()]).toEqual(['new']);
    expect(await readdir(folder)).toEqual(['model.safetensors']);
    expect(
      (await readdir(join(folder, '..'))).filter((name) => name.endsWith('.tmp') && name.startsWith('safetensors-')),
    ).toEqual([]);
  });

  const one = { shape: [1], data: new Float32Array(1) };
  test.each<[string, abstract new (...args: never[]) => object, () => Promise<void>]>([
    [
      "saveSafetensors: the name 'a' occurs twice",
      ArgumentError,
      () =>
        saveSafetensors(path, [
          ['a', one],
          ['a', one],
        ]),
    ],
    [
      "saveSafetensors: the name '__metadata__' is reserved",
      ArgumentError,
      () => saveSafetensors(path, [['__metadata__', one]]),
    ],
    [
      'saveSafetensors: a has 1 elements, expected 2 (shape [2])',
      ShapeError,
      () => saveSafetensors(path, [['a', { ...one, shape: [2] }]]),
    ],
    [
      'saveSafetensors: a has a Uint16Array, expected a Float32Array (f32)',
      DTypeError,
      () => saveSafetensors(path, [['a', { shape: [1], data: new Uint16Array(1) }]]),
    ],
    [
      "saveSafetensors: a.dtype is 'f64', expected f32, bf16, f16, i32",
      DTypeError,
      () => saveSafetensors(path, [['a', { ...one, dtype: 'f64' as never }]]),
    ],
    [
      'saveSafetensors: a is undefined, expected an object',
      ArgumentError,
      () => saveSafetensors(path, [['a', undefined as never]]),
    ],
    [
      'saveSafetensors: metadata.step is 3, expected a string',
      ArgumentError,
      () => saveSafetensors(path, [], { metadata: { step: 3 as never } }),
    ],
    [
      "saveSafetensors: there is no option 'meta'; known: metadata, checksum",
      ArgumentError,
      () => saveSafetensors(path, [], { meta: {} } as never),
    ],
  ])('%s', async (message, kind, call) => {
    const error = await rejection(call());
    expect(error.message).toBe(message);
    expect(error).toBeInstanceOf(kind);
  });
});

describe('hostile files', () => {
  const a = { dtype: 'F32', shape: [1], data_offsets: [0, 4] };
  const huge = 2 ** 53 - 1;
  test.each<[string, string | object, (number | undefined)?, bigint?]>([
    ['the header has 18446744073709551615 bytes, expected at most 6', '{"a":1', 0, 2n ** 64n - 1n],
    ['the header has 7 bytes, expected at most 6', '{"a":1', 0, 7n],
    ['the header is not JSON', '{"a":1', 0],
    ['the header is not a JSON object', '[]'],
    ['the header is not a JSON object', ' {}'],
    ['the header is not a JSON object', 'null'],
    ["'a' is not an object", { a: 1 }],
    ["'a' is not an object", { a: [] }],
    ["the name 'a' occurs twice", `{"a":${JSON.stringify(a)},"\\u0061":${JSON.stringify(a)}}`, 4],
    ["the name '__metadata__' occurs twice", '{"__metadata__":{},"__metadata__":{}}'],
    ["'__metadata__' has 'k' twice", '{"__metadata__":{"k":"a","\\u006b":"b"}}'],
    ["'a' has 'shape' twice", '{"a":{"shape":[2],"dtype":"F32","shape":[1],"data_offsets":[0,4]}}', 4],
    ["'a' has 'data_offsets' twice", `{"a":${JSON.stringify(a).replace('}', ',"data_offsets":[0,4]}')}}`, 4],
    ['__metadata__ is not a map of strings', { __metadata__: { a: 1 } }],
    ['__metadata__ is not a map of strings', { __metadata__: [] }],
    ["the shape of 'a' is not a list of sizes", { a: { ...a, shape: [-1] } }, 4],
    ["the shape of 'a' is not a list of sizes", { a: { ...a, shape: [0.5] } }, 4],
    ["the shape of 'a' is not a list of sizes", { a: { ...a, shape: '1' } }, 4],
    ["the shape of 'a' is not a list of sizes", { a: { dtype: 'F32', data_offsets: [0, 4] } }, 4],
    ["the data_offsets of 'a' are not two offsets", { a: { ...a, data_offsets: [0] } }, 4],
    ["the data_offsets of 'a' are not two offsets", { a: { ...a, data_offsets: [-4, 0] } }, 4],
    ["the data_offsets of 'a' are not two offsets", { a: { ...a, data_offsets: ['0', '4'] } }, 4],
    ["'a' has -4 bytes, expected 4 (f32 [1])", { a: { ...a, data_offsets: [4, 0] } }, 4],
    ["'a' has 8 bytes, expected 4 (f32 [1])", { a: { ...a, data_offsets: [0, 8] } }, 8],
    ["'a' has 4 bytes, expected", { a: { ...a, shape: [huge, huge] } }, 4],
    ["'a' has 4 bytes, expected Infinity", { a: { ...a, shape: new Array(40).fill(huge) } }, 4],
    ["'a' begins at byte 4, expected 0 (no gaps, no overlaps)", { a: { ...a, data_offsets: [4, 8] } }, 8],
    ["'b' begins at byte 0, expected 4 (no gaps, no overlaps)", { a, b: a }, 8],
    ["'b' begins at byte 2, expected 4 (no gaps, no overlaps)", { a, b: { ...a, data_offsets: [2, 6] } }, 8],
    ['the tensors have 4 bytes, expected 5 (the rest of the file)', { a }, 5],
    ['the tensors have 4 bytes, expected 3 (the rest of the file)', { a }, 3],
    [
      "the data_offsets of 'a' are not two offsets",
      { a: { dtype: 'F32', shape: [9007199254740990], data_offsets: [0, 36028797018963960] } },
      4,
    ],
    [
      'the tensors have 1099511627776 bytes, expected 4',
      { a: { dtype: 'F32', shape: [2 ** 38], data_offsets: [0, 2 ** 40] } },
      4,
    ],
  ])('%s: %j', async (fault, header, data = 0, announced) => {
    const error = await rejection(loadSafetensors(await write(header, data, announced)));
    expect(error.message).toContain(fault);
    expect(error).toBeInstanceOf(ArgumentError);
  });

  test.each(['F64', 'I64', 'U8', 'BOOL', 'F8_E4M3', 'f32', null, 3])('dtype %j is not known here', async (dtype) => {
    const error = await rejection(loadSafetensors(await write({ a: { ...a, dtype } }, 4)));
    expect(error).toBeInstanceOf(DTypeError);
    expect(error.message).toMatch(/^loadSafetensors: 'a' has dtype .*, expected F32, BF16, F16, I32$/);
  });

  test('a header that is not UTF-8, or begins with a mark', async () => {
    for (const [bytes, fault] of [
      [[0x7b, 0x22, 0xff, 0x22, 0x3a, 0x7b, 0x7d, 0x7d], 'the header is not UTF-8'],
      [[0xef, 0xbb, 0xbf, 0x7b, 0x7d], 'the header is not JSON'],
    ] as const) {
      await writeFile(path, Buffer.from([bytes.length, 0, 0, 0, 0, 0, 0, 0, ...bytes]));
      expect((await rejection(loadSafetensors(path))).message).toContain(fault);
    }
  });

  test('files that are no files of tensors', async () => {
    await writeFile(path, 'short');
    expect((await rejection(loadSafetensors(path))).message).toBe(
      `loadSafetensors: ${path} is not a safetensors file: it has 5 bytes, expected at least 8`,
    );
    expect((await rejection(loadSafetensorsMetadata(path))).message).toContain('loadSafetensorsMetadata: ');
    await expect(loadSafetensors(join(folder, 'none'))).rejects.toMatchObject({ code: 'ENOENT' });
    await expect(loadSafetensors(folder)).rejects.toThrow();
  });

  test('a header of nothing but structure is refused before it is parsed', async () => {
    for (const [unit, fault] of [
      ['0,', 'the header has more than 2000000 brackets and commas'],
      ['{},', 'the header has more than 2000000 brackets and commas'],
      ['[', 'the header nests deeper than 3 levels'],
    ] as const) {
      const error = await rejection(loadSafetensors(await write(`{"a":[${unit.repeat(20_000_000)}0]}`)));
      expect(error).toBeInstanceOf(ArgumentError);
      expect(error.message).toContain(fault);
    }
  });

  test('a tensor that no memory holds, in a file as long as it says', async () => {
    const header = { a: { dtype: 'F32', shape: [2 ** 38], data_offsets: [0, 2 ** 40] } };
    await truncate(await write(header), 8 + JSON.stringify(header).length + 2 ** 40); // a hole
    expect(await rejection(loadSafetensors(path))).toBeInstanceOf(OutOfMemoryError);
  });

  test('deep nesting and names with quotes and braces', async () => {
    const deep = '['.repeat(100_000) + ']'.repeat(100_000);
    const error = await rejection(loadSafetensors(await write(`{"a":${deep}}`)));
    expect(error.message).toContain('the header nests deeper than 3 levels');
    const odd = '{"}\\\\:[\\"';
    const loaded = await loadSafetensors(await write({ [odd]: a, __metadata__: { a: '{"a":' } }, 4));
    expect([...loaded.keys()]).toEqual([odd]);
  });
});
