/** Files: only regular ones are read or replaced, and one that is replaced is whole at every moment. */
import { randomBytes } from 'node:crypto';
import { constants, type Stats } from 'node:fs';
import { copyFile, type FileHandle, link, open, readlink, realpath, rename, rm, stat } from 'node:fs/promises';
import { basename, dirname, join, resolve } from 'node:path';

/** Bytes per read or write: the event loop gets its turn after each, also where they are hashed. */
const CHUNK_BYTES = 2 ** 20;
/** Of a name: of most file systems 255. */
const MAX_NAME_BYTES = 200;
/** As many links as Linux follows. */
const MAX_LINKS = 40;
/** What a folder or a file system does not offer, as opposed to a disk that fails. */
const UNSUPPORTED = ['EACCES', 'EPERM', 'EINVAL', 'EISDIR', 'ENOSYS', 'ENOTSUP', 'EOPNOTSUPP'];

/** A path that is not read or replaced. The message goes on after it: `is a FIFO, expected a regular file`. */
export class UnsuitableFileError extends Error {}

/** The system's code of an error, such as ENOENT. */
export const codeOf = (error: unknown): string | undefined =>
  error instanceof Error && 'code' in error && typeof error.code === 'string' ? error.code : undefined;

/**
 * An error of the system as one that names the file which was asked for, not a temporary one beside it; with the same `code`,
 * `errno` and `syscall`. Any other error as it is.
 */
export function named(path: string, deed: 'read' | 'written', error: unknown, prefix = ''): unknown {
  if (!(error instanceof Error && 'syscall' in error)) return error;
  const { code, errno, syscall } = error as NodeJS.ErrnoException;
  const [reason] = error.message.split(', '); // without the call and its path
  const own = new Error(`${prefix}'${path}' cannot be ${deed}: ${reason}`, { cause: error });
  return Object.assign(own, { code, errno, syscall, path });
}

function refuseSpecial(stats: Stats): void {
  if (stats.isFile()) return;
  const kinds = {
    'a folder': stats.isDirectory(),
    'a FIFO': stats.isFIFO(),
    'a socket': stats.isSocket(),
    'a device': stats.isCharacterDevice() || stats.isBlockDevice(),
  };
  const kind = Object.entries(kinds).find(([, is]) => is)?.[0] ?? 'no file';
  throw new UnsuitableFileError(`is ${kind}, expected a regular file`);
}

/** Opens a regular file for reading and gives its size. Never waits: a FIFO without a writer is refused as well. */
export async function openRegular(path: string): Promise<{ file: FileHandle; size: number }> {
  refuseSpecial(await stat(path)); // before it is opened, which some devices take for an order
  const file = await open(path, constants.O_RDONLY | (constants.O_NONBLOCK ?? 0));
  try {
    const stats = await file.stat();
    refuseSpecial(stats);
    return { file, size: stats.size };
  } catch (error) {
    await file.close();
    throw error;
  }
}

/** A regular file of at most that many bytes. */
export async function readRegular(path: string, limit: number): Promise<Uint8Array<ArrayBuffer>> {
  const { file, size } = await openRegular(path);
  try {
    if (size > limit) throw new UnsuitableFileError(`has ${size} bytes, expected at most ${limit}`);
    const bytes = new Uint8Array(size);
    if (!(await readInto(file, bytes, 0))) throw new UnsuitableFileError('became shorter while it was read');
    return bytes;
  } finally {
    await file.close();
  }
}

/** Fills `target` from that place in the file; says whether the file was long enough. `seen` gets the bytes in order. */
export async function readInto(
  file: FileHandle,
  target: ArrayBufferView,
  position: number,
  seen?: (chunk: Uint8Array) => void,
): Promise<boolean> {
  for (const chunk of chunksOf(target)) {
    for (let done = 0; done < chunk.length; ) {
      const { bytesRead } = await file.read(chunk, done, chunk.length - done, position + done);
      if (bytesRead === 0) return false;
      done += bytesRead;
    }
    position += chunk.length;
    seen?.(chunk);
  }
  return true;
}

/** The memory of an array in pieces that one call reads, writes or hashes. */
export function* chunksOf({ buffer, byteOffset, byteLength }: ArrayBufferView): Generator<Uint8Array> {
  for (let begin = 0; begin < byteLength; begin += CHUNK_BYTES) {
    yield new Uint8Array(buffer, byteOffset + begin, Math.min(CHUNK_BYTES, byteLength - begin));
  }
}

