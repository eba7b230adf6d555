/** Builds CMake targets of this repository in a folder of their own under build/. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';

export const root = resolve(import.meta.dirname, '../..');

/** Configures build/`folder` if it is new, builds `target` and returns the folder that holds it. */
export function buildTarget(folder: string, target: string, definitions: Record<string, string> = {}): string {
  const build = join(root, 'build', folder);
  const run = (command: string, args: readonly string[]) =>
    execFileSync(command, args, {
      cwd: root,
      encoding: 'utf8',
      stdio: 'pipe',
      maxBuffer: 1 << 28,
      env: { ...process.env, LD_PRELOAD: '' }, // a sanitizer's runtime is for this process
    });
  if (!existsSync(join(build, 'CMakeCache.txt'))) {
    const cmakeJs = join(root, 'node_modules/cmake-js/bin/cmake-js');
    const options = Object.entries(definitions).map(([name, value]) => `--CD${name}=${value}`);
    run(process.execPath, [cmakeJs, 'configure', '--out', build, ...options]);
  }
  run('cmake', ['--build', build, '--target', target, '--parallel', '2']);
  return build;
}

/** CMakeLists.txt reads it from the environment too; such a build has a folder of its own. */
export const sanitizers = process.env.SAS_SANITIZE;
const emulatedFolder = sanitizers === undefined ? 'emulated' : 'emulated-sanitized';

/** A target of test/emulator; the CPU backend beside it needs one instruction set only. */
export const buildEmulated = (target: string): string => buildTarget(emulatedFolder, target, { SAS_ISAS: 'baseline' });

/** The addon whose cuda:0 is the emulated device, once buildEmulated('sas_attention_emulated') has made it. */
export const emulatedAddon = join(root, 'build', emulatedFolder, 'Release/sas_attention_emulated.node');

/** What a process needs before it loads an addon built with the sanitizers: their runtime. Node itself never frees everything. */
export function sanitizerEnvironment(): Record<string, string> {
  return {
    LD_PRELOAD: execFileSync('g++', ['-print-file-name=libasan.so'], { encoding: 'utf8' }).trim(),
    // An allocation of any size that fails is the library's to report.
    ASAN_OPTIONS: 'detect_leaks=0:allocator_may_return_null=1',
    UBSAN_OPTIONS: 'halt_on_error=1:print_stacktrace=1',
  };
}
