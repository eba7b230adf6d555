// Where cuBLAS is looked for: not in the folder in which the program was started, whatever the environment says (CWE-427).
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { buildEmulated, emulatedAddon, sanitizerEnvironment, sanitizers } from '../helpers/native_build.js';

const root = resolve(import.meta.dirname, '../..');
const hostile = mkdtempSync(join(tmpdir(), 'sas-hostile-'));
afterAll(() => rmSync(hostile, { recursive: true }));

const sanitized = sanitizers === undefined ? {} : sanitizerEnvironment();
const planted = '#include <stdio.h>\n__attribute__((constructor)) static void run(void) { puts("executed"); }';

beforeAll(() => {
  buildEmulated('sas_attention_emulated');
  const packages = 'lib/python3.12/site-packages/nvidia/cublas/lib';
  for (const folder of ['lib64', 'lib', 'nvidia/cublas/lib', packages, `.local/${packages}`]) {
    mkdirSync(join(hostile, folder), { recursive: true });
    for (const name of ['libcublasLt.so.13', 'libcublas.so.13']) {
      execFileSync('cc', ['-shared', '-fPIC', '-x', 'c', '-o', join(hostile, folder, name), '-'], { input: planted });
    }
  }
  mkdirSync(join(hostile, 'bin'));
  writeFileSync(join(hostile, 'bin/python3'), '');
}, 1_800_000);

function blasThere(env: NodeJS.ProcessEnv): string {
  const library = JSON.stringify(join(root, 'lib/index.ts'));
  const program = `import(${library}).then(({ getDevice }) => console.log(getDevice('cuda:0').info.blas));`;
  const tsx = join(root, 'node_modules/tsx/dist/loader.mjs');
  const { stdout, stderr, status } = spawnSync(process.execPath, ['--import', tsx, '-e', program], {
    cwd: hostile,
    encoding: 'utf8',
    env: {
      ...process.env,
      ...sanitized,
      NODE_OPTIONS: '',
      SAS_BINDING: emulatedAddon,
      SAS_CUBLAS_PATH: undefined,
      ...env,
    },
  });
  expect(status, stderr).toBe(0);
  return stdout;
}

it.each([
  ['PYTHONPATH', '.'],
  ['CUDA_PATH', '.'],
  ['CUDA_HOME', '.'],
  ['VIRTUAL_ENV', '.'],
  ['CONDA_PREFIX', '.'],
  ['HOME', '.'],
  ['PATH', './bin'],
])('%s=%s leads to no library of the current folder', (variable, value) => {
  const output = blasThere({ [variable]: value });
  expect(output).not.toContain('executed');
  expect(output).not.toContain('./');
});

it('a folder named by SAS_CUBLAS_PATH is taken at its word', () => {
  expect(blasThere({ SAS_CUBLAS_PATH: `${hostile}/lib` })).toMatch(/^executed\n/);
});
