/**
 * Files of named tensors in the safetensors format: 8 bytes of header length (little-endian), a JSON header of name ->
 * { dtype, shape, data_offsets }, then the elements, little-endian and row-major, without gaps.
 */
import { randomBytes } from 'node:crypto';
import { type FileHandle, open, rename, rm } from 'node:fs/promises';
import { dirname } from 'node:path';
import * as check from './checks.js';
import { type DType, dtypes } from './dtype.js';
import { ArgumentError, DTypeError } from './errors.js';
import { type HostArray, natural } from './host_array.js';
import { hostMemory, Tensor } from './tensor.js';

/** One tensor of a file: bf16 and f16 as raw bits. */
export interface SafetensorsEntry {
  shape: number[];
  dtype: DType;
  data: HostArray;
}

/** What can be saved. `dtype` is needed with a Uint16Array only; the data must not change until the file is written. */
export type SafetensorsInput =
  | Tensor
  | { readonly shape: readonly number[]; readonly data: HostArray; readonly dtype?: DType };

interface Placed {
  readonly name: string;
  readonly shape: number[];
  readonly dtype: DType;
  /** Of its first byte and behind its last, counted from the end of the header. */
  readonly begin: number;
  readonly end: number;
}

interface Header {
  readonly metadata: Map<string, string>;
  readonly tensors: readonly Placed[];
  /** Where the elements begin in the file. */
  readonly start: number;
}

/** The format's own bound on the header, in bytes. */
const MAX_HEADER_BYTES = 100_000_000;
/** Bounds on the header's JSON: how deep it nests (names, entries, sizes) and how much structure it may hold. */
const MAX_HEADER_DEPTH = 3;
const MAX_HEADER_MARKS = 2_000_000;
/** Bytes per read or write, below the limit of one system call. */
const CHUNK_BYTES = 2 ** 30;
const METADATA = '__metadata__';

/**
 * Writes named tensors to a file: whole or not at all (a temporary file beside it, flushed, then renamed). Tensors are read
 * as the ops enqueued so far leave them. `metadata` holds strings to keep with them.
 */