/**
 * Puts the parts in the place of a file, or makes it: whole or not at all (a temporary file beside it, flushed, then renamed;
 * then the folder is flushed). Links are followed; mode and owner stay where the system lets them.
 */
export async function replaceFile(path: string, parts: Iterable<ArrayBufferView>): Promise<void> {
  const target = await destination(path);
  const replaced = await statOf(target);
  if (replaced) refuseSpecial(replaced);
  const temporary = temporaryBeside(target);
  try {
    const file = await open(temporary, 'wx', replaced ? 0o600 : 0o666);
    try {
      if (replaced) await inherit(file, replaced);
      for (const part of parts) for (const chunk of chunksOf(part)) await writeAll(file, chunk);
      await file.sync();
    } finally {
      await file.close();
    }
    await rename(temporary, target);
  } catch (error) {
    await rm(temporary, { force: true }).catch(() => {}); // the first error is the one to tell
    throw error;
  }
  await flushFolder(dirname(target));
}

/** Gives the file a second name, which the file that had it loses; nothing where there is no file. */
export async function alsoNamed(path: string, other: string): Promise<void> {
  const target = await destination(path);
  const temporary = temporaryBeside(other);
  try {
    await link(target, temporary).catch(async (error: unknown) => {
      if (![...UNSUPPORTED, 'EXDEV', 'EMLINK'].includes(codeOf(error) ?? '')) throw error;
      await copyFile(target, temporary);
    });
    await rename(temporary, other);
  } catch (error) {
    if (codeOf(error) !== 'ENOENT') throw error;
  } finally {
    await rm(temporary, { force: true }).catch(() => {}); // it is still there if both are one file already
  }
}

/** A name of its own in the folder of `path`, as long as a name may be. */
function temporaryBeside(path: string): string {
  let name = basename(path);
  while (Buffer.byteLength(name) > MAX_NAME_BYTES) name = [...name].slice(0, -1).join('');
  return join(dirname(path), `${name}.${process.pid}.${randomBytes(6).toString('hex')}.tmp`);
}

/** Makes new names in a folder last; one that cannot be opened or flushed is left to the system. */
async function flushFolder(folder: string): Promise<void> {
  let directory: FileHandle | undefined;
  try {
    directory = await open(folder);
    await directory.sync();
  } catch (error) {
    if (!UNSUPPORTED.includes(codeOf(error) ?? '')) throw error;
  } finally {
    await directory?.close();
  }
}

/** Where a write to `path` ends up: behind its links, also where there is no file yet. */
async function destination(path: string): Promise<string> {
  let place = resolve(path);
  for (let links = 0; links < MAX_LINKS; links++) {
    const folder = await realpath(dirname(place));
    place = join(folder, basename(place));
    const link = await readlink(place).catch((error: unknown) => {
      if (['EINVAL', 'ENOENT', 'UNKNOWN'].includes(codeOf(error) ?? '')) return null; // no link
      throw error;
    });
    if (link === null) return place;
    place = resolve(folder, link);
  }
  throw Object.assign(new Error('ELOOP: too many symbolic links encountered'), { code: 'ELOOP', syscall: 'readlink' });
}

async function statOf(path: string): Promise<Stats | null> {
  try {
    return await stat(path);
  } catch (error) {
    if (codeOf(error) === 'ENOENT') return null;
    throw error;
  }
}

/** Mode and owner of the file that is replaced, as far as the system allows; its rights to run as its owner go with the owner. */
async function inherit(file: FileHandle, { mode, uid, gid }: Stats): Promise<void> {
  const attempt = async (change: Promise<void>): Promise<boolean> => {
    try {
      await change;
      return true;
    } catch (error) {
      if (UNSUPPORTED.includes(codeOf(error) ?? '')) return false;
      throw error;
    }
  };
  const own = await file.stat();
  let kept = own.uid === uid && own.gid === gid;
  if (!kept) kept = await attempt(file.chown(uid, gid));
  if (!kept) await attempt(file.chown(own.uid, gid));
  await attempt(file.chmod(mode & (kept ? 0o7777 : 0o777)));
}

async function writeAll(file: FileHandle, bytes: Uint8Array): Promise<void> {
  for (let done = 0; done < bytes.length; ) {
    const { bytesWritten } = await file.write(bytes, done, bytes.length - done);
    if (bytesWritten === 0) {
      throw Object.assign(new Error('EIO: nothing could be written'), { code: 'EIO', syscall: 'write' });
    }
    done += bytesWritten;
  }
}
