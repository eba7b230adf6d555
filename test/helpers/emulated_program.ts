/** Runs programs of test/emulator on the emulated device, each in a process of its own, which is made to fail by variables. */
import { spawnSync } from 'node:child_process';
import { join } from 'node:path';
import { emulatedAddon, root, sanitizerEnvironment, sanitizers } from './native_build.js';

/** The process's end; without cuBLAS unless `environment` names one. */
export function startEmulated(program: string, args: readonly string[], environment: NodeJS.ProcessEnv) {
  return spawnSync(process.execPath, ['--import', 'tsx', join(root, 'test/emulator', program), ...args], {
    cwd: root,
    encoding: 'utf8',
    env: {
      ...process.env,
      ...(sanitizers === undefined ? {} : sanitizerEnvironment()),
      NODE_OPTIONS: '',
      SAS_BINDING: emulatedAddon,
      SAS_CUBLAS_PATH: 'off',
      ...environment,
    },
  });
}
