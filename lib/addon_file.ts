/** Where the native addon may lie, and why a file there does not load. */
import { closeSync, openSync, readdirSync, readSync } from 'node:fs';
import { join } from 'node:path';

/** The C library of this process's Linux; undefined on other systems. */
function cLibrary(): { name: 'glibc' | 'musl'; version?: string } | undefined {
  if (process.platform !== 'linux') return undefined;
  const { header } = process.report.getReport() as unknown as { header: { glibcVersionRuntime?: string } };
  return header.glibcVersionRuntime ? { name: 'glibc', version: header.glibcVersionRuntime } : { name: 'musl' };
}

/** The files to try in turn: one built on this machine, then the prebuilt one. */
export function addonFiles(packageRoot: string): string[] {
  const tag = cLibrary()?.name;
  return [
    join(packageRoot, 'build/Release/sas_attention.node'),
    join(packageRoot, 'prebuilds', `${process.platform}-${process.arch}`, `sas-attention${tag ? `.${tag}` : ''}.node`),
  ];
}

/** What the package brings binaries for, such as `linux-x64/sas-attention.glibc.node`. */
export function prebuiltFiles(packageRoot: string): string[] {
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

/** The processor that a shared library is for, by the first 20 bytes of an ELF file; undefined: no such file. */
function machineOf(file: string): string | undefined {
  const header = Buffer.alloc(20);
  const descriptor = openSync(file, 'r');
  try {
    if (readSync(descriptor, header, 0, 20, 0) < 20) return undefined;
  } finally {
    closeSync(descriptor);
  }
  if (header.toString('latin1', 0, 4) !== '\x7fELF') return undefined;
  const machine = header.readUInt16LE(18);
  return machines[machine] ?? `machine ${machine}`;
}

export interface Failure {
  readonly file: string;
  /** missing: no such file; foreign: a good file for another kind of machine or an older or newer system. */
  readonly kind: 'missing' | 'damaged' | 'foreign' | 'other';
  readonly reason: string;
}

/** Why `file` did not load, given what Node threw. */
export function diagnose(file: string, thrown: unknown): Failure {
  const message = thrown instanceof Error ? thrown.message.trim() : String(thrown);
  let machine: string | undefined;
  try {
    machine = machineOf(file);
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    if (code === 'ENOENT' || code === 'ENOTDIR') return { file, kind: 'missing', reason: 'no such file' };
    return { file, kind: 'other', reason: error instanceof Error ? error.message : String(error) };
  }
  if (machine === undefined) return { file, kind: 'damaged', reason: 'not a shared library: the file is damaged' };
  if (process.platform === 'linux' && machine !== process.arch) {
    return { file, kind: 'foreign', reason: `is for ${machine} processors; this process runs on ${process.arch}` };
  }
  const library = cLibrary();
  const [, versionedBy, version] = /version [`'](GLIBC|GLIBCXX|CXXABI|GCC)_([\d.]+)' not found/.exec(message) ?? [];
  if (versionedBy === 'GLIBC') {
    const here = library?.version ? `this system has ${library.version}` : 'this system does not have it';
    return { file, kind: 'foreign', reason: `needs glibc ${version} or newer; ${here}` };
  }
  if (versionedBy) {
    return { file, kind: 'foreign', reason: `needs a newer libstdc++ (${versionedBy}_${version}) than this system's` };
  }
  if (library?.name === 'musl' && /libc\.so\.6|ld-linux|symbol not found/.test(message)) {
    return { file, kind: 'foreign', reason: 'is for glibc; the C library of this system is musl' };
  }
  if (/file too short|invalid ELF header|segment|truncated/.test(message)) {
    return { file, kind: 'damaged', reason: `the file is damaged: ${message.replace(`${file}: `, '')}` };
  }
  return { file, kind: 'other', reason: message.replace(`${file}: `, '') };
}
