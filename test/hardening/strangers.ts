/** What is not this package's own: another addon in the same process, and another realm. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { types } from 'node:util';
import { createContext, runInContext } from 'node:vm';
import { buildTarget } from '../helpers/native_build.js';

/** See native/stranger.cc. */
interface Stranger {
  [name: string]: unknown;
  externalMemory(): number;
}

function stranger(): Stranger {
  const build = buildTarget('hardening', 'sas_stranger', { SAS_ISAS: 'baseline' });
  return createRequire(import.meta.url)(join(build, 'Release/sas_stranger.node')) as Stranger;
}

/** Externals of another addon. */
export const foreignExternals = (): unknown[] => Object.values(stranger()).filter(types.isExternal);

/** Gives the bytes of memory outside of its heap that V8 has been told of. */
export const externalMemoryCounter = (): (() => number) => stranger().externalMemory;

/** Typed arrays of another realm, as under `vm` and Jest. */
export const realm = runInContext('({ Float32Array, Int32Array, Uint16Array })', createContext()) as {
  Float32Array: Float32ArrayConstructor;
  Int32Array: Int32ArrayConstructor;
  Uint16Array: Uint16ArrayConstructor;
};
