/** What the runtime says and does where a CUDA device is lost, full, missing something or slow. */
import { beforeAll, expect, test } from 'vitest';
import { startEmulated } from '../helpers/emulated_program.js';
import { buildEmulated } from '../helpers/native_build.js';

beforeAll(() => void buildEmulated('sas_attention_emulated'), 1_200_000);

function outcome(trial: string, environment: Record<string, string>): unknown {
  const { stdout, stderr, status } = startEmulated('runtime_program.ts', [trial], environment);
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout);
}

test.each(['cudaErrorIllegalAddress', 'cudaErrorLaunchFailure', 'cudaErrorAssert'])('a device lost to %s', (name) => {
  const outcomes = outcome('lost', { SAS_EMULATOR_FAIL: `kernel:3:${name}` }) as string[];
  const loss = new RegExp(
    `^SAS_DEVICE (\\w+: )?the device is lost to this process: ${name} .*; the op launched last was add\\. Start a new process`,
  );
  expect(outcomes[0]).toBe('done');
  for (const later of outcomes.slice(1)) expect(later).toMatch(loss);
  expect(outcomes.length).toBe(5);
});

test('scratch memory takes what tensors no longer use', () => {
  expect(outcome('scratch', { SAS_EMULATOR_MEMORY: String(4 * 2 ** 20) })).toBe('done');
});

test('scratch memory that is in use is not there, and is later', () => {
  const [first, second] = outcome('full', { SAS_EMULATOR_MEMORY: String(4 * 2 ** 20) }) as string[];
  expect(first).toMatch(/^SAS_OUT_OF_MEMORY attention: out of memory/);
  expect(second).toBe('done');
});

test.each([3, 4, 5, 6])('allocation %i failing once is tried again', (call) => {
  const fail = `cudaMallocFromPoolAsync:${call}:cudaErrorMemoryAllocation`;
  expect(outcome('scratch', { SAS_EMULATOR_FAIL: fail })).toBe('done');
});

test.each([
  ['7.5', 'compute capability 7.5 is not supported: the kernels need 8.0 (Ampere) or newer'],
  ['8.0', 'usable'],
  ['8.9', 'usable'],
  ['9.0', 'usable'],
  [
    '9.1',
    'this build has kernels for compute capability 8.0, 9.0, 12.0, not for 9.1: build with SAS_CUDA_ARCHITECTURES=91',
  ],
  [
    '10.0',
    'this build has kernels for compute capability 8.0, 9.0, 12.0, not for 10.0: build with SAS_CUDA_ARCHITECTURES=100',
  ],
  ['12.1', 'usable'],
])('a card of compute capability %s', (capability, reason) => {
  expect(outcome('devices', { SAS_EMULATOR_CAPABILITY: capability })).toBe(reason);
});

test('a device without memory pools', () => {
  expect(outcome('devices', { SAS_EMULATOR_POOLS: '0' })).toMatch(/^the driver offers no memory pools/);
});

test('listing devices does not look for cuBLAS', () => {
  const [before, opened, after] = outcome('blas', {}) as (string | null)[];
  expect(before).toBeNull();
  expect(opened).toContain('SAS_CUBLAS_PATH=off');
  expect(after).toBe(opened);
});

test.each([1, 2, 3])('large copies take pinned memory that is free again (seed %i)', (seed) => {
  expect(outcome('large', { SAS_EMULATOR_SEED: String(seed) })).toBe(0);
});

test('steps are enqueued while the device is still at the first', () => {
  expect(outcome('ahead', { SAS_EMULATOR_STREAMS: 'held' })).toBe(0);
});

test('a read keeps no later work from the device', () => {
  expect(outcome('reading', { SAS_EMULATOR_STREAMS: 'held' })).toEqual([0, false]);
});

test.each([1, 2, 3])('more small reads at once than there is pinned memory for (seed %i)', (seed) => {
  expect(outcome('reads', { SAS_EMULATOR_SEED: String(seed) })).toBe(0);
});
