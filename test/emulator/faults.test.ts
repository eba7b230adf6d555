/** The emulated device and the stand-in for cuBLAS fail as they are asked to (faults.h, fake_cublas.cc), and the library says so. */
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { startEmulated } from '../helpers/emulated_program.js';
import { buildEmulated } from '../helpers/native_build.js';
import type { Outcome } from './faults_program.js';

let libraries = '';

beforeAll(() => {
  buildEmulated('sas_attention_emulated');
  libraries = join(buildEmulated('sas_fake_cublas'), 'test/emulator');
}, 1_800_000);

const start = (environment: NodeJS.ProcessEnv) => startEmulated('faults_program.ts', [], environment);
function run(environment: NodeJS.ProcessEnv): Outcome {
  const { stdout, stderr, status } = start(environment);
  expect(status, stderr).toBe(0);
  return JSON.parse(stdout) as Outcome;
}
const cublas = (environment: NodeJS.ProcessEnv = {}, folder = 'fake_cublas') =>
  run({ SAS_CUBLAS_PATH: join(libraries, folder), ...environment });

const SUM = 1054.1324;
type Product = Outcome['products'][number];
const isRight = (product: Product) => typeof product === 'number' && Math.abs(product - SUM) < 1e-3;
/** One letter per product: right, wrong, or a failure of the device or for want of memory. */
const summary = ({ products, fatal }: Outcome) =>
  fatal
    ? `fatal ${fatal.code}`
    : products
        .map((product) => {
          if (isRight(product)) return 'right';
          return typeof product === 'number' ? `wrong: ${product}` : product.code;
        })
        .join(' ');
const RIGHT = 'right right right right';

describe('the emulated device', () => {
  it.each([{}, { SAS_EMULATOR_STREAMS: 'now' }])('is right when nothing fails (%j)', (environment) => {
    expect(summary(run(environment))).toBe(RIGHT);
  });

  it.each([
    'cudaErrorIllegalAddress',
    'cudaErrorLaunchFailure',
    'cudaErrorECCUncorrectable',
    'cudaErrorLaunchTimeout',
    'cudaErrorAssert',
    'cudaErrorMisalignedAddress',
    'cudaErrorUnknown',
  ])('is lost when a kernel faults, for good: %s', (error) => {
    const outcome = run({ SAS_EMULATOR_FAIL: `kernel:2:${error}` });
    expect(summary(outcome)).toBe('right SAS_DEVICE SAS_DEVICE SAS_DEVICE');
    for (const product of outcome.products.slice(1))
      expect(product).toHaveProperty('message', expect.stringContaining(error));
  });

  it('is lost at a call as well', () => {
    const outcome = run({ SAS_EMULATOR_FAIL: 'cudaEventQuery:8:cudaErrorIllegalAddress' });
    expect(summary(outcome)).toMatch(/^(right )*(SAS_DEVICE ?)+$/);
  });

  it('is without memory once, which a second try gets over', () => {
    expect(summary(run({ SAS_EMULATOR_FAIL: 'cudaMallocFromPoolAsync:5:cudaErrorMemoryAllocation' }))).toBe(RIGHT);
  });

  it.each([1, 2, 3, 4])('is without memory now and then: right, or says so (seed %i)', (seed) => {
    const environment = { SAS_EMULATOR_FAIL: 'cudaMallocFromPoolAsync:1/3:cudaErrorMemoryAllocation' };
    expect(summary(run({ ...environment, SAS_EMULATOR_SEED: String(seed) }))).toMatch(
      /^((right|SAS_OUT_OF_MEMORY) ?)+$|^fatal SAS_OUT_OF_MEMORY$/,
    );
  });

  it('has little memory', () => {
    expect(summary(run({ SAS_EMULATOR_MEMORY: '40000' }))).toMatch(/^(right )+(SAS_OUT_OF_MEMORY ?)+$/);
  });

  it.each([
    [{ SAS_EMULATOR_CAPABILITY: '7.5' }, 'compute capability 7.5 is not supported'],
    [{ SAS_EMULATOR_FAIL: 'cudaGetDeviceCount:1+:cudaErrorSystemDriverMismatch' }, 'cudaErrorSystemDriverMismatch'],
    [{ SAS_EMULATOR_FAIL: 'cudaGetDeviceCount:1+:cudaErrorNoDevice' }, 'finds no GPU'],
    [{ SAS_EMULATOR_POOLS: '0' }, ''],
  ])('cannot be used: %j', (environment, reason) => {
    const outcome = run(environment);
    expect(summary(outcome)).toBe('fatal SAS_DEVICE');
    expect(outcome.fatal?.message).toContain(reason);
  });

  it.each([
    'cudaMallocFromPoolAsync:0:cudaErrorMemoryAllocation',
    'cudaMallocFromPoolAsync:cudaErrorMemoryAllocation',
    'cudaMallocFromPoolAsync:1/0:cudaErrorMemoryAllocation',
    'cudaMallocFromPoolAsync:2:cudaErrorOfMine',
    'cudaMallocFromPoolAsync:2-:cudaErrorMemoryAllocation',
  ])('does not start with a plan that it cannot read: %s', (plan) => {
    const { status, stderr } = start({ SAS_EMULATOR_FAIL: plan });
    expect(status).toBe(2);
    expect(stderr).toContain(`SAS_EMULATOR_FAIL: '${plan}': expected`);
  });
});

describe('the stand-in for cuBLAS', () => {
  it('does products on late streams', () => {
    const outcome = cublas();
    expect(outcome.blas).toMatch(/^cuBLAS 13\.1\.0 \(/);
    expect(summary(outcome)).toBe(RIGHT);
  });

  it('lacks a function, or is another version: not used', () => {
    const incomplete = cublas({}, 'fake_cublas_incomplete');
    expect(incomplete.blas).toContain('cublasLtMatmul is missing');
    expect(summary(incomplete)).toBe(RIGHT);
    const other = cublas({ FAKE_CUBLAS_MAJOR: '12' });
    expect(other.blas).toContain('it is version 12');
    expect(summary(other)).toBe(RIGHT);
  });

  it('refuses products: the built-in kernels do them', () => {
    const FAKE_CUBLAS_FAIL = 'cublasLtMatmulAlgoGetHeuristic:1+:CUBLAS_STATUS_NOT_SUPPORTED';
    expect(summary(cublas({ FAKE_CUBLAS_FAIL }))).toBe(RIGHT);
  });

  it.each([
    ['cublasCreate_v2:1:CUBLAS_STATUS_ALLOC_FAILED', 0],
    ['cublasLtCreate:1:CUBLAS_STATUS_NOT_INITIALIZED', 0],
    ['cublasLtMatmulDescCreate:2:CUBLAS_STATUS_ALLOC_FAILED', 1],
    ['cublasLtMatmul:2:CUBLAS_STATUS_EXECUTION_FAILED', 1],
  ])('fails once: %s', (FAKE_CUBLAS_FAIL, failing) => {
    const { products } = cublas({ FAKE_CUBLAS_FAIL });
    for (const [i, product] of products.entries()) {
      if (i !== failing || typeof product === 'number') expect(product).toBeCloseTo(SUM, 3);
      else expect(product.code).toMatch(/^SAS_(DEVICE|OUT_OF_MEMORY)$/);
    }
  });
});
