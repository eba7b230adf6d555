/** What the bundle was built from; written by bundle.ts beside the scripts, quoted in every result. */
import { existsSync, readFileSync } from 'node:fs';

export interface Manifest {
  readonly commit: string;
  /** True where the checkout had uncommitted changes. */
  readonly modified: boolean;
  readonly date: string;
  readonly version: string;
  readonly node: string;
  readonly addon: { readonly bytes: number; readonly sha256: string; readonly architectures?: string; readonly nvcc?: string };
}

/** The bundle's manifest, or undefined in a checkout. */
export function readManifest(): Manifest | undefined {
  const file = new URL('../../manifest.json', import.meta.url);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Manifest) : undefined;
}
