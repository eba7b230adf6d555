import { defineConfig } from 'vitest/config';

/** The parity suite runs once per instruction set that the machine has. */
const parity = (name: string, isa: string) => ({
  extends: true as const,
  test: {
    name,
    include: ['test/parity/**/*.test.ts'],
    env: { SAS_DEVICE: 'cpu', SAS_ISA: isa, SAS_POISON: '1' },
  },
});

export default defineConfig({
  test: {
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: { name: 'main', include: ['test/**/*.test.ts'], exclude: ['test/parity/**', 'node_modules/**'] },
      },
      parity('cpu-avx512', 'avx512'),
      parity('cpu-avx2', 'avx2'),
      parity('cpu-baseline', 'baseline'),
    ],
  },
});
