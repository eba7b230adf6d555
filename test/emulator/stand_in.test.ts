/** Products by cuBLAS, for which a library of the tests stands in, and what becomes of them where it fails. */
import { randomInt } from 'node:crypto';
import { existsSync, mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, test } from 'vitest';
import { startEmulated } from '../helpers/emulated_program.js';
import { buildEmulated } from '../helpers/native_build.js';

const folder = mkdtempSync(join(tmpdir(), 'sas-stand-in-'));
afterAll(() => rmSync(folder, { recursive: true }));
let library = '';
beforeAll(() => {
  buildEmulated('sas_attention_emulated');
  library = join(buildEmulated('sas_fake_cublas'), 'test/emulator/fake_cublas');
}, 1_800_000);

let reports = 0;
/** Runs a program of this folder; the products that the library has done are counted. */
function run(program: string, args: readonly string[], env: NodeJS.ProcessEnv = {}) {
  const report = join(folder, `${++reports}`);
  const launches = `${report}-launches`;
  const { stdout, stderr, status } = startEmulated(program, args, {
    SAS_CUBLAS_PATH: library,
    FAKE_CUBLAS_REPORT: report,
    SAS_EMULATOR_REPORT: launches,
    ...env,
  });
  expect(status, stderr).toBe(0);
  const lines = existsSync(report) ? readFileSync(report, 'utf8').trim().split('\n') : [];
  const products = lines.reduce((sum, line) => sum + Number(line), 0);
  return { output: stdout.trim().split('\n').at(-1) ?? '', stderr, products, launches };
}

describe('linear layers', { timeout: 600_000 }, () => {
  const limits = { f32: 2e-6, bf16: 4e-3, f16: 5e-4 };
  const check = (env: NodeJS.ProcessEnv) => {
    const { output, products, stderr } = run('cublas_program.ts', [], env);
    expect(stderr.replace(/^FAKE_CUBLAS_FAIL: \w+ was never called\n/gm, '')).toBe(''); // each library counts its own
    const { opened, blas, errors } = JSON.parse(output) as { opened: string; blas: string; errors: typeof limits };
    for (const [dtype, limit] of Object.entries(limits)) {
      expect(errors[dtype as keyof typeof limits], dtype).toBeLessThan(limit);
    }
    return { opened, blas, products };
  };

  test('by the library', () => {
    const { opened, blas, products } = check({});
    expect(opened).toMatch(/^cuBLAS 13\.1\.0 \(/);
    expect(blas).toBe(opened);
    expect(products).toBeGreaterThan(60);
  });

  test('by the built-in kernels', () => {
    expect(check({ SAS_CUBLAS_PATH: 'off' })).toMatchObject({ opened: 'built-in (SAS_CUBLAS_PATH=off)', products: 0 });
  });

  test('by the built-in kernels where the library does not start: the device says why', () => {
    const { opened, products } = check({ FAKE_CUBLAS_FAIL: 'cublasCreate_v2:1+:CUBLAS_STATUS_NOT_INITIALIZED' });
    expect(opened).toMatch(
      /^built-in \(cublasCreate_v2 failed: CUBLAS_STATUS_NOT_INITIALIZED in cuBLAS 13\.1\.0 \(.*\)\)$/,
    );
    expect(products).toBe(0);
  });

  test('by the built-in kernels where the library has no memory: the device says so', () => {
    const full = ['cublasGemmStridedBatchedEx', 'cublasLtMatmul'].map(
      (call) => `${call}:1+:CUBLAS_STATUS_ALLOC_FAILED`,
    );
    const { opened, blas, products } = check({ FAKE_CUBLAS_FAIL: full.join() });
    expect(opened).toMatch(/^cuBLAS 13\.1\.0 \(/);
    expect(blas).toMatch(
      /^cuBLAS 13\.1\.0 \(.*\), built-in where it had no memory \(cublas\w+ failed: CUBLAS_STATUS_ALLOC_FAILED\)$/,
    );
    expect(products).toBe(0);
  });
});

test('special values spread as in float64 where the library does the products', { timeout: 600_000 }, () => {
  const seed = randomInt(2 ** 32);
  const { output, products } = run('special_program.ts', [String(seed)]);
  const { checked, faults } = JSON.parse(output) as { checked: number; faults: string[] };
  expect(checked).toBeGreaterThan(200);
  expect(products).toBeGreaterThan(200);
  expect(faults, `seed ${seed}`).toEqual([]);
});

describe('copies of weights that are kept', { timeout: 600_000 }, () => {
  const MIB = 2 ** 20;
  const results = [1024, 1024, 2048, 2048, 1024, 1024, 2048, 2048];

  test('all, where there is room', () => {
    const { results: found, kept } = JSON.parse(run('memory_program.ts', []).output);
    expect(found).toEqual(results);
    expect(kept).toBeGreaterThanOrEqual(24 * MIB);
  });

  test('give way to what an op needs, where there is none', () => {
    const { output } = run('memory_program.ts', [], { SAS_EMULATOR_MEMORY: String(23 * MIB) });
    const { results: found, kept } = JSON.parse(output);
    expect(found).toEqual(results);
    expect(kept).toBeLessThan(23 * MIB);
  });
});

/** Launches by kernel, and products. */
function countsOf(dtype: string, steps: number): Map<string, number> {
  const { launches, products } = run('launches_program.ts', [dtype, String(steps)]);
  const counts = new Map([['cuBLAS', products]]);
  for (const line of readFileSync(launches, 'utf8').trim().split('\n').slice(1)) {
    const [signature = '', count] = line.split('\t');
    const kernel = /(\w+)Kernel/.exec(signature)?.[1] ?? signature;
    counts.set(kernel, (counts.get(kernel) ?? 0) + Number(count));
  }
  return counts;
}

const turn = process.env.SAS_TEST_TURN; // vitest.config.ts
const dtypes = [
  ['bf16', 600],
  ['f32', 600],
] as const;

/** A training step of a GPT with SAS, twelve layers, after the first. */
test.each(turn === undefined ? dtypes : [dtypes[Number(turn) % 2 ? 1 : 0]])(
  'launches of a training step in %s',
  { timeout: 600_000 },
  (dtype, most) => {
    const [before, after] = [countsOf(dtype, 1), countsOf(dtype, 2)];
    const step = [...after].map(([kernel, count]) => [kernel, count - (before.get(kernel) ?? 0)] as const);
    const table = step.filter(([, count]) => count > 0).sort(([, a], [, b]) => b - a);
    const total = table.reduce((sum, [, count]) => sum + count, 0);
    console.log(
      [...table, ['all', total]].map(([kernel, count]) => `${String(count).padStart(5)} ${kernel}`).join('\n'),
    );
    expect(total).toBeLessThanOrEqual(most);
    const kept = table.map(([kernel]) => kernel);
    expect(kept).not.toContain('Round');
    expect(kept).not.toContain('Pack');
  },
);
