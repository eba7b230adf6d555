/**
 * A copy of the repository to plant faults in: whatever becomes of a run, the checkout stays as it is. It lies in build/mutants and
 * is kept, so that the next run compiles only what has changed.
 */
import { execFileSync, type SpawnSyncReturns, spawnSync } from 'node:child_process';
import {
  copyFileSync,
  cpSync,
  existsSync,
  mkdirSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  symlinkSync,
  utimesSync,
  writeFileSync,
} from 'node:fs';
import { availableParallelism } from 'node:os';
import { dirname, join } from 'node:path';
import { Failure } from '../../lib/failure.js';
import { root } from '../helpers/native_build.js';
import { type Addon, type Fault, plant } from './fault.js';

export const tree = join(root, 'build/mutants/tree');

/** What is compiled of the CPU's kernels: one instruction set with wide vectors, where the processor has them. */
export const instructionSet = (() => {
  if (process.env.SAS_ISAS !== undefined) return process.env.SAS_ISAS.split(/[ ;,]/)[0] as string;
  if (process.arch === 'arm64') return 'neon';
  const flags = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
  return flags.includes(' avx2') && flags.includes(' f16c') ? 'avx2' : 'baseline';
})();

const BUILDS: Record<Addon, { target: string; isa: string; environment: Record<string, string> }> = {
  cpu: { target: 'sas_attention', isa: instructionSet, environment: { SAS_DEVICE: 'cpu', SAS_ISA: instructionSet } },
  emulated: {
    target: 'sas_attention_emulated',
    isa: 'baseline',
    environment: { SAS_DEVICE: 'cuda:0', SAS_EMULATOR_SEED: '1' },
  },
};
const folderOf = (addon: Addon) => join(root, 'build/mutants', addon);
const pristineOf = (addon: Addon) => join(root, 'build/mutants', `${addon}-pristine`);

const fileOf = (addon: Addon) => join(folderOf(addon), 'Release', `${BUILDS[addon].target}.node`);
const checkoutAddon = join(root, 'build/Release/sas_attention.node');

/** What tests need to run on an addon of the copy, or, where `faults` are none of native code, on that of the checkout. */
export function environmentOf(addon: Addon, own = true): Record<string, string> {
  if (!own) return { SAS_DEVICE: 'cpu', SAS_POISON: '1', SAS_BINDING: checkoutAddon };
  return { ...BUILDS[addon].environment, SAS_POISON: '1', SAS_BINDING: fileOf(addon) };
}

/** Whether these faults need an addon of the copy, which takes a while to build. */
export const needsBuild = (addon: Addon, faults: readonly Fault[]): boolean =>
  addon === 'emulated' || faults.some(({ native }) => native) || !existsSync(checkoutAddon);

/** Ends with an error where another run is at work. */
export function lock(): void {
  const path = join(root, 'build/mutants/pid');
  mkdirSync(dirname(path), { recursive: true });
  const holder = existsSync(path) ? Number(readFileSync(path, 'utf8')) : 0;
  if (holder > 0 && existsSync(`/proc/${holder}`)) throw new Failure(`process ${holder} is at work in build/mutants`);
  writeFileSync(path, String(process.pid));
  process.on('exit', () => rmSync(path, { force: true }));
}

function filesOf(folder: string, below = ''): string[] {
  return readdirSync(join(folder, below), { withFileTypes: true }).flatMap((entry) => {
    const path = join(below, entry.name);
    return entry.isDirectory() ? filesOf(folder, path) : [path];
  });
}

