import { existsSync, readFileSync } from 'node:fs';
import { defineConfig } from 'vitest/config';
import { emulatedAddon, sanitizers } from './test/helpers/native_build.js';

/** The processor's feature flags; instruction sets that it lacks are left out below. */
const flags = existsSync('/proc/cpuinfo') ? readFileSync('/proc/cpuinfo', 'utf8') : '';
const x86 = [
  ...(flags.includes(' avx512_bf16') ? ['avx512bf16'] : []),
  ...(flags.includes(' avx512bw') ? ['avx512'] : []),
  ...(flags.includes(' avx2') && flags.includes(' f16c') ? ['avx2'] : []),
  'baseline',
];
const present = process.arch === 'arm64' ? ['neon'] : x86;

/**
 * SAS_TEST_TURN, a number that CI counts up, has some tests take turns: of the instruction sets between the widest and the plain
 * one, one runs; repeatability is checked on one of those that do. Without it everything runs.
 */
const turn = process.env.SAS_TEST_TURN;
const inTurn = (names: readonly string[]) =>
  turn === undefined ? names : names.filter((_, i) => i === Number(turn) % names.length);
const between = inTurn(present.slice(1, -1));
const instructionSets = present.filter((name, i) => i === 0 || i === present.length - 1 || between.includes(name));
const repeated = inTurn(instructionSets);

export default defineConfig({
  test: {
    testTimeout: 120_000,
    hookTimeout: 120_000,
    pool: 'forks',
    execArgv: ['--expose-gc'],
    maxWorkers: 2,
    projects: [
      {
        extends: true,
        test: {
          name: 'main',
          include: ['test/**/*.test.ts'],
          exclude: ['test/parity/**', 'test/cuda/**', 'test/arm64/**'],
          globalSetup: 'test/helpers/dist.ts',
        },
      },
      {
        // After the others, on every core: nvcc for one target, or for those that SAS_CUDA_TARGETS names; with "all", also the
        // addon. Skips itself where nvcc is not installed.
        extends: true,
        test: {
          name: 'cuda',
          include: [process.env.SAS_CUDA_TARGETS === 'all' ? 'test/cuda/**/*.test.ts' : 'test/cuda/resources.test.ts'],
          maxWorkers: 1,
          sequence: { groupOrder: 1 },
        },
      },
      {
        // Last, for minutes on every core. Skips itself where the cross compiler or the emulator is not installed.
        extends: true,
        test: { name: 'arm64', include: ['test/arm64/**/*.test.ts'], maxWorkers: 1, sequence: { groupOrder: 2 } },
      },
      // The CUDA kernels' own source on the emulated device; the seed of its scheduling is printed.
      {
        extends: true,
        test: {
          name: 'cuda-emulated',
          include: ['test/parity/**/*.test.ts', ...(sanitizers === undefined ? [] : ['test/hardening/fuzz.test.ts'])],
          globalSetup: 'test/helpers/emulated_device.ts',
          env: { SAS_BINDING: emulatedAddon, SAS_DEVICE: 'cuda:0', SAS_POISON: '1' },
          testTimeout: 1_800_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'cuda-emulated-99k',
          include: ['test/emulator/shared_memory.ts'],
          globalSetup: 'test/helpers/emulated_device.ts',
          env: { SAS_BINDING: emulatedAddon, SAS_DEVICE: 'cuda:0', SAS_POISON: '1', SAS_EMULATOR_SHARED: '101376' },
          testTimeout: 1_800_000,
        },
      },
      {
        extends: true,
        test: {
          name: 'cuda-emulated-tf32',
          include: ['test/emulator/tf32.ts'],
          globalSetup: 'test/helpers/emulated_device.ts',
          env: { SAS_BINDING: emulatedAddon, SAS_DEVICE: 'cuda:0', SAS_POISON: '1', SAS_TF32: '1' },
          testTimeout: 1_800_000,
        },
      },
      // The parity suite runs once per instruction set. SAS_POISON fills fresh memory with NaN.
      ...instructionSets.map((isa) => ({
        extends: true as const,
        test: {
          name: `cpu-${isa}`,
          include: ['test/parity/**/*.test.ts'],
          exclude: repeated.includes(isa) ? [] : ['test/parity/repeatability.test.ts'],
          env: { SAS_DEVICE: 'cpu', SAS_ISA: isa, SAS_POISON: '1' },
        },
      })),
    ],
  },
});
