/** Loads the native addon; the only file that does. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { isAbsolute, join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Binding } from '../binding.js';
import { addonFiles, diagnose, type Failure, inspect, prebuiltFiles } from './addon_file.js';
import { errorFromCode, SasError } from './errors.js';

export type { Binding, BufferHandle, DeviceHandle, HostArray } from '../binding.js';

/**
 * The package's folder, if this file still lies in it: one level above lib/ and dist/ alike. In a bundle it does not, and
 * then no folder is searched: what lies around a bundle, or where its program was started, is not ours to execute.
 */
function ownFolder(): string | undefined {
  try {
    const folder = fileURLToPath(new URL('..', import.meta.url)); // bundlers that write CommonJS leave no URL
    const { name } = JSON.parse(readFileSync(join(folder, 'package.json'), 'utf8')) as { name?: string };
    return name === 'sas-attention' ? folder : undefined;
  } catch {
    return undefined;
  }
}

/**
 * What node-gyp-build chooses, then where else a binary is expected, if only to say why that does not load. Environment variables
 * and the folder of the `node` program make node-gyp-build look elsewhere too: what lies outside of the package's folder is not taken.
 */
function candidates(folder: string | undefined): Iterable<string> {
  if (folder === undefined) return [];
  const expected = addonFiles(folder);
  try {
    const { resolve } = createRequire(join(folder, 'package.json'))('node-gyp-build') as {
      resolve(root: string): string;
    };
    const chosen = resolve(folder);
    return chosen.startsWith(folder) ? new Set([chosen, ...expected]) : expected;
  } catch {
    return expected;
  }
}

/** A path as a shell takes it. */
const quoted = (path: string): string => (/^[\w/.@+-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`);

/** The one thing to do when nothing loaded: a command of the package, for what their own commands do differs between managers. */
function remedy(failures: readonly Failure[], folder: string | undefined, named: boolean): string {
  if (named) return 'Unset SAS_BINDING, or let it name the .node file of this version by its absolute path.';
  if (folder === undefined) {
    return (
      'This code was bundled, which leaves the binary behind: mark sas-attention as external in your bundler, ' +
      'or let SAS_BINDING name a copy of the .node file by its absolute path.'
    );
  }
  if (process.platform !== 'linux') return 'Run it on Linux: in a container, a virtual machine or WSL.';
  if (failures.some(({ kind }) => kind === 'damaged')) {
    return (
      `Install the package anew: remove ${quoted(folder)}, then run npm install ` +
      '(pnpm, yarn and bun: install --force).'
    );
  }
  // What the build requires is found by Yarn's own node alone where Yarn installs without node_modules.
  const node = 'pnp' in process.versions ? 'yarn node' : 'node';
  const build = `${node} ${quoted(join(folder, 'native/install.cjs'))} build`;
  return `Build it on this machine, with a C++20 compiler and CMake 3.18 or newer: ${build}`;
}

function load(): Binding {
  // SAS_BINDING names exactly one file.
  const named = process.env.SAS_BINDING;
  const folder = ownFolder();
  const failures: Failure[] = [];
  let cause: unknown;
  for (const file of named ? [named] : candidates(folder)) {
    const flaw: Failure | undefined = isAbsolute(file)
      ? inspect(file)
      : { file, kind: 'other', reason: 'not an absolute path' };
    if (flaw) {
      failures.push(flaw);
      continue;
    }
    try {
      const loaded = createRequire(file)(file) as Binding;
      loaded.setErrorFactory(errorFromCode);
      return loaded;
    } catch (error) {
      cause = error;
      failures.push(diagnose(file, error));
    }
  }
  const tried = failures.map(({ file, reason }) => `  ${file}${named ? ' (from SAS_BINDING)' : ''}: ${reason}\n`);
  const prebuilt = named ? [] : prebuiltFiles(folder);
  const has = prebuilt.length > 0 ? `  The package has binaries for: ${prebuilt.join(', ')}\n` : '';
  throw new SasError(
    `sas-attention: the native addon cannot be loaded (${process.platform}-${process.arch}, Node ${process.versions.node}).\n` +
      `${tried.join('')}${has}${remedy(failures, folder, Boolean(named))}`,
    { cause },
  );
}

/** The addon of this environment (the main thread and each worker have their own). */
export const binding: Binding = load();
