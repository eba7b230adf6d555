/** What the compiler says of the kernels: nothing spills, blocks are bounded, and the committed table is of this source. */
import { existsSync, readFileSync } from 'node:fs';
import { beforeAll, describe, expect, it } from 'vitest';
import { findNvcc, parse, shortName, TARGETS, type Usage, wantedTargets } from './nvcc.js';
import { measure, type Resources, residentWarps, TABLE } from './resources.js';

const nvcc = findNvcc();
const targets = wantedTargets();
const MEGABYTE = 2 ** 20;
const MINUTES = 60;
/** Instances over all dtypes and tiles; 363 took 462 s of processor time for all targets, most of it in proportion to them. */
const MAX_KERNELS = 500;

describe('reading the compiler', () => {
  it('names kernels briefly', () => {
    const prefix = 'void sas::cuda::(anonymous namespace)::';
    expect(shortName(`${prefix}FillKernel<sas::BFloat16>(long, sas::BFloat16, sas::BFloat16*)`)).toBe(
      'FillKernel<bf16>',
    );
    expect(shortName(`${prefix}Product<float, 64, (sas::cuda::(anonymous namespace)::Kind)1>(float (*)(int))`)).toBe(
      'Product<f32, 64, 1>',
    );
    expect(shortName('sas::cuda::_GLOBAL__N__ab12_7_fill_cu_cd::PeakKernel(int, float*)')).toBe('PeakKernel');
  });

  it('finds every number, on every target', () => {
    const log = TARGETS.map(
      (target) => `ptxas info    : Compiling entry function '_Z6Kernelv' for '${target}'
ptxas info    : Function properties for _Z6Kernelv
    16 bytes stack frame, 4 bytes spill stores, 8 bytes spill loads
ptxas info    : Used 40 registers, used 1 barriers, 32 bytes smem, 376 bytes cmem[0], 8 bytes cmem[2]`,
    ).join('\n');
    const ptx = '.visible .entry _Z6Kernelv(\n)\n.maxntid 256, 1, 1\n.minnctapersm 1\n{ ret; }';
    const usage = {
      threads: 256,
      registers: 40,
      spillStores: 4,
      spillLoads: 8,
      stack: 16,
      staticShared: 32,
      constant: 384,
    };
    expect(parse('x.cu', log, Object.fromEntries(TARGETS.map((each) => [each, ptx])))).toEqual({
      kernels: [{ name: 'Kernel', file: 'x.cu', usage: Object.fromEntries(TARGETS.map((each) => [each, usage])) }],
      calls: [],
    });
  });

  it.each([
    // registers, threads, shared memory, warps: by hand from the tables of the CUDA programming guide
    ['sm_80', 32, 256, 0, 64],
    ['sm_80', 128, 128, 0, 16],
    ['sm_80', 255, 128, 0, 8],
    ['sm_80', 168, 256, 0, 8],
    ['sm_90a', 64, 128, 100 << 10, 8],
    ['sm_120', 40, 256, 0, 48],
  ] as const)(
    '%s, %i registers, %i threads, %i bytes of shared memory: %i warps',
    (target, registers, threads, shared, warps) => {
      expect(residentWarps(target, registers, threads, shared)).toBe(warps);
    },
  );
});

describe(`the kernels on ${targets.join(', ')}`, () => {
  let found: Resources;
  beforeAll(
    async () => {
      if (nvcc) found = await measure(nvcc, targets);
    },
    20 * MINUTES * 1000,
  );

  const compiled = (name: string, test: () => void) =>
    it(name, ({ skip }) => {
      skip(nvcc === null, 'nvcc is not installed');
      test();
    });

  compiled('spill nothing, have no stack frame and no static shared memory, on any target', () => {
    const faults = found.kernels.flatMap(({ name, usage }) =>
      targets
        .filter((target) => {
          const { stack, spillStores, spillLoads, staticShared } = usage[target] as Usage;
          return stack + spillStores + spillLoads + staticShared > 0;
        })
        .map((target) => ({ name, target, ...usage[target] })),
    );
    expect(faults).toEqual([]);
    expect(found.calls).toEqual([]);
  });

  compiled('say how large their blocks are', () => {
    const unbounded = found.kernels.filter(({ usage }) => targets.some((target) => usage[target]?.threads == null));
    expect(unbounded.map(({ file, name }) => `${file}: ${name}`)).toEqual([]);
  });

  compiled('leave room for at least one block on a multiprocessor', () => {
    for (const { name, usage } of found.kernels) {
      for (const target of targets) {
        const { registers, threads } = usage[target] as Usage;
        const warps = residentWarps(target, registers, threads);
        expect(warps, `${name} on ${target}: a block of ${threads}`).toBeGreaterThan(0);
      }
    }
  });

  compiled('are small, and few enough instances to compile quickly', () => {
    expect(found.fatBinaryBytes).toBeLessThan(20 * MEGABYTE);
    expect(found.kernels.length).toBeLessThan(MAX_KERNELS);
  });

  compiled('are those of the committed table', () => {
    expect(existsSync(`${TABLE}.json`), `${TABLE}.json is missing: npm run cuda:resources`).toBe(true);
    const committed = JSON.parse(readFileSync(`${TABLE}.json`, 'utf8')) as Resources;
    const names = ({ kernels }: Resources) => kernels.map(({ file, name }) => `${file}: ${name}`);
    expect(names(committed), 'npm run cuda:resources').toEqual(names(found));
    if (committed.nvcc !== found.nvcc) {
      console.log(`the table is of nvcc ${committed.nvcc}, here is ${found.nvcc}: numbers are not compared`);
      return;
    }
    const numbers = ({ kernels }: Resources) =>
      kernels.map(({ name, usage }) => ({ name, usage: targets.map((target) => usage[target]) }));
    expect(numbers(committed), 'npm run cuda:resources').toEqual(numbers(found));
  });
});
