/** What works, but not as well as it could. */
import { NO_CUDA } from '../../addon_file.js';
import type { DeviceInfo } from '../../index.js';

/** The oldest driver branch of each major version of CUDA. */
const DRIVER_BRANCHES: Readonly<Record<string, string>> = { 12: 'R525', 13: 'R580' };

function warningOf({ id, usable, reason = '', blas = '' }: DeviceInfo, nvidiaDriver: string | null): string[] {
  if (reason === NO_CUDA && nvidiaDriver) {
    return [
      `there is an NVIDIA driver (${nvidiaDriver}), but this build has no CUDA backend: install again with SAS_CUDA=on, ` +
        'which needs nvcc 13 (docs/gpu.md)',
    ];
  }
  const [, has, needs = ''] = /driver supports CUDA ([\d.]+), .* needs CUDA (\d+)/.exec(reason) ?? [];
  if (has) {
    const branch = DRIVER_BRANCHES[needs];
    const wanted = branch ? `${branch} or newer` : `one for CUDA ${needs}`;
    return [`${id} is not used, because its driver ends at CUDA ${has}: update it to ${wanted}`];
  }
  // "off" is what somebody asked for.
  if (usable && blas.startsWith('built-in') && !blas.includes('SAS_CUBLAS_PATH=off')) {
    return [
      `${id} multiplies matrices with the built-in kernels, which are slower than cuBLAS: ${blas.slice('built-in '.length)}. ` +
        'Get it by `pip install nvidia-cublas`, or say where it is with SAS_CUBLAS_PATH',
    ];
  }
  return [];
}

/** `nvidiaDriver`: the version of the one that the machine has. */
export const warningsOf = (devices: readonly DeviceInfo[], nvidiaDriver: string | null): string[] =>
  devices.flatMap((device) => warningOf(device, nvidiaDriver));
