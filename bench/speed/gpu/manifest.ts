/** What a result is a result of: the bundle, the device, the driver, the time. */
import { existsSync, readFileSync } from 'node:fs';
import { type DeviceInfo, listDevices } from '../../../lib/index.js';

/** Written by bundle.ts beside the scripts. */
export interface Manifest {
  readonly commit: string;
  /** True where the checkout had uncommitted changes. */
  readonly modified: boolean;
  readonly date: string;
  readonly version: string;
  readonly node: string;
  readonly addon: {
    readonly bytes: number;
    readonly sha256: string;
    readonly architectures?: string;
    readonly nvcc?: string;
  };
}

export interface Origin {
  readonly date: string;
  readonly device?: DeviceInfo;
  /** The kernel module's own words. */
  readonly driver?: string;
  /** Absent in a checkout. */
  readonly manifest?: Manifest;
}

const textOf = (file: string | URL) => (existsSync(file) ? readFileSync(file, 'utf8') : undefined);

export function origin(): Origin {
  const manifest = textOf(new URL('../../manifest.json', import.meta.url));
  const driver = textOf('/proc/driver/nvidia/version')?.split('\n')[0];
  const device = listDevices().find(({ id }) => id === process.env.SAS_DEVICE);
  return {
    date: new Date().toISOString(),
    ...(device && { device }),
    ...(driver && { driver }),
    ...(manifest && { manifest: JSON.parse(manifest) as Manifest }),
  };
}
