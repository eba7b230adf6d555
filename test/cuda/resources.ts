/**
 * What the CUDA kernels take of a multiprocessor, as the compiler reports it: writes bench/results/cuda-resources.md and
 * .json. Run: npm run cuda:resources [-- report...], where a report is what the emulated device wrote to
 * SAS_EMULATOR_REPORT: from it come the largest block and the most dynamic shared memory that a kernel was launched with.
 */
import { existsSync, readFileSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import {
  compileAll,
  findNvcc,
  type Kernel,
  nvccVersion,
  root,
  shortName,
  TARGETS,
  type Target,
  type Usage,
} from './nvcc.js';

export const TABLE = join(root, 'bench/results/cuda-resources');

/** Of a multiprocessor. `shared` includes 1 KB per block that the system takes. */
const LIMITS: Record<Target, { warps: number; blocks: number; shared: number }> = {
  sm_80: { warps: 64, blocks: 32, shared: 164 << 10 },
  sm_90a: { warps: 64, blocks: 32, shared: 228 << 10 },
  sm_120: { warps: 48, blocks: 24, shared: 100 << 10 },
};
const REGISTERS = 65536;
const REGISTER_UNIT = 256; // a warp's registers are given out in these
const PARTITIONS = 4; // of a multiprocessor, each with a quarter of the registers
const WARP = 32;

/** The largest launch that was seen. */
export interface Launch {
  threads: number;
  sharedBytes: number;
}
export interface Resources {
  nvcc: string;
  compileSeconds: number;
  fatBinaryBytes: number;
  calls: string[];
  kernels: (Kernel & { launch?: Launch })[];
}

/** Warps that fit on a multiprocessor, given registers, the block's size and its shared memory. */
export function residentWarps(target: Target, registers: number, threads: number | null, sharedBytes = 0): number {
  const limit = LIMITS[target];
  const perWarp = Math.ceil((registers * WARP) / REGISTER_UNIT) * REGISTER_UNIT;
  const byRegisters = Math.floor(REGISTERS / PARTITIONS / perWarp) * PARTITIONS;
  if (threads === null) return Math.min(limit.warps, byRegisters);
  const perBlock = Math.ceil(threads / WARP);
  const blocks = Math.min(
    limit.blocks,
    Math.floor(Math.min(limit.warps, byRegisters) / perBlock),
    Math.floor(limit.shared / (sharedBytes + 1024)),
  );
  return blocks * perBlock;
}

/** Reads emulator reports: tab-separated, one line per kernel. */
export function readLaunches(files: readonly string[]): Map<string, Launch> {
  const launches = new Map<string, Launch>();
  for (const file of files) {
    const [header, ...lines] = readFileSync(file, 'utf8').trim().split('\n');
    const columns = header.split('\t');
    for (const line of lines) {
      const cells = line.split('\t');
      const cell = (name: string) => cells[columns.indexOf(name)];
      const name = shortName(cell('kernel'));
      const seen = launches.get(name) ?? { threads: 0, sharedBytes: 0 };
      launches.set(name, {
        threads: Math.max(seen.threads, Number(cell('threads'))),
        sharedBytes: Math.max(seen.sharedBytes, Number(cell('shared_bytes'))),
      });
    }
  }
  return launches;
}

/** Compiles, with `launches` joined by name. */
export async function measure(
  nvcc: string,
  targets: readonly Target[],
  launches = new Map<string, Launch>(),
  progress?: (line: string) => void,
) {
  const { seconds, ...rest } = await compileAll(nvcc, targets, (file, took) => progress?.(`${file}: ${took} s`));
  const kernels = rest.kernels.map((kernel) => {
    const launch = launches.get(kernel.name);
    const bound = Math.max(...targets.map((target) => kernel.usage[target]?.threads ?? Number.POSITIVE_INFINITY));
    if (launch && launch.threads > bound) {
      throw new Error(`${kernel.name} was launched with ${launch.threads} threads, its bound is ${bound}`);
    }
    return launch ? { ...kernel, launch } : kernel;
  });
  return { nvcc: nvccVersion(nvcc), compileSeconds: Math.round(seconds), ...rest, kernels } satisfies Resources;
}

export function table(resources: Resources): string {
  const worst = ({ usage }: Kernel, field: keyof Usage) =>
    Math.max(...TARGETS.map((target) => usage[target]?.[field] ?? Number.NaN));
  const rows = resources.kernels.map((kernel) => {
    const { launch } = kernel;
    const cells = TARGETS.flatMap((target) => {
      const { registers, threads } = kernel.usage[target] as Usage;
      const byRegisters = residentWarps(target, registers, threads);
      // The emulated device launches what sm_80 does; another target's bound may be lower.
      const launched = Math.min(launch?.threads ?? Number.POSITIVE_INFINITY, threads ?? Number.POSITIVE_INFINITY);
      const size = Number.isFinite(launched) ? launched : null;
      const warps = residentWarps(target, registers, size, launch?.sharedBytes);
      return [
        threads ?? 'unbounded',
        registers,
        launch && warps !== byRegisters ? `${byRegisters} → ${warps}` : byRegisters,
      ];
    });
    return [
      `\`${kernel.name}\``,
      kernel.file.replace(/\.cu$/, ''),
      ...cells,
      `${worst(kernel, 'spillStores')} / ${worst(kernel, 'spillLoads')}`,
      worst(kernel, 'stack'),
      worst(kernel, 'staticShared'),
      launch?.sharedBytes ?? '',
      worst(kernel, 'constant'),
    ];
  });
  const header = [
    'kernel',
    'file',
    ...TARGETS.flatMap((target) => [`${target} threads`, 'registers', `warps of ${LIMITS[target].warps}`]),
    'spill stores / loads',
    'stack',
    'static shared',
    'dynamic shared',
    'constant',
  ];
  const line = (cells: readonly unknown[]) => `| ${cells.join(' | ')} |`;
  const megabytes = (resources.fatBinaryBytes / 2 ** 20).toFixed(2);
  return `# What the CUDA kernels take

As nvcc ${resources.nvcc} reports it (\`npm run cuda:resources\` writes this file); nothing here was run. ${resources.kernels.length} kernels,
${megabytes} MB of compressed machine code and PTX, ${resources.compileSeconds} s of processor time to compile.

- threads: of a block at most, from \`__launch_bounds__\`.
- warps: that fit on a multiprocessor, given the registers and whole blocks; after the arrow with the dynamic shared memory too.
- spills, stack, static shared, constant: bytes, the most of the three targets.
- dynamic shared: bytes of a block, the most that a launch in the test suite asked for; empty where not recorded.

${[line(header), line(header.map((_, i) => (i < 2 ? '---' : '---:'))), ...rows.map(line)].join('\n')}
`;
}

if (process.argv[1] && resolve(process.argv[1]) === import.meta.filename) {
  const nvcc = findNvcc();
  if (nvcc === null) throw new Error('nvcc is not found: put it on PATH or set CUDA_PATH');
  const reports = process.argv.slice(2);
  for (const report of reports) if (!existsSync(report)) throw new Error(`there is no ${report}`);
  const resources = await measure(nvcc, TARGETS, readLaunches(reports), console.error);
  writeFileSync(`${TABLE}.json`, `${JSON.stringify(resources, null, 1)}\n`);
  writeFileSync(`${TABLE}.md`, table(resources));
  console.error(`${resources.kernels.length} kernels, ${resources.compileSeconds} s: ${TABLE}.md`);
}
