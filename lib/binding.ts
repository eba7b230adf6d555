/** Loads the native addon; the only file that does. */
import { createRequire } from 'node:module';
import { resolve } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { Binding } from '../binding.js';
import { errorFromCode, SasError } from './errors.js';

export type { Binding, BufferHandle, DeviceHandle, HostArray } from '../binding.js';

const require = createRequire(import.meta.url);

/** One level above lib/ and dist/ alike. */
const packageRoot = fileURLToPath(new URL('..', import.meta.url));

function load(): Binding {
  const named = process.env.SAS_BINDING;
  let file = '';
  try {
    // SAS_BINDING names exactly one file; node-gyp-build looks in build/Release and prebuilds.
    file = named ? resolve(named) : (require('node-gyp-build') as NodeGypBuild).resolve(packageRoot);
    const loaded = require(file) as Binding;
    loaded.setErrorFactory(errorFromCode);
    return loaded;
  } catch (cause) {
    const tried = file || `${packageRoot}build/Release and ${packageRoot}prebuilds`;
    const reason = cause instanceof Error ? cause.message.trim() : String(cause);
    const remedy = named
      ? 'Unset SAS_BINDING, or let it name the .node file of this version.'
      : 'To build it on this machine, run: npm rebuild sas-attention --build-from-source';
    throw new SasError(
      `sas-attention: the native addon cannot be loaded.\n  ${tried}${named ? ' (from SAS_BINDING)' : ''}: ${reason}\n${remedy}`,
      { cause },
    );
  }
}

interface NodeGypBuild {
  resolve(root: string): string;
}

/** The addon of this environment (the main thread and each worker have their own). */
export const binding: Binding = load();
