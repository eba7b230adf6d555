/** Loads the library, and says which binary that brought in or why there is none. */
import { statSync } from 'node:fs';
import { createRequire } from 'node:module';
import { relative } from 'node:path';

export interface LoadedAddon {
  readonly file: string;
  readonly origin: 'prebuilt' | 'built on this machine' | 'named by SAS_BINDING';
  readonly bytes: number;
  /** ISO 8601. */
  readonly modified: string;
}

export type Addon = LoadedAddon | { readonly error: string };

/** `folder` is the package's own. */
export async function loadAddon(folder: string): Promise<Addon> {
  try {
    await import('../../index.js');
  } catch (error) {
    return { error: error instanceof Error ? error.message : String(error) };
  }
  // Node keeps what was loaded by its path; this process loads no other addon.
  const { cache } = createRequire(import.meta.url);
  const file = Object.keys(cache).find((path) => path.endsWith('.node')) ?? '';
  const { size, mtime } = statSync(file);
  const prebuilt = relative(folder, file).startsWith('prebuilds');
  const origin = process.env.SAS_BINDING ? 'named by SAS_BINDING' : prebuilt ? 'prebuilt' : 'built on this machine';
  return { file, origin, bytes: size, modified: mtime.toISOString() };
}
