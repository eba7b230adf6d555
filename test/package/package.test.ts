// What npm would publish: its contents, and that a project that installed it can use it, by import and by require.
import { execFileSync } from 'node:child_process';
import { cpSync, mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { listDevices } from '../../lib/index.js';

const root = resolve(import.meta.dirname, '../..');
const addon = join(root, 'build/Release/sas_attention.node');
const project = mkdtempSync(join(tmpdir(), 'sas-attention-package-'));
const installed = join(project, 'node_modules/sas-attention');

const run = (command: string, args: readonly string[], cwd = project) =>
  execFileSync(command, args, { cwd, encoding: 'utf8', env: { ...process.env, NODE_OPTIONS: '' } });

/** As `npm install` of the tarball leaves it, with the addon of this checkout as the prebuilt binary. */
beforeAll(() => {
  const listing = JSON.parse(
    run('npm', ['pack', '--json', '--ignore-scripts', '--pack-destination', project], root),
  ) as [{ filename: string }];
  mkdirSync(installed, { recursive: true });
  run('tar', ['xzf', join(project, listing[0].filename), '--strip-components=1', '-C', installed]);
  symlinkSync(join(root, 'node_modules/node-gyp-build'), join(project, 'node_modules/node-gyp-build'));
  const prebuilds = join(installed, 'prebuilds', `${process.platform}-${process.arch}`);
  mkdirSync(prebuilds, { recursive: true });
  cpSync(addon, join(prebuilds, 'sas-attention.node'));
  writeFileSync(join(project, 'package.json'), '{"name":"user","private":true}');
});
afterAll(() => rmSync(project, { recursive: true }));

describe('the packed tarball', () => {
  it('holds what a user needs and nothing else', () => {
    const files = readdirSync(installed).sort();
    expect(files).toEqual(
      [
        'CHANGELOG.md',
        'CMakeLists.txt',
        'LICENSE',
        'README.md',
        'dist',
        'binding.d.ts',
        'native',
        'package.json',
        'prebuilds',
      ].sort(),
    );
  });

  it('loads by require and names the devices, with a reason for each that cannot be used', () => {
    const program = 'console.log(JSON.stringify(require("sas-attention").listDevices()))';
    const devices = JSON.parse(run(process.execPath, ['-e', program])) as ReturnType<typeof listDevices>;
    const cpu = devices.find((device) => device.id === 'cpu');
    expect(cpu?.usable).toBe(true);
    expect(cpu?.isa).toMatch(/^(avx512bf16|avx512|avx2|baseline)$/);
    for (const device of devices) expect(device.usable || (device.reason ?? '').length > 10).toBe(true);
    expect(devices.some((device) => device.kind === 'cuda')).toBe(true);
  });

  it('loads by import and computes', () => {
    writeFileSync(
      join(project, 'user.mjs'),
      `import { ops, Tensor } from 'sas-attention';
       const x = Tensor.from([1, 2, 3, 4], [1, 1, 4, 1]);
       console.log((await ops.aggregate(x, 2).data()).join(' '));`,
    );
    expect(run(process.execPath, ['user.mjs']).trim()).toBe('2 3');
  });

  it("runs the README's training step, and it learns", () => {
    const readme = readFileSync(join(root, 'README.md'), 'utf8');
    const program = readme.match(/```ts\n(.*?)```/s)?.[1] ?? '';
    writeFileSync(join(project, 'readme.mjs'), program);
    const losses = run(process.execPath, ['readme.mjs'])
      .trim()
      .split('\n')
      .map((line) => Number(line.split(' ')[1]));
    expect(losses).toHaveLength(100);
    expect(losses[0]).toBeGreaterThan(3);
    expect(losses.at(-1)).toBeLessThan(1);
  });

  it('has a binary that exports only what Node looks for and needs only the system libraries', () => {
    const exported = run('nm', ['-D', '--defined-only', addon]).match(/\S+$/gm) ?? [];
    expect(exported.sort()).toEqual(['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
    const needed = [...run('readelf', ['-d', addon]).matchAll(/NEEDED.*\[(.*)\]/g)].map((match) => match[1]);
    for (const library of needed) expect(library).toMatch(/^(libc|libm|libgcc_s|libstdc\+\+|ld-linux-x86-64)\.so/);
  });
});
