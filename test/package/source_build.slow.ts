// With a compiler and without a prebuilt binary, npm install builds the addon from the tarball's own sources.
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, expect, it } from 'vitest';
import { installedIn, Workshop } from './project.js';

const workshop = new Workshop();
afterAll(() => workshop.remove());

it('builds from source where there is a compiler and no prebuilt binary, and loads what it built', () => {
  const project = workshop.project('builder');
  const start = performance.now();
  const env = { PATH: process.env.PATH, SAS_CUDA: 'off', SAS_ISAS: 'baseline' };
  const { status, stdout, stderr } = workshop.install(project, workshop.tarball(false), [], env);
  expect(status, stdout + stderr).toBe(0);
  console.log(
    `npm install with the build (baseline CPU kernels only): ${((performance.now() - start) / 1000).toFixed(0)} s`,
  );
  expect(existsSync(join(installedIn(project), 'build/Release/sas_attention.node'))).toBe(true);
  const program =
    'const { listDevices } = require("sas-attention"); console.log(listDevices().find(({ id }) => id === "cpu").isa)';
  expect(workshop.must(process.execPath, ['-e', program], project).trim()).toBe('baseline');
});
