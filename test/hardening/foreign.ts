/** Values that are not this package's own: Externals of another addon, and what another realm makes. */
import { createRequire } from 'node:module';
import { join } from 'node:path';
import { createContext, runInContext } from 'node:vm';
import { buildTarget } from '../helpers/native_build.js';

/** The Externals of an addon of the test's own: see native/foreign_externals.cc. */
export function foreignExternals(): unknown[] {
  const build = buildTarget('hardening', 'sas_foreign_externals', { SAS_ISAS: 'baseline' });
  const addon = createRequire(import.meta.url)(join(build, 'Release/sas_foreign_externals.node')) as object;
  return Object.values(addon);
}

const context = createContext();

/** Typed arrays of another realm, as under `vm` and Jest. */
export const realm = runInContext('({ Float32Array, Int32Array, Uint16Array })', context) as {
  Float32Array: Float32ArrayConstructor;
  Int32Array: Int32ArrayConstructor;
  Uint16Array: Uint16ArrayConstructor;
};
