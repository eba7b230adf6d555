/** What reading and writing share. */
import { resolve } from 'node:path';
import * as check from '../checks.js';
import { ArgumentError } from '../errors.js';
import { named, UnsuitableFileError } from '../files.js';

/** The key of the metadata that holds the SHA-256 of all bytes behind the header, in hexadecimal. */
export const CHECKSUM = 'sha256';

/**
 * Runs `use` with the path as it is now, whatever the process's folder is later; what the system says of a failure then names
 * that path, with its `code` kept.
 */
export async function withPath<R>(
  op: string,
  deed: 'read' | 'written',
  path: string,
  use: (path: string) => Promise<R>,
): Promise<R> {
  if (typeof path !== 'string') throw new ArgumentError(`${op}: path is ${check.describe(path)}, expected a string`);
  if (path === '' || path.endsWith('/') || path.includes('\0'))
    throw new ArgumentError(`${op}: path is ${check.describe(path)}, expected the name of a file`);
  const absolute = resolve(path);
  try {
    return await use(absolute);
  } catch (error) {
    if (error instanceof UnsuitableFileError) throw new ArgumentError(`${op}: '${path}' ${error.message}`);
    throw named(absolute, deed, error, `${op}: `);
  }
}