/** Makes the copy equal to the checkout's files that git knows or would add; what is equal keeps its time. */
export function synchronize(): void {
  const list = execFileSync('git', ['ls-files', '-coz', '--exclude-standard'], { cwd: root, encoding: 'utf8' });
  const wanted = new Set(list.split('\0').filter((path) => path !== '' && existsSync(join(root, path))));
  mkdirSync(tree, { recursive: true });
  for (const entry of readdirSync(tree)) {
    if (entry === 'node_modules' || entry === 'build') continue;
    const path = join(tree, entry);
    const files = statSync(path).isDirectory() ? filesOf(tree, entry) : [entry];
    for (const file of files) if (!wanted.has(file)) rmSync(join(tree, file));
  }
  for (const path of wanted) {
    const [from, to] = [join(root, path), join(tree, path)];
    if (existsSync(to) && readFileSync(from).equals(readFileSync(to))) continue;
    mkdirSync(dirname(to), { recursive: true });
    copyFileSync(from, to);
  }
  const link = (path: string) => {
    mkdirSync(join(root, path), { recursive: true });
    mkdirSync(dirname(join(tree, path)), { recursive: true });
    if (!existsSync(join(tree, path))) symlinkSync(join(root, path), join(tree, path));
  };
  link('node_modules');
  link('build/reference-cache');
}

function cmake(args: readonly string[]): SpawnSyncReturns<string> {
  return spawnSync('cmake', args, { cwd: tree, encoding: 'utf8', maxBuffer: 1 << 28 });
}

/** '' or the first error of the compiler. */
function build(addon: Addon): string {
  const { target } = BUILDS[addon];
  const args = ['--build', folderOf(addon), '--target', target, '--parallel', String(availableParallelism())];
  const { status, stdout, stderr } = cmake(args);
  if (status === 0) return '';
  const output = `${stdout}\n${stderr}`;
  return /^.*\berror\b.*$/im.exec(output)?.[0] ?? output.slice(-500);
}

/** Builds what has no fault, and remembers it. */
export function buildSound(addon: Addon): void {
  const [folder, pristine] = [folderOf(addon), pristineOf(addon)];
  const { isa } = BUILDS[addon];
  if (existsSync(pristine)) restore(addon);
  const { status, stdout, stderr } = cmake([
    ...['-S', tree, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', '-DSAS_CUDA=off', `-DSAS_ISAS=${isa}`],
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(folder, 'Release')}`,
  ]);
  // The second time CMake learns on which headers the objects of the first depend.
  const failure = status === 0 ? build(addon) || build(addon) : `${stdout}\n${stderr}`;
  if (failure) throw new Failure(`the sound ${addon} addon does not build: ${failure}`);
  rmSync(pristine, { recursive: true, force: true });
  cpSync(folder, pristine, { recursive: true, preserveTimestamps: true });
}

/** Puts back every file of the build that a fault has changed, with its time: nothing sound is compiled twice. */
function restore(addon: Addon): void {
  const [folder, pristine] = [folderOf(addon), pristineOf(addon)];
  for (const path of filesOf(pristine)) {
    const [from, to] = [join(pristine, path), join(folder, path)];
    const [sound, other] = [statSync(from), statSync(to, { throwIfNoEntry: false })];
    if (other?.mtimeMs === sound.mtimeMs && other.size === sound.size) continue;
    mkdirSync(dirname(to), { recursive: true });
    cpSync(from, to, { preserveTimestamps: true });
  }
}

/** What tests have built for themselves holds the fault, and looks newer than the sources. */
function forgetOwnBuilds(): void {
  for (const folder of readdirSync(join(tree, 'build'))) {
    if (folder !== 'reference-cache') rmSync(join(tree, 'build', folder), { recursive: true });
  }
}

/** Runs `body` with the fault in the copy and, where it is native code, in the addon. Returns what the compiler says, or ''. */
export async function withFault(fault: Fault, body: () => Promise<void>): Promise<string> {
  const path = join(tree, fault.file);
  const sound = readFileSync(path, 'utf8');
  const { atime, mtime } = statSync(path);
  writeFileSync(path, plant(fault, sound));
  try {
    const failure = fault.native ? build(fault.addon) : '';
    if (failure === '') await body();
    return failure;
  } finally {
    writeFileSync(path, sound);
    utimesSync(path, atime, mtime);
    if (fault.native) {
      restore(fault.addon);
      forgetOwnBuilds();
    }
  }
}
