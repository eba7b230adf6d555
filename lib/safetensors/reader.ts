/** Reading a safetensors file: its header first, the elements when they are asked for. */
import { createHash } from 'node:crypto';
import type { FileHandle } from 'node:fs/promises';
import { dtypes } from '../dtype.js';
import { ArgumentError } from '../errors.js';
import { openRegular, readInto } from '../files.js';
import type { HostArray } from '../host_array.js';
import { hostMemory } from '../tensor.js';
import { decodeHeader, type Header, inFileOrder, MAX_HEADER_BYTES, type Placed } from './header.js';
import { CHECKSUM, withPath } from './shared.js';

/** A checksum as it stands in a file: SHA-256 in hexadecimal. */
const isChecksum = (value: string | undefined): value is string => /^[0-9a-f]{64}$/.test(value ?? '');

/** An open file whose header has been checked. */
export class SafetensorsReader {
  private constructor(
    private readonly op: string,
    private readonly path: string,
    private readonly file: FileHandle,
    private readonly header: Header,
    /** Where the elements begin in the file. */
    private readonly start: number,
  ) {}

  /** Opens the file for as long as `use` takes. */
  static async open<R>(op: string, path: string, use: (reader: SafetensorsReader) => Promise<R>): Promise<R> {
    return withPath(op, 'read', path, async (path) => {
      const { file, size } = await openRegular(path);
      try {
        return await use(await SafetensorsReader.begin(op, path, file, size));
      } finally {
        await file.close();
      }
    });
  }

  private static async begin(op: string, path: string, file: FileHandle, size: number): Promise<SafetensorsReader> {
    const refuse = (fault: string) => new ArgumentError(`${op}: ${path} is not a safetensors file: ${fault}`);
    if (size < 8) throw refuse(`it has ${size} bytes, expected at least 8`);
    const lengthBytes = Buffer.alloc(8);
    await readExactly(op, file, lengthBytes, 0);
    const announced = lengthBytes.readBigUInt64LE();
    const limit = Math.min(MAX_HEADER_BYTES, size - 8);
    if (announced > limit) throw refuse(`the header has ${announced} bytes, expected at most ${limit}`);
    const length = Number(announced);
    const bytes = hostMemory(op, Uint8Array, length);
    await readExactly(op, file, bytes, 8);
    return new SafetensorsReader(op, path, file, decodeHeader(bytes, size - 8 - length, refuse), 8 + length);
  }

  get metadata(): ReadonlyMap<string, string> {
    return this.header.metadata;
  }

  /** In the order of the header. */
  get tensors(): readonly Placed[] {
    return this.header.tensors;
  }

  /** The elements of one tensor. `seen` gets its bytes in order. */
  async read({ shape: _, dtype, begin, end }: Placed, seen?: (chunk: Uint8Array) => void): Promise<HostArray> {
    const { array, bytes } = dtypes[dtype];
    const data = hostMemory<HostArray>(this.op, array, (end - begin) / bytes);
    await readExactly(this.op, this.file, data, this.start + begin, seen);
    return data;
  }

  /**
   * All elements by name, in the order of the header, compared with the checksum: true demands one, false does not look at it,
   * undefined takes one that is there.
   */
  async readAll(checksum?: boolean): Promise<Map<string, HostArray>> {
    const given = this.metadata.get(CHECKSUM);
    if (checksum === true && !isChecksum(given)) {
      throw new ArgumentError(`${this.op}: ${this.path} has no checksum (sha256 in its metadata), expected one`);
    }
    const expected = checksum !== false && isChecksum(given) ? given : null;
    const hash = createHash('sha256');
    const read = new Map<string, HostArray>();
    for (const tensor of inFileOrder(this.tensors)) {
      read.set(tensor.name, await this.read(tensor, expected === null ? undefined : (chunk) => hash.update(chunk)));
    }
    const found = hash.digest('hex');
    if (expected !== null && found !== expected) {
      throw new ArgumentError(
        `${this.op}: ${this.path} is damaged: the SHA-256 of its data is ${found}, expected ${expected} (its metadata)`,
      );
    }
    return new Map(this.tensors.map(({ name }) => [name, read.get(name) as HostArray]));
  }
}

async function readExactly(
  op: string,
  file: FileHandle,
  target: ArrayBufferView,
  position: number,
  seen?: (chunk: Uint8Array) => void,
): Promise<void> {
  if (await readInto(file, target, position, seen)) return;
  throw new ArgumentError(`${op}: the file became shorter while it was read`);
}