export async function saveSafetensors(
  path: string,
  tensors: Iterable<readonly [string, SafetensorsInput]>,
  options?: { metadata?: Readonly<Record<string, string>> },
): Promise<void> {
  const op = check.call('saveSafetensors', arguments.length, 3);
  const { metadata } = check.options(op, options, ['metadata']);
  const entries = await Promise.all([...tensors].map(([name, tensor]) => hostEntry(op, name, tensor)));
  // Wide elements first, so that every tensor is aligned to its elements.
  entries.sort((a, b) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
  const header = new Map<string, object>(metadata ? [[METADATA, checkedMetadata(op, metadata)]] : []);
  let offset = 0;
  for (const { name, shape, dtype, data } of entries) {
    if (header.has(name) || name === METADATA) {
      throw new ArgumentError(`${op}: the name '${name}' ${name === METADATA ? 'is reserved' : 'occurs twice'}`);
    }
    const end = offset + data.byteLength;
    header.set(name, { dtype: dtypes[dtype].fileName, shape, data_offsets: [offset, end] });
    offset = end;
  }
  await replaceFile(path, [headerBytes(op, header), ...entries.map(({ data }) => data)]);
}

/** Reads a file of named tensors. ArgumentError if it is malformed, DTypeError if it holds a type that this package has not. */
export async function loadSafetensors(path: string): Promise<Map<string, SafetensorsEntry>> {
  const op = check.call('loadSafetensors', arguments.length, 1);
  return withHeader(op, path, async (file, { tensors, start }) => {
    const loaded = new Map<string, SafetensorsEntry>();
    for (const { name, shape, dtype, begin, end } of tensors) {
      const bytes = await readExactly(file, end - begin, start + begin);
      loaded.set(name, { shape, dtype, data: new dtypes[dtype].array(bytes.buffer as ArrayBuffer) });
    }
    return loaded;
  });
}

/** The strings kept in a file beside its tensors; empty if there are none. */
export async function loadSafetensorsMetadata(path: string): Promise<Map<string, string>> {
  const op = check.call('loadSafetensorsMetadata', arguments.length, 1);
  return withHeader(op, path, async (_, { metadata }) => metadata);
}

async function hostEntry(
  op: string,
  name: string,
  tensor: SafetensorsInput,
): Promise<SafetensorsEntry & { name: string }> {
  if (tensor instanceof Tensor) {
    return { name, shape: [...tensor.shape], dtype: tensor.dtype, data: await tensor.raw() };
  }
  const { shape } = check.record(op, name, tensor, ['shape', 'data', 'dtype']);
  const { data, dtype = natural(data) } = tensor;
  check.dtypeName(op, `${name}.dtype`, dtype);
  if (!dtypes[dtype].isArray(data)) {
    throw new DTypeError(
      `${op}: ${name} has ${check.describe(data)}, expected a ${dtypes[dtype].array.name} (${dtype})`,
    );
  }
  check.count(op, name, data.length, check.sizes(op, shape, dtype));
  return { name, shape: [...shape], dtype, data };
}

function checkedMetadata(op: string, metadata: Readonly<Record<string, string>>): object {
  check.object(op, 'metadata', metadata);
  const wrong = Object.entries(metadata).find(([, value]) => typeof value !== 'string');
  if (wrong) throw new ArgumentError(`${op}: metadata.${wrong[0]} is ${check.describe(wrong[1])}, expected a string`);
  return metadata;
}

/** The header with its length in front, padded with spaces so that the elements are aligned to 8 bytes. */
function headerBytes(op: string, header: Map<string, object>): Uint8Array {
  const json = Buffer.from(JSON.stringify(Object.fromEntries(header)));
  const length = Math.ceil(json.length / 8) * 8;
  if (length > MAX_HEADER_BYTES) {
    throw new ArgumentError(`${op}: the header has ${length} bytes, expected at most ${MAX_HEADER_BYTES}`);
  }
  const bytes = Buffer.alloc(8 + length, ' ');
  bytes.writeBigUInt64LE(BigInt(length));
  bytes.set(json, 8);
  return bytes;
}

async function replaceFile(path: string, parts: readonly NodeJS.TypedArray[]): Promise<void> {
  const temporary = `${path}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`;
  try {
    const file = await open(temporary, 'wx');
    try {
      for (const part of parts) await writeAll(file, new Uint8Array(part.buffer, part.byteOffset, part.byteLength));
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, path);
  } catch (error) {
    await rm(temporary, { force: true });
    throw error;
  }
  const directory = await open(dirname(path));
  try {
    await directory.sync();
  } finally {
    await directory.close();
  }
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    done += (await file.write(bytes, done, Math.min(CHUNK_BYTES, bytes.length - done))).bytesWritten;
  }
}

async function withHeader<R>(
  op: string,
  path: string,
  use: (file: FileHandle, header: Header) => Promise<R>,
): Promise<R> {
  const refuse = (fault: string): ArgumentError =>
    new ArgumentError(`${op}: ${path} is not a safetensors file: ${fault}`);
  const file = await open(path);
  try {
    const { size } = await file.stat();
    if (size < 8) throw refuse(`it has ${size} bytes, expected at least 8`);
    const announced = Buffer.from(await readExactly(file, 8, 0)).readBigUInt64LE();
    const limit = Math.min(MAX_HEADER_BYTES, size - 8);
    if (announced > limit) throw refuse(`the header has ${announced} bytes, expected at most ${limit}`);
    const length = Number(announced);
    const bytes = await readExactly(file, length, 8);
    refuseExcess(bytes, refuse);
    const text = Buffer.from(bytes.buffer).toString();
    return await use(file, { ...parseHeader(text, size - 8 - length, refuse), start: 8 + length });
  } finally {
    await file.close();
  }
}

async function readExactly(file: FileHandle, length: number, position: number): Promise<Uint8Array<ArrayBuffer>> {
  const bytes = hostMemory('loadSafetensors', Uint8Array as new (length: number) => Uint8Array<ArrayBuffer>, length);
  for (let done = 0; done < length; ) {
    const { bytesRead } = await file.read(bytes, done, Math.min(CHUNK_BYTES, length - done), position + done);
    if (bytesRead === 0) throw new ArgumentError('loadSafetensors: the file became shorter while it was read');
    done += bytesRead;
  }
  return bytes;
}

/**
 * Throws before JSON.parse would spend gigabytes and minutes on a header of nothing but structure: every `{`, `[` and `,` may
 * become an object of its own. A tensor needs about ten of these marks.
 */
