/** Where texts come from: a file, a folder of files, stdin. */
import type { Stats } from 'node:fs';
import { readdir, stat } from 'node:fs/promises';
import { join } from 'node:path';
import { UsageError } from '../failure.js';
import { codeOf, readRegular, UnsuitableFileError } from '../files.js';
import type { TextSource } from './data.js';

const MAX_TEXT_BYTES = 2 ** 31;
const STDIN = '-';

/** The text of a file, of all files in a folder, or of stdin (`-`). */
export const textAt = (path: string): TextSource => ({
  name: path === STDIN ? 'stdin' : path,
  async read() {
    if (path === STDIN) return readStdin();
    const stats = await at(path, path, () => stat(path));
    return stats.isDirectory() ? readFolder(path) : at(path, path, () => readRegular(path, MAX_TEXT_BYTES));
  },
});

/** Runs what reads `file`, which is the text or in it. */
async function at<R>(text: string, file: string, read: () => Promise<R>): Promise<R> {
  try {
    return await read();
  } catch (error) {
    const code = codeOf(error);
    const reason =
      error instanceof UnsuitableFileError
        ? `it ${error.message}${text === file ? ' (- reads stdin)' : ''}`
        : code === 'ENOENT'
          ? 'no such file'
          : `it cannot be read (${code ?? error})`;
    throw new UsageError(`--text '${text}': ${file === text ? '' : `'${file}': `}${reason}`);
  }
}

/**
 * Files of a folder and its folders, in the order of their paths, links followed, each folder once; hidden and binary ones (they
 * hold a zero) are left out, and what is no file.
 */
async function readFolder(folder: string): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  const seen = new Set<string>();
  let left = MAX_TEXT_BYTES;
  const add = async (path: string, { dev, ino }: Stats) => {
    if (seen.size === seen.add(`${dev}:${ino}`).size) return;
    for (const name of (await at(folder, path, () => readdir(path))).sort()) {
      if (name.startsWith('.')) continue;
      const file = join(path, name);
      const stats = await at(folder, file, () => stat(file));
      if (stats.isDirectory()) await add(file, stats);
      if (!stats.isFile()) continue;
      const bytes = await at(folder, file, () => readRegular(file, left));
      if (bytes.includes(0)) continue;
      parts.push(bytes, Buffer.from('\n\n'));
      left -= bytes.length;
    }
  };
  await add(folder, await at(folder, folder, () => stat(folder)));
  return Buffer.concat(parts.slice(0, -1));
}

async function readStdin(): Promise<Uint8Array> {
  const parts: Uint8Array[] = [];
  let bytes = 0;
  for await (const part of process.stdin as AsyncIterable<Buffer>) {
    parts.push(part);
    bytes += part.length;
    if (bytes > MAX_TEXT_BYTES) {
      throw new UsageError(`--text '${STDIN}': stdin has more than ${MAX_TEXT_BYTES} bytes, expected at most those`);
    }
  }
  return Buffer.concat(parts);
}
