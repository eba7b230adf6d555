/**
 * Files of named tensors in the safetensors format: 8 bytes of header length (little-endian), a JSON header of name ->
 * { dtype, shape, data_offsets }, then the elements, little-endian and row-major, without gaps.
 */
import { createHash } from 'node:crypto';
import { setImmediate } from 'node:timers/promises';
import { types } from 'node:util';
import * as check from '../checks.js';
import { type DType, dtypes } from '../dtype.js';
import { ArgumentError, DTypeError } from '../errors.js';
import { chunksOf, replaceFile } from '../files.js';
import { type HostArray, natural } from '../host_array.js';
import { Tensor } from '../tensor.js';
import { fairly } from '../turn.js';
import { encodeHeader, METADATA, type Placed } from './header.js';
import { SafetensorsReader } from './reader.js';
import { CHECKSUM, withPath } from './shared.js';

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

/** What `saveSafetensors` can be told. */
export interface SafetensorsSaveOptions {
  /** Strings to keep with the tensors; takes what `loadSafetensorsMetadata` returns. */
  readonly metadata?: Readonly<Record<string, string>> | ReadonlyMap<string, string>;
  /** Whether the metadata gets `sha256`, the SHA-256 of all bytes behind the header, in hexadecimal. Default false. */
  readonly checksum?: boolean;
}

/** What `loadSafetensors` can be told. */
export interface SafetensorsLoadOptions {
  /** Whether the data must agree with `sha256` in the metadata: true demands one, false ignores it. Default: if there is one. */
  readonly checksum?: boolean;
}

type Named = SafetensorsEntry & { readonly name: string };

/**
 * Writes named tensors to a file: whole or not at all (a temporary file beside it, flushed, then renamed). Links are followed,
 * mode and owner of a file that is replaced are kept where the system allows, and what is not a regular file is refused. Tensors
 * are read as the ops enqueued so far leave them, and `path` is taken from the current folder, both at the call.
 */
export function saveSafetensors(
  path: string,
  tensors: Iterable<readonly [string, SafetensorsInput]>,
  options?: SafetensorsSaveOptions,
): Promise<void> {
  return fairly(async () => {
    const op = check.call('saveSafetensors', arguments.length, 3);
    const { metadata, checksum = false } = check.options(op, options, ['metadata', 'checksum']);
    check.boolean(op, 'checksum', checksum);
    const strings = checkedMetadata(op, metadata, checksum);
    const named = pairs(op, tensors);
    return withPath(op, 'written', path, async (target) => {
      const entries = await Promise.all(named.map(([name, tensor]) => hostEntry(op, name, tensor)));
      // Wide elements first, so that every tensor is aligned to its elements.
      entries.sort((a, b) => b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT);
      const arrays = entries.map(({ data }) => data);
      if (checksum) strings.set(CHECKSUM, await sha256(arrays));
      await replaceFile(target, [encodeHeader(op, { metadata: strings, tensors: placed(entries) }), ...arrays]);
    });
  });
}

/**
 * Reads a file of named tensors, in the order of its header. ArgumentError if it is malformed or its checksum says that it is
 * damaged, DTypeError if it holds a type that this package has not.
 */
export function loadSafetensors(
  path: string,
  options?: SafetensorsLoadOptions,
): Promise<Map<string, SafetensorsEntry>> {
  return fairly(async () => {
    const op = check.call('loadSafetensors', arguments.length, 2);
    const { checksum } = check.options(op, options, ['checksum']);
    if (checksum !== undefined) check.boolean(op, 'checksum', checksum);
    return SafetensorsReader.open(op, path, async (reader) => {
      const data = await reader.readAll(checksum);
      const entries = reader.tensors.map(({ name, shape, dtype }): [string, SafetensorsEntry] => [
        name,
        { shape: [...shape], dtype, data: data.get(name) as HostArray },
      ]);
      return new Map(entries);
    });
  });
}

/** The strings kept in a file beside its tensors; empty if there are none. */
export function loadSafetensorsMetadata(path: string): Promise<Map<string, string>> {
  return fairly(async () => {
    const op = check.call('loadSafetensorsMetadata', arguments.length, 1);
    return SafetensorsReader.open(op, path, async ({ metadata }) => new Map(metadata));
  });
}

/** The pairs, with names that can stand together in a header. */
function pairs(op: string, tensors: Iterable<readonly [string, SafetensorsInput]>) {
  const entries = check.entries(op, 'tensors', tensors);
  const seen = new Set<string>();
  for (const [name] of entries) {
    if (name === METADATA) throw new ArgumentError(`${op}: the name '${name}' is reserved`);
    if (seen.size === seen.add(name).size) throw new ArgumentError(`${op}: the name '${name}' occurs twice`);
  }
  return entries;
}

async function hostEntry(op: string, name: string, tensor: SafetensorsInput): Promise<Named> {
  if (tensor instanceof Tensor) {
    return { name, shape: [...tensor.shape], dtype: tensor.dtype, data: await tensor.raw() };
  }
  const { shape, data, dtype = natural(data) } = check.record(op, name, tensor, ['shape', 'data', 'dtype']);
  check.dtypeName(op, `${name}.dtype`, dtype);
  if (!dtypes[dtype].isArray(data)) {
    throw new DTypeError(
      `${op}: ${name} has ${check.describe(data)}, expected a ${dtypes[dtype].array.name} (${dtype})`,
    );
  }
  check.count(op, name, data.length, check.sizes(op, shape, dtype));
  return { name, shape: [...shape], dtype, data };
}

/** Where each lies behind the header: one after the other. */
function placed(entries: readonly Named[]): Placed[] {
  let begin = 0;
  return entries.map(({ name, shape, dtype, data }) => {
    const end = begin + data.byteLength;
    const place = { name, shape, dtype, begin, end };
    begin = end;
    return place;
  });
}

function checkedMetadata(
  op: string,
  metadata: SafetensorsSaveOptions['metadata'] = {},
  checksum: boolean,
): Map<string, string> {
  check.object(op, 'metadata', metadata);
  if (!types.isMap(metadata) && !check.isPlain(metadata)) {
    throw new ArgumentError(
      `${op}: metadata is ${check.describe(metadata)}, expected a plain object or a Map of strings`,
    );
  }
  const entries: [unknown, unknown][] = types.isMap(metadata) ? [...metadata] : Object.entries(metadata);
  for (const [key, value] of entries) {
    if (typeof key !== 'string') {
      throw new ArgumentError(`${op}: a key of metadata is ${check.describe(key)}, expected a string`);
    }
    if (typeof value !== 'string') {
      throw new ArgumentError(`${op}: metadata.${key} is ${check.describe(value)}, expected a string`);
    }
  }
  const strings = new Map(entries as [string, string][]);
  if (strings.has(CHECKSUM) && !checksum) {
    throw new ArgumentError(
      `${op}: metadata.${CHECKSUM} is the checksum's, expected the option checksum: true with it`,
    );
  }
  return strings;
}

/** Of the bytes of all arrays, in hexadecimal. */
async function sha256(arrays: readonly HostArray[]): Promise<string> {
  const hash = createHash('sha256');
  for (const array of arrays) {
    for (const chunk of chunksOf(array)) {
      hash.update(chunk);
      await setImmediate(); // the event loop's turn
    }
  }
  return hash.digest('hex');
}
