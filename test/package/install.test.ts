// npm's install script: when it leaves the binary at hand as it is, and when it builds. A stand-in for CMake says that it was called.
import { readFileSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, expect, it } from 'vitest';
import { NO_CUDA } from '../../lib/addon_file.js';
import { installedIn, prebuiltName, Workshop } from './project.js';

const workshop = new Workshop();
let folder = '';
let prebuilt = '';

beforeAll(() => {
  folder = installedIn(workshop.project('user'));
  prebuilt = join(folder, 'prebuilds', prebuiltName);
  workshop.unpack(workshop.tarball(), folder);
  writeFileSync(join(workshop.bare, 'cmake'), '#!/bin/sh\necho "cmake $*"\n', { mode: 0o755 });
});
afterAll(() => workshop.remove());

/** What CMake was asked for. */
function install(env: NodeJS.ProcessEnv): string[] {
  const output = workshop.must(process.execPath, ['native/install.cjs'], folder, { PATH: workshop.bare, ...env });
  return output.split('\n').filter((line) => line.startsWith('cmake '));
}
const built = [expect.stringMatching(/^cmake -S /), expect.stringMatching(/^cmake --build .* --target sas_attention /)];

it.each([[{}], [{ SAS_CUDA: 'off' }], [{ SAS_CUDA: 'auto' }]])('takes the binary at hand, with %j', (env) => {
  expect(install(env)).toEqual([]);
});

it('builds where it is told to', () => {
  expect(install({ npm_config_build_from_source: 'true' })).toEqual(built);
});

it('builds where SAS_CUDA=on asks for what the binary lacks, and only there', () => {
  const hasCuda = readFileSync(prebuilt).includes(NO_CUDA) === false; // one of prebuilds/ may
  expect(install({ SAS_CUDA: 'on' })).toEqual(hasCuda ? [] : built);
  // As if the binary's reason were any other: "the NVIDIA driver finds no GPU", for one.
  const file = join(folder, 'dist/addon_file.js');
  const source = readFileSync(file, 'utf8');
  writeFileSync(file, source.replace(NO_CUDA, 'another reason'));
  expect(install({ SAS_CUDA: 'on' })).toEqual([]);
  writeFileSync(file, source);
});

it('hands on what CMake says where the backend cannot be built', () => {
  writeFileSync(join(workshop.bare, 'cmake'), '#!/bin/sh\necho "nvcc is not found" >&2\nexit 1\n', { mode: 0o755 });
  const { status, stderr } = workshop.run(process.execPath, ['native/install.cjs', 'build'], folder, {
    PATH: workshop.bare,
    SAS_CUDA: 'on',
  });
  expect(stderr).toContain('nvcc is not found');
  expect(stderr).toContain('the build from source failed: cmake ended with exit code 1 (see above).');
  expect(status).toBe(1);
});
