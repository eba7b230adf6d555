/** Where the native addon may lie, and why a file there does not load. */
import { closeSync, fstatSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';

/** Why a CUDA device is unusable in an addon without the CUDA backend (native/cuda/not_built.cc). */
export const NO_CUDA = 'this build of sas-attention has no CUDA backend';

/** The version of glibc that runs; undefined: another C library. */
export function glibcVersion(): string | undefined {
  const report: { excludeNetwork?: boolean; getReport(): object } = process.report;
  const { excludeNetwork } = report;
  // Else the names of all peers of open connections are looked up, one after the other, on this thread.
  report.excludeNetwork = true;
  try {
    const { header } = report.getReport() as { header: { glibcVersionRuntime?: string } };
    return header.glibcVersionRuntime;
  } finally {
    report.excludeNetwork = excludeNetwork;
  }
}

/** Where a file is expected: one built on this machine, or the prebuilt one for its C library. */
export function addonFiles(packageRoot: string): string[] {
  const tag = process.platform === 'linux' && (glibcVersion() ? 'glibc' : 'musl');
  return [
    join(packageRoot, 'build/Release/sas_attention.node'),
    join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`, `sas-attention${tag ? `.${tag}` : ''}.node`),
  ];
}

/** What the package brings binaries for, such as `linux-x64/sas-attention.glibc.node`. */
export function prebuiltFiles(packageRoot: string | undefined): string[] {
  if (packageRoot === undefined) return [];
  try {
    return readdirSync(join(packageRoot, 'prebuilds'), { recursive: true, encoding: 'utf8' })
      .filter((name) => name.endsWith('.node'))
      .sort();
  } catch {
    return [];
  }
}

/** e_machine of the ELF header. */
const machines: Record<number, string> = { 3: 'ia32', 40: 'arm', 62: 'x64', 183: 'arm64' };

export interface Failure {
  readonly file: string;
  /** missing: no such file; foreign: a good file for another kind of machine or an older or newer system. */
  readonly kind: 'missing' | 'damaged' | 'foreign' | 'other';
  readonly reason: string;
}

const textOf = (thrown: unknown) => (thrown instanceof Error ? thrown.message.trim() : String(thrown));

/**
 * What is wrong with `file` as far as its header shows; undefined: nothing. To be asked before it is loaded: the dynamic
 * linker crashes on a file that was cut short.
 */
export function inspect(file: string): Failure | undefined {
  const header = Buffer.alloc(64);
  let size = 0;
  try {
    const descriptor = openSync(file, 'r');
    try {
      readSync(descriptor, header, 0, header.length, 0);
      size = fstatSync(descriptor).size;
    } finally {
      closeSync(descriptor);
    }
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return { file, kind: 'missing', reason: 'no such file' };
    return { file, kind: 'other', reason: textOf(error) };
  }
  if (process.platform !== 'linux') return undefined;
  if (header.toString('latin1', 0, 4) !== '\x7fELF') {
    return { file, kind: 'damaged', reason: 'not a shared library: the file is damaged' };
  }
  const machine = machines[header.readUInt16LE(18)] ?? `other (ELF machine ${header.readUInt16LE(18)})`;
  if (machine !== process.arch) {
    return { file, kind: 'foreign', reason: `is for ${machine} processors; this process runs on ${process.arch}` };
  }
  // The table of sections ends the file: e_shoff + e_shentsize * e_shnum.
  const end = Number(header.readBigUInt64LE(40)) + header.readUInt16LE(58) * header.readUInt16LE(60);
  if (end > size) {
    return {
      file,
      kind: 'damaged',
      reason: `the file is damaged: it has ${size} bytes, and its header speaks of ${end}`,
    };
  }
  return undefined;
}

/** Why `file`, in which `inspect` found nothing, did not load, given what Node threw. */
export function diagnose(file: string, thrown: unknown): Failure {
  const message = textOf(thrown).replace(`${file}: `, '');
  const [, versionedBy, version] = /version [`'](GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)' not found/.exec(message) ?? [];
  if (versionedBy === 'GLIBC') {
    const own = glibcVersion();
    const here = own ? `this system has ${own}` : 'this system does not have it';
    return { file, kind: 'foreign', reason: `needs glibc ${version} or newer; ${here}` };
  }
  if (versionedBy) {
    return { file, kind: 'foreign', reason: `needs a newer libstdc++ (${versionedBy}_${version}) than this system's` };
  }
  return { file, kind: 'other', reason: message };
}
