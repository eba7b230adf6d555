/** The addon with the CUDA backend, on a machine without an NVIDIA driver: it loads, and says why cuda:0 cannot be used. */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { buildTarget, root } from '../helpers/native_build.js';
import { findNvcc } from './nvcc.js';

const nvcc = findNvcc();
const addon = join(root, 'build/cuda/Release/sas_attention.node');
const REASON = 'no NVIDIA driver is installed (libcuda.so.1 cannot be loaded)';

/** What a program that uses the library through this addon prints. */
const output = (program: string) => {
  const source = `import * as sas from '${join(root, 'lib/index.ts')}';\n${program}`;
  const env = { ...process.env, SAS_BINDING: addon, SAS_DEVICE: '', NODE_OPTIONS: '' };
  const options = ['--import', 'tsx', '--input-type=module', '-e', source];
  return JSON.parse(execFileSync(process.execPath, options, { cwd: root, encoding: 'utf8', env }));
};
const matches = (command: string, args: readonly string[], pattern: RegExp) =>
  [...execFileSync(command, args, { encoding: 'utf8' }).matchAll(pattern)].map((match) => match[1]).sort();

describe('the addon built with SAS_CUDA=on', () => {
  // One target and one instruction set: enough to load, quick to build.
  beforeAll(() => {
    if (!nvcc) return;
    const architectures = { SAS_CUDA: 'on', SAS_CUDA_ARCHITECTURES: '90a-real', SAS_ISAS: 'baseline' };
    buildTarget('cuda', 'sas_attention', architectures);
  }, 1_200_000);

  const compiled = (name: string, test: () => void) =>
    it(name, ({ skip }) => {
      skip(nvcc === null, 'nvcc is not installed');
      test();
    });
  const undriven = (name: string, test: () => void) =>
    it(name, ({ skip }) => {
      skip(nvcc === null, 'nvcc is not installed');
      skip(existsSync('/proc/driver/nvidia/version'), 'this machine has an NVIDIA driver');
      test();
    });

  undriven('lists cuda:0 with the reason that it cannot be used', () => {
    const devices = output('console.log(JSON.stringify(sas.listDevices()))') as { id: string }[];
    expect(devices.find(({ id }) => id === 'cuda:0')).toMatchObject({ kind: 'cuda', usable: false, reason: REASON });
    expect(devices.find(({ id }) => id === 'cpu')).toMatchObject({ usable: true });
  });

  undriven('refuses cuda:0 with that reason', () => {
    const program = `try { sas.getDevice('cuda:0'); console.log('null'); } catch (error) {
      console.log(JSON.stringify({ isDeviceError: error instanceof sas.DeviceError, message: error.message })); }`;
    const message = `device 'cuda:0' cannot be used: ${REASON}`;
    expect(output(program)).toEqual({ isDeviceError: true, message: expect.stringContaining(message) });
  });

  undriven('computes on the CPU', () => {
    const program = `const x = sas.Tensor.from([1, 2, 3, 4], [1, 1, 4, 1]);
      console.log(JSON.stringify([...(await sas.ops.aggregate(x, 2).data())]))`;
    expect(output(program)).toEqual([2, 3]);
  });

  compiled('needs no CUDA library at load time', () => {
    const needed = matches('readelf', ['-d', addon], /NEEDED.*\[(.*)\]/g);
    expect(needed).toContain('libc.so.6');
    for (const library of needed) {
      expect(library).toMatch(/^(libc|libm|libdl|librt|libpthread|libgcc_s|libstdc\+\+|ld-linux-[\w-]+)\.so/);
    }
  });

  compiled('exports only what Node looks for', () => {
    const exported = matches('nm', ['-D', '--defined-only', addon], /(\S+)$/gm);
    expect(exported).toEqual(['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
  });
});