function refuseExcess(header: Uint8Array, refuse: (fault: string) => ArgumentError): void {
  let depth = 0;
  let marks = 0;
  for (let i = 0; i < header.length; i++) {
    switch (header[i]) {
      case 0x22: // a string, up to the next quote that no backslash escapes
        for (i++; i < header.length && header[i] !== 0x22; i++) if (header[i] === 0x5c) i++;
        break;
      case 0x7b: // {
      case 0x5b: // [
        marks++;
        if (++depth > MAX_HEADER_DEPTH) throw refuse(`the header nests deeper than ${MAX_HEADER_DEPTH} levels`);
        break;
      case 0x7d: // }
      case 0x5d: // ]
        depth--;
        break;
      case 0x2c: // ,
        marks++;
        break;
    }
    if (marks > MAX_HEADER_MARKS) throw refuse(`the header has more than ${MAX_HEADER_MARKS} brackets and commas`);
  }
}

function parseHeader(text: string, dataBytes: number, refuse: (fault: string) => ArgumentError): Omit<Header, 'start'> {
  let header: unknown;
  try {
    header = JSON.parse(text);
  } catch (cause) {
    throw refuse(`the header is not JSON (${(cause as Error).message})`);
  }
  if (!text.startsWith('{') || !isRecord(header)) throw refuse('the header is not a JSON object');
  const seen = new Set<string>();
  const twice = topLevelKeys(text).find((name) => seen.size === seen.add(name).size);
  if (twice !== undefined) throw refuse(`the name '${twice}' occurs twice`);
  const { [METADATA]: metadata = {}, ...rest } = header;
  if (!isRecord(metadata) || Object.values(metadata).some((value) => typeof value !== 'string')) {
    throw refuse(`${METADATA} is not a map of strings`);
  }
  const tensors = Object.entries(rest).map(([name, entry]) => place(name, entry, refuse));
  let offset = 0;
  for (const { name, begin, end } of tensors.toSorted((a, b) => a.begin - b.begin || a.end - b.end)) {
    if (begin !== offset) throw refuse(`'${name}' begins at byte ${begin}, expected ${offset} (no gaps, no overlaps)`);
    offset = end;
  }
  if (offset !== dataBytes)
    throw refuse(`the tensors have ${offset} bytes, expected ${dataBytes} (the rest of the file)`);
  return { metadata: new Map(Object.entries(metadata as Record<string, string>)), tensors };
}

function place(name: string, entry: unknown, refuse: (fault: string) => ArgumentError): Placed {
  const integers = (value: unknown): value is number[] =>
    Array.isArray(value) && value.every((item) => Number.isSafeInteger(item) && item >= 0);
  if (!isRecord(entry)) throw refuse(`'${name}' is not an object`);
  const { dtype: fileName, shape, data_offsets: offsets } = entry;
  const known = Object.entries(dtypes) as [DType, (typeof dtypes)[DType]][];
  const found = known.find(([, traits]) => traits.fileName === fileName);
  if (!found) {
    const names = known.map(([, traits]) => traits.fileName).join(', ');
    throw new DTypeError(`loadSafetensors: '${name}' has dtype ${check.describe(fileName)}, expected ${names}`);
  }
  const [dtype, { bytes }] = found;
  if (!integers(shape)) throw refuse(`the shape of '${name}' is not a list of sizes`);
  if (!integers(offsets) || offsets.length !== 2) throw refuse(`the data_offsets of '${name}' are not two offsets`);
  const [begin, end] = offsets as [number, number];
  if (end - begin !== check.elements(shape) * bytes) {
    throw refuse(
      `'${name}' has ${end - begin} bytes, expected ${check.elements(shape) * bytes} (${dtype} ${check.show(shape)})`,
    );
  }
  return { name, shape, dtype, begin, end };
}

const isRecord = (value: unknown): value is Record<string, unknown> =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** The keys of the outermost object of valid JSON, as often as they occur there: JSON.parse keeps only the last of each. */
function topLevelKeys(json: string): string[] {
  const keys: string[] = [];
  let depth = 0;
  let latest = '';
  for (let i = 0; i < json.length; i++) {
    const c = json[i];
    if (c === '{' || c === '[') depth++;
    else if (c === '}' || c === ']') depth--;
    else if (c === ':' && depth === 1) keys.push(JSON.parse(latest));
    else if (c === '"') {
      const begin = i;
      for (i++; json[i] !== '"'; i++) if (json[i] === '\\') i++;
      latest = json.slice(begin, i + 1);
    }
  }
  return keys;
}
