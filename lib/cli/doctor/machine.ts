/** What can be said without the addon: versions, the machine, the variables that are set. */
import { existsSync, readFileSync } from 'node:fs';
import { availableParallelism, cpus, freemem, totalmem } from 'node:os';
import { fileURLToPath } from 'node:url';
import { glibcVersion } from '../../addon_file.js';
import { closest } from '../arguments.js';

export interface Machine {
  readonly package: { readonly version: string; readonly folder: string };
  readonly node: string;
  /** Highest N-API version. */
  readonly napi: string;
  readonly platform: NodeJS.Platform;
  readonly arch: string;
  /** null: another C library (musl), or another system. */
  readonly glibc: string | null;
  readonly processor: string;
  /** That this process may use. */
  readonly processors: number;
  readonly memoryBytes: number;
  readonly freeBytes: number;
  /** The version of the kernel's NVIDIA driver; null: there is none. */
  readonly nvidiaDriver: string | null;
  readonly environment: readonly Variable[];
}

/** A variable that is set and means something here. */
export interface Variable {
  readonly name: string;
  readonly value: string;
  readonly meaning: string;
}

const VARIABLES: Readonly<Record<string, string>> = {
  SAS_BINDING: 'the .node file to load, an absolute path',
  SAS_DEVICE: 'default device',
  SAS_THREADS: 'compute threads',
  SAS_ISA: 'instruction set of the CPU kernels',
  SAS_MEMORY_LIMIT: 'bytes that tensors may take',
  SAS_TF32: 'f32 products in TF32 on GPUs',
  SAS_ANOMALY: 'the first op that writes NaN or an infinity is named',
  SAS_CUBLAS_PATH: 'where cuBLAS is',
  SAS_POISON: 'fresh memory is filled with NaN (for tests)',
  SAS_SYSTEM_ROOT: "where a container's limits are read (for tests)",
  SAS_CUDA: 'whether a source build has the CUDA backend',
  SAS_CUDA_ARCHITECTURES: 'GPUs that a source build is for',
  npm_config_build_from_source: 'npm builds the addon even where a prebuilt one fits',
  CUDA_VISIBLE_DEVICES: 'GPUs that CUDA may see',
  CUDA_PATH: 'where cuBLAS is looked for',
  CUDA_HOME: 'where cuBLAS is looked for',
  VIRTUAL_ENV: 'where cuBLAS is looked for',
  CONDA_PREFIX: 'where cuBLAS is looked for',
  LD_LIBRARY_PATH: 'where libraries are looked for',
  LD_PRELOAD: 'libraries that are loaded first',
  NODE_OPTIONS: 'options of Node',
};

function variables(environment: NodeJS.ProcessEnv): Variable[] {
  const known = Object.keys(VARIABLES);
  return Object.entries(environment).flatMap(([name, value]): Variable[] => {
    if (!value) return [];
    if (VARIABLES[name]) return [{ name, value, meaning: VARIABLES[name] }];
    if (!name.startsWith('SAS_')) return [];
    const meant = closest(name, known);
    return [{ name, value, meaning: `means nothing here${meant ? `; ${meant} does` : ''}` }];
  });
}

/** As the kernel module says it, in some words or others. */
function nvidiaDriver(): string | null {
  const file = '/proc/driver/nvidia/version';
  if (!existsSync(file)) return null;
  return /\b\d{3}\.\d+(\.\d+)?\b/.exec(readFileSync(file, 'utf8'))?.[0] ?? 'of unknown version';
}

export function describeMachine(): Machine {
  const folder = new URL('../../../', import.meta.url);
  const { version } = JSON.parse(readFileSync(new URL('package.json', folder), 'utf8')) as { version: string };
  return {
    package: { version, folder: fileURLToPath(folder) },
    node: process.version,
    napi: process.versions.napi ?? 'unknown',
    platform: process.platform,
    arch: process.arch,
    glibc: process.platform === 'linux' ? (glibcVersion() ?? null) : null,
    processor: cpus()[0]?.model.trim() ?? 'unknown',
    processors: availableParallelism(),
    memoryBytes: totalmem(),
    freeBytes: freemem(),
    nvidiaDriver: nvidiaDriver(),
    environment: variables(process.env),
  };
}
