// Keeps what the slow float64 references compute, on disk: the same inputs come back for every instruction set and device.
// SAS_REFERENCE_CACHE names the folder, `off` turns it off; by default it is build/reference-cache. Without the references'
// sources at hand (the bundle for GPU machines) nothing is kept, since a change of theirs would go unnoticed.
import { createHash } from 'node:crypto';
import {
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  renameSync,
  rmSync,
  statSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { join, resolve } from 'node:path';
import { type Array64, sizeOf } from '../reference/array64.js';

/** Total size of a folder; beyond it what was not asked for the longest goes. */
const MAX_BYTES = 2 ** 30;
const DIGEST_BYTES = 32;

export interface CacheSettings {
  folder: string;
  /** Stands for the code that computes. */
  version: string;
  maxBytes?: number;
  /** What takes less time to compute is not worth a file. */
  fromMilliseconds?: number;
}

export type Arrays = Record<string, Array64>;

/** What a result depends on, besides the code. */
export interface CacheKey {
  /** JSON-able: the op, its options, the dtype. */
  facts: unknown;
  inputs: Record<string, { exact: { shape: readonly number[] }; bits: ArrayBufferView }>;
}

const pathOf = ({ folder, version }: CacheSettings, { facts, inputs }: CacheKey): string => {
  const hash = createHash('sha256').update(`${version}\n${JSON.stringify(facts)}\n`);
  for (const [name, { exact, bits }] of Object.entries(inputs)) {
    hash.update(`${name} ${bits.constructor.name} [${exact.shape.join(', ')}]\n`);
    hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
  }
  return join(folder, `${hash.digest('hex')}.bin`);
};

/** sha256 of the rest; length of the header; JSON [name, shape][], padded to 8 bytes; the values as float64. */
function encode(arrays: Arrays): Buffer {
  const entries = Object.entries(arrays);
  const json = Buffer.from(JSON.stringify(entries.map(([name, { shape }]) => [name, shape])));
  const header = Buffer.alloc(Math.ceil(json.length / 8) * 8, ' ');
  json.copy(header);
  const length = Buffer.alloc(8);
  length.writeUInt32LE(header.length);
  const values = entries.map(([, { data }]) => Buffer.from(data.buffer, data.byteOffset, data.byteLength));
  const body = Buffer.concat([length, header, ...values]);
  return Buffer.concat([createHash('sha256').update(body).digest(), body]);
}

/** Undefined if a byte is not what was written. */
function decode(file: Buffer): Arrays | undefined {
  const body = file.subarray(DIGEST_BYTES);
  if (!createHash('sha256').update(body).digest().equals(file.subarray(0, DIGEST_BYTES))) return undefined;
  const headerLength = body.readUInt32LE(0);
  const header = JSON.parse(body.toString('utf8', 8, 8 + headerLength)) as [string, number[]][];
  const arrays: Arrays = {};
  let offset = body.byteOffset + 8 + headerLength;
  for (const [name, shape] of header) {
    const bytes = 8 * sizeOf(shape);
    arrays[name] = { shape, data: new Float64Array(body.buffer.slice(offset, offset + bytes)) };
    offset += bytes;
  }
  return arrays;
}

/** Removes what was used the longest time ago, down to three quarters of the limit. */
function prune(folder: string, maxBytes: number): void {
  const files = readdirSync(folder).flatMap((name) => {
    const path = join(folder, name);
    const stats = statSync(path, { throwIfNoEntry: false });
    return stats === undefined ? [] : [{ path, bytes: stats.size, used: stats.mtimeMs }];
  });
  let total = files.reduce((sum, { bytes }) => sum + bytes, 0);
  if (total <= maxBytes) return;
  for (const { path, bytes } of files.sort((a, b) => a.used - b.used)) {
    if (total <= 0.75 * maxBytes) return;
    rmSync(path, { force: true });
    total -= bytes;
  }
}

export class ReferenceCache {
  readonly counts = { read: 0, computed: 0, spoiled: 0 };
  #written = 0;

  constructor(readonly settings: CacheSettings | undefined) {}

  get(key: CacheKey, compute: () => Arrays): Arrays {
    const path = this.settings && pathOf(this.settings, key);
    const kept = path && this.#read(path);
    if (kept) return kept;
    const begin = performance.now();
    const arrays = compute();
    this.counts.computed++;
    const isSlow = performance.now() - begin >= (this.settings?.fromMilliseconds ?? 0);
    if (path && isSlow) this.#write(path, arrays);
    return arrays;
  }

  #read(path: string): Arrays | undefined {
    let file: Buffer;
    try {
      file = readFileSync(path);
    } catch {
      return undefined;
    }
    const arrays = decode(file);
    if (arrays === undefined) {
      this.counts.spoiled++;
      return undefined;
    }
    this.counts.read++;
    try {
      utimesSync(path, new Date(), new Date());
    } catch {} // another process has just removed it
    return arrays;
  }

  /** Under a name of its own first: who reads meanwhile finds a whole file or none. A full disk costs time only. */
  #write(path: string, arrays: Arrays): void {
    const { folder, maxBytes = MAX_BYTES } = this.settings as CacheSettings;
    const temporary = `${path}.${process.pid}-${this.#written}`;
    try {
      mkdirSync(folder, { recursive: true });
      writeFileSync(temporary, encode(arrays));
      renameSync(temporary, path);
      if (this.#written++ % 64 === 0) prune(folder, maxBytes);
    } catch {
      try {
        rmSync(temporary, { force: true });
      } catch {} // there is no such folder
    }
  }
}

const root = resolve(import.meta.dirname, '../..');

/** The sources that the references are made of, and the engine whose Math.exp they call. */
function versionOf(): string | undefined {
  const folders = ['test/reference', 'test/ops', 'test/modules'].map((name) => join(root, name));
  if (!folders.every((folder) => existsSync(folder))) return undefined;
  const hash = createHash('sha256').update(`${process.versions.v8} ${process.arch}`);
  const files = folders.flatMap((folder) =>
    readdirSync(folder)
      .sort()
      .map((name) => join(folder, name)),
  );
  for (const file of [...files, join(root, 'test/helpers/random.ts')]) hash.update(file).update(readFileSync(file));
  return hash.digest('hex');
}

function defaultSettings(): CacheSettings | undefined {
  const named = process.env.SAS_REFERENCE_CACHE;
  const version = named === 'off' ? undefined : versionOf();
  return version === undefined
    ? undefined
    : {
        folder: named ?? join(root, 'build/reference-cache'),
        version,
        fromMilliseconds: 5,
      };
}

export const referenceCache = new ReferenceCache(defaultSettings());
