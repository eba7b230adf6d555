/** Loads the native addon; the only file that does. */
import { readFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Binding } from '../binding.js';
import { addonFiles, diagnose, type Failure, inspect, prebuiltFiles } from './addon_file.js';
import { errorFromCode, SasError } from './errors.js';

export type { Binding, BufferHandle, DeviceHandle, HostArray } from '../binding.js';

/** Bundlers that write CommonJS leave no URL. */
const here = import.meta.url as string | undefined;
/** One level above lib/ and dist/ alike. */
const packageRoot = here ? fileURLToPath(new URL('..', here)) : process.cwd();
const require = createRequire(here ?? join(packageRoot, 'package.json'));

/** Whether this file still lies in its package: not so in a bundle, whose folder has no binaries. */
function isInPackage(): boolean {
  try {
    const manifest = JSON.parse(readFileSync(join(packageRoot, 'package.json'), 'utf8')) as { name?: string };
    return here !== undefined && manifest.name === 'sas-attention';
  } catch {
    return false;
  }
}

/** The file that node-gyp-build chooses, then where else one is expected, if only to say why that does not load. */
function candidates(): Iterable<string> {
  const expected = addonFiles(packageRoot);
  try {
    const { resolve } = require('node-gyp-build') as { resolve(root: string): string };
    return new Set([resolve(packageRoot), ...expected]);
  } catch {
    return expected;
  }
}

/** The one thing to do when nothing loaded. */
function remedy(failures: readonly Failure[], named: boolean): string {
  if (named) return 'Unset SAS_BINDING, or let it name the .node file of this version.';
  if (!isInPackage()) {
    return 'This code was bundled, which leaves the binary behind: mark sas-attention as external in your bundler.';
  }
  if (process.platform !== 'linux') return 'Run it on Linux: in a container, a virtual machine or WSL.';
  if (failures.some(({ kind }) => kind === 'damaged')) {
    return 'Install the package anew: remove node_modules/sas-attention, then run npm install.';
  }
  return (
    'Build it on this machine, with a C++20 compiler and CMake 3.18 or newer: ' +
    'npm rebuild sas-attention --ignore-scripts=false'
  );
}

function load(): Binding {
  // SAS_BINDING names exactly one file.
  const named = process.env.SAS_BINDING;
  const failures: Failure[] = [];
  let cause: unknown;
  for (const file of named ? [resolve(named)] : candidates()) {
    const flaw = inspect(file);
    if (flaw) {
      failures.push(flaw);
      continue;
    }
    try {
      const loaded = require(file) as Binding;
      loaded.setErrorFactory(errorFromCode);
      return loaded;
    } catch (error) {
      cause = error;
      failures.push(diagnose(file, error));
    }
  }
  const tried = failures.map(({ file, reason }) => `  ${file}${named ? ' (from SAS_BINDING)' : ''}: ${reason}\n`);
  const prebuilt = named ? [] : prebuiltFiles(packageRoot);
  const has = prebuilt.length > 0 ? `  The package has binaries for: ${prebuilt.join(', ')}\n` : '';
  throw new SasError(
    `sas-attention: the native addon cannot be loaded (${process.platform}-${process.arch}, Node ${process.versions.node}).\n` +
      `${tried.join('')}${has}${remedy(failures, Boolean(named))}`,
    { cause },
  );
}

/** The addon of this environment (the main thread and each worker have their own). */
export const binding: Binding = load();
