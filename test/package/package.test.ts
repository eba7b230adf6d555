// What npm would publish: its contents, and that a project that installed it, with no compiler and no network, can use it by
// import, by require and from TypeScript.
import { existsSync, readdirSync, readFileSync, statSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { transformSync } from 'esbuild';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { listDevices } from '../../lib/index.js';
import { inRepository, linksOf, samplesOf } from '../docs/markdown.js';
import { compareVersions, requirements } from './elf.js';
import { filesBelow, installedIn, type Output, prebuiltName, root, Workshop } from './project.js';

const workshop = new Workshop();
let tarball = '';
let project = '';
let installation: Output;

beforeAll(() => {
  tarball = workshop.tarball();
  project = workshop.project('user');
  installation = workshop.install(project, tarball);
});
afterAll(() => workshop.remove());

const node = (args: readonly string[], cwd = project) =>
  workshop.must(process.execPath, args, cwd, { PATH: workshop.bare });

describe('the packed tarball', () => {
  it('holds what a user needs and nothing else, in at most 20 MB', () => {
    expect(installation, installation.stderr).toMatchObject({ status: 0 });
    const top = [
      'CHANGELOG.md',
      'CMakeLists.txt',
      'LICENSE',
      'README.md',
      'binding.d.ts',
      'dist',
      'docs',
      'native',
      'package.json',
    ];
    expect(readdirSync(installedIn(project)).sort()).toEqual([...top, 'prebuilds'].sort());
    const files = filesBelow(installedIn(project));
    const kinds = /\.(js|d\.ts|cjs|cc|h|cu|cuh|map|node|md|svg|txt|cmake|json)$|LICENSE$/;
    expect(files.filter((name) => !kinds.test(name) || /^(test|bench)\/|\.test\.|prebuild\.cjs/.test(name))).toEqual(
      [],
    );
    const bytes = statSync(tarball).size;
    const unpacked = files.reduce((sum, name) => sum + statSync(join(installedIn(project), name)).size, 0);
    const binary = statSync(join(installedIn(project), 'prebuilds', prebuiltName)).size;
    const full = existsSync(join(root, 'prebuilds', prebuiltName));
    const megabytes = (size: number) => `${(size / 1e6).toFixed(2)} MB`;
    console.log(
      `tarball ${megabytes(bytes)}, unpacked ${megabytes(unpacked)} in ${files.length} files, ` +
        `${prebuiltName} ${megabytes(binary)} (${full ? 'from prebuilds/' : "this checkout's own build"})`,
    );
    expect(bytes).toBeLessThan(20e6);
  });

  it('has pages whose links lead to what it holds, or to the repository', () => {
    const installed = installedIn(project);
    const pages = filesBelow(installed).filter((name) => /^(docs\/[^/]*|README|CHANGELOG)\.md$/.test(name));
    expect(pages.length).toBeGreaterThan(10);
    const broken = pages.flatMap((page) =>
      linksOf(readFileSync(join(installed, page), 'utf8')).filter((link) => {
        const path = link.replace(/#.*/, '');
        if (/^https?:/.test(link))
          return inRepository(path) !== undefined && !existsSync(join(root, inRepository(path) as string));
        return path !== '' && !existsSync(join(installed, dirname(page), path));
      }),
    );
    expect(broken).toEqual([]);
  });

  it('has a binary that exports only what Node looks for and needs only the system libraries, of glibc 2.34', () => {
    const { exported, needed, floors, because } = requirements(join(installedIn(project), 'prebuilds', prebuiltName));
    console.log(
      `exported: ${exported.join(', ')}\nneeded: ${needed.join(', ')}\n` +
        Object.entries(floors)
          .map(([family, version]) => `${family} ${version}: ${because[family]?.slice(0, 8).join(', ')}`)
          .join('\n'),
    );
    expect(exported).toEqual(['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
    for (const library of needed) expect(library).toMatch(/^(libc|libm|libgcc_s|libstdc\+\+|ld-linux-[\w-]+)\.so/);
    // Debian 12, Ubuntu 22.04, RHEL 9 and Amazon Linux 2023 have these.
    expect(compareVersions(floors.GLIBC ?? '0', '2.34')).toBeLessThanOrEqual(0);
    expect(compareVersions(floors.GLIBCXX ?? '0', '3.4.29')).toBeLessThanOrEqual(0);
    expect(compareVersions(floors.CXXABI ?? '0', '1.3.13')).toBeLessThanOrEqual(0);
  });
});

describe('a project that installed it without a compiler and without a network', () => {
  it('loads it by require and names the devices, with a reason for each that cannot be used', () => {
    const program = 'console.log(JSON.stringify(require("sas-attention").listDevices()))';
    const devices = JSON.parse(node(['-e', program])) as ReturnType<typeof listDevices>;
    const cpu = devices.find((device) => device.id === 'cpu');
    expect(cpu?.usable).toBe(true);
    expect(cpu?.isa).toMatch(/^(avx512bf16|avx512|avx2|neon|baseline)$/);
    for (const device of devices) expect(device.usable || (device.reason ?? '').length > 10).toBe(true);
    expect(devices.some((device) => device.kind === 'cuda')).toBe(true);
    expect(existsSync(join(installedIn(project), 'build'))).toBe(false);
  });

  it('loads it by import and computes', () => {
    writeFileSync(
      join(project, 'user.mjs'),
      `import { ops, Tensor } from 'sas-attention';
       const x = Tensor.from([1, 2, 3, 4], [1, 1, 4, 1]);
       console.log((await ops.aggregate(x, 2).data()).join(' '));`,
    );
    expect(node(['user.mjs']).trim()).toBe('2 3');
  });

  it('compiles against its types with TypeScript, as a module and as CommonJS, and runs', () => {
    const program = `
      const x: Tensor = Tensor.from([1, 2, 3, 4], [1, 1, 4, 1]);
      const device: DeviceInfo | undefined = listDevices().find(({ id }) => id === 'cpu');
      ops.aggregate(x, 2).data().then((values) => console.log(device?.id, Array.from(values).join(' ')));`;
    const names = 'type DeviceInfo, listDevices, ops, Tensor';
    const require = `import sas = require('sas-attention');
      const { listDevices, ops, Tensor } = sas; type Tensor = sas.Tensor; type DeviceInfo = sas.DeviceInfo;`;
    writeFileSync(join(project, 'esm.mts'), `import { ${names} } from 'sas-attention';${program}`);
    writeFileSync(join(project, 'cjs.cts'), `${require}${program}`);
    const options = ['--strict', '--module', 'nodenext', '--target', 'es2022', '--lib', 'es2023,esnext.disposable,dom'];
    const tsc = [join(root, 'node_modules/typescript/bin/tsc'), ...options, 'esm.mts', 'cjs.cts'];
    const { status, stdout } = workshop.run(process.execPath, tsc, project);
    expect(stdout).toBe('');
    expect(status).toBe(0);
    for (const file of ['esm.mjs', 'cjs.cjs']) expect(node([file]).trim()).toBe('cpu 2 3');
  });

  it.each(['README.md', 'docs/training-step.md'])('runs the program of %s', (page) => {
    const [{ program, prints }] = samplesOf(readFileSync(join(installedIn(project), page), 'utf8'));
    writeFileSync(join(project, 'sample.mjs'), transformSync(program.text, { loader: 'ts' }).code);
    expect(node(['sample.mjs'])).toBe(prints);
  });

  it('works with --ignore-scripts too', () => {
    const careful = workshop.project('careful');
    const { status, stderr } = workshop.install(careful, tarball, ['--ignore-scripts']);
    expect(status, stderr).toBe(0);
    expect(node(['-p', 'require("sas-attention").listDevices().some((device) => device.usable)'], careful).trim()).toBe(
      'true',
    );
  });

  it('is told what is missing, with exit code 1, where no prebuilt binary fits', () => {
    const { status, stdout, stderr } = workshop.install(workshop.project('unlucky'), workshop.tarball(false));
    const output = stdout + stderr;
    expect(status, output).toBe(1);
    expect(output).toContain('the native addon cannot be loaded');
    expect(output).toContain(`${prebuiltName}: no such file`);
    expect(output).toContain('the build from source failed: cmake is not on PATH.');
    expect(output).toContain('it needs a C++20 compiler');
  });
});
