/** Compiles the kernels with nvcc and reads what the compiler says of each: registers, spills, shared memory. */
import { execFile, execFileSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readdirSync, readFileSync, renameSync, rmSync, statSync, writeFileSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { promisify } from 'node:util';

export const root = resolve(import.meta.dirname, '../..');
export const TARGETS = ['sm_80', 'sm_90a', 'sm_120'] as const;
export type Target = (typeof TARGETS)[number];

/** What SAS_CUDA_TARGETS names: targets separated by commas, or all; default: one. */
export function wantedTargets(names = process.env.SAS_CUDA_TARGETS ?? 'sm_90a'): readonly Target[] {
  if (names === 'all') return TARGETS;
  const wanted = TARGETS.filter((target) => names.split(',').includes(target));
  if (wanted.length === names.split(',').length) return wanted;
  throw new Error(`SAS_CUDA_TARGETS=${names}: expected some of ${TARGETS.join(',')}, or all`);
}

/** As in CMakeLists.txt: machine code for each, PTX of sm_80 for all others. */
const GENERATE: Record<Target, string> = {
  sm_80: '-gencode=arch=compute_80,code=[compute_80,sm_80]',
  sm_90a: '-gencode=arch=compute_90a,code=sm_90a',
  sm_120: '-gencode=arch=compute_120,code=sm_120',
};
const flagsFor = (targets: readonly Target[]) => [
  '-std=c++20',
  `-I${join(root, 'native')}`,
  '-O3',
  ...targets.map((target) => GENERATE[target]),
  '-Xfatbin=-compress-all',
  '--compress-mode=size',
  '-Xptxas=-v',
];

/** What one kernel takes on one target. All sizes in bytes. */
export interface Usage {
  /** Of a block at most, from __launch_bounds__; null: the kernel has none. */
  threads: number | null;
  registers: number;
  spillStores: number;
  spillLoads: number;
  stack: number;
  staticShared: number;
  /** Kernel parameters and constants. */
  constant: number;
}
export interface Kernel {
  name: string;
  file: string;
  /** Of the targets that it was compiled for. */
  usage: Partial<Record<Target, Usage>>;
}
export interface Compilation {
  kernels: Kernel[];
  /** Device functions that were not inlined. */
  calls: string[];
  /** Compressed machine code and PTX of all targets. */
  fatBinaryBytes: number;
  /** Processor time. */
  seconds: number;
}

/** Where nvcc is, found as CMakeLists.txt finds it, or null. */
export function findNvcc(): string | null {
  const { CUDACXX, CUDA_PATH, CUDA_HOME, PATH } = process.env;
  const folders = [CUDA_PATH, CUDA_HOME].flatMap((home) => (home ? [join(home, 'bin')] : []));
  const candidates = [...folders, ...(PATH ?? '').split(':'), '/usr/local/cuda/bin'].map((each) => join(each, 'nvcc'));
  return [...(CUDACXX ? [CUDACXX] : []), ...candidates].find((each) => existsSync(each)) ?? null;
}

/** Such as 'V13.0.88'. */
export function nvccVersion(nvcc: string): string {
  return execFileSync(nvcc, ['--version'], { encoding: 'utf8' }).match(/\bV[\d.]+/)?.[0] ?? 'unknown';
}

/** `sas::cuda::(anonymous namespace)::FillKernel<sas::BFloat16>(long, ...)` becomes `FillKernel<bf16>`. */
export function shortName(demangled: string): string {
  const plain = demangled
    .replace(/\(anonymous namespace\)::|_GLOBAL__N__\w+::|\bsas::(cuda::)?/g, '')
    .replace(/^(void|__global__) /, '')
    .replace(/\((?:unsigned )?(?:int|bool|\w+)\)(?=\d)/g, '')
    .replace(/\bBFloat16\b/g, 'bf16')
    .replace(/\bFloat16\b/g, 'f16')
    .replace(/\bTf32\b/g, 'tf32')
    .replace(/\bfloat\b/g, 'f32')
    .replace(/\bint\b/g, 'i32');
  // The parameters start at the first parenthesis outside of the template's arguments.
  let depth = 0;
  for (let at = 0; at < plain.length; ++at) {
    if (plain[at] === '<') ++depth;
    if (plain[at] === '>') --depth;
    if (plain[at] === '(' && depth === 0) return plain.slice(0, at);
  }
  return plain;
}

const demangle = (names: readonly string[]) =>
  names.length === 0
    ? []
    : execFileSync('c++filt', { input: names.join('\n'), encoding: 'utf8' })
        .trim()
        .split('\n');

/** `log` is what `-Xptxas -v` prints, `ptx` the kernels' PTX of each target. */
export function parse(
  file: string,
  log: string,
  ptx: Readonly<Partial<Record<Target, string>>>,
): Pick<Compilation, 'kernels' | 'calls'> {
  const targets = TARGETS.filter((target) => ptx[target] !== undefined);
  const threads = new Map<string, number>(); // by target and entry
  for (const target of targets) {
    for (const entry of (ptx[target] ?? '').matchAll(/\.entry (\w+)\([^)]*\)([^{]*)\{/g)) {
      const bound = entry[2].match(/\.maxntid (\d+)(?:, (\d+), (\d+))?/);
      const size = bound && Number(bound[1]) * Number(bound[2] ?? 1) * Number(bound[3] ?? 1);
      if (size) threads.set(`${target} ${entry[1]}`, size);
    }
  }
  const usages = new Map<string, Partial<Record<Target, Usage>>>();
  const calls = new Set<string>();
  const number = (line: string, pattern: RegExp) => Number(line.match(pattern)?.[1] ?? 0);
  let entry = '';
  let described = '';
  let usage: Usage | null = null;
  for (const line of log.split('\n')) {
    const compiling = line.match(/Compiling entry function '(\w+)' for '(\w+)'/);
    if (compiling) {
      entry = compiling[1];
      const bound = threads.get(`${compiling[2]} ${entry}`) ?? null;
      usage = { threads: bound, registers: 0, spillStores: 0, spillLoads: 0, stack: 0, staticShared: 0, constant: 0 };
      usages.set(entry, { ...usages.get(entry), [compiling[2]]: usage });
    }
    described = line.match(/Function properties for (\w+)/)?.[1] ?? described;
    if (usage && line.includes('bytes stack frame')) {
      if (described !== entry) calls.add(described);
      usage.stack += number(line, /(\d+) bytes stack frame/);
      usage.spillStores += number(line, /(\d+) bytes spill stores/);
      usage.spillLoads += number(line, /(\d+) bytes spill loads/);
    }
    if (usage && line.includes(' registers')) {
      usage.registers = number(line, /Used (\d+) registers/);
      usage.staticShared = number(line, /(\d+) bytes smem/);
      for (const bank of line.matchAll(/(\d+) bytes cmem\[\d+\]/g)) usage.constant += Number(bank[1]);
    }
  }
  const mangled = [...usages.keys()];
  const names = demangle(mangled).map(shortName);
  if (new Set(names).size !== names.length)
    throw new Error(`${file}: two kernels of one name among ${names.join(', ')}`);
  const kernels = mangled.map((each, i) => {
    const found = usages.get(each) ?? {};
    for (const target of targets)
      if (!found[target]) throw new Error(`${file}: nvcc says nothing of ${names[i]} on ${target}`);
    return { name: names[i], file, usage: found };
  });
  return { kernels, calls: demangle([...calls]).map(shortName) };
}

/** From what the shell's `times` prints: its own processor time, then its children's, user and system each. */
function childSeconds(times: string): number {
  const children = [...(times.trim().split('\n').at(-1) ?? '').matchAll(/(\d+)m([\d.]+)s/g)];
  return Math.round(children.reduce((sum, each) => sum + 60 * Number(each[1]) + Number(each[2]), 0) * 10) / 10;
}

/** Compiles one file, or reads what an earlier run found for the same sources, flags and compiler. */
async function compile(nvcc: string, file: string, key: string, targets: readonly Target[]): Promise<Compilation> {
  const cache = join(root, 'build/cuda-resources');
  const source = join(root, 'native/cuda/kernels', file);
  const hash = createHash('sha256').update(key).update(readFileSync(source)).digest('hex').slice(0, 16);
  const result = join(cache, `${file}-${hash}.json`);
  if (existsSync(result)) return JSON.parse(readFileSync(result, 'utf8'));

  const scratch = join(cache, `${file}-${hash}-${process.pid}`);
  mkdirSync(scratch, { recursive: true });
  try {
    const fatBinary = join(scratch, 'all.fatbin');
    const options = [...flagsFor(targets), '--keep', '--keep-dir', scratch, '-fatbin', source, '-o', fatBinary];
    const timed = ['-c', '"$0" "$@" || exit; times', nvcc, ...options];
    const { stderr, stdout } = await promisify(execFile)('sh', timed, { maxBuffer: 1 << 28 });
    const files = readdirSync(scratch).filter((each) => each.endsWith('.ptx'));
    const ptxOf = (target: Target) =>
      files.length === 1 ? files[0] : files.find((each) => each.endsWith(`.${target.replace('sm', 'compute')}.ptx`));
    const ptx = targets.map((target) => [target, readFileSync(join(scratch, ptxOf(target) ?? ''), 'utf8')]);
    const compilation: Compilation = {
      ...parse(file, stderr, Object.fromEntries(ptx)),
      fatBinaryBytes: statSync(fatBinary).size,
      seconds: childSeconds(stdout),
    };
    writeFileSync(`${scratch}.json`, JSON.stringify(compilation));
    renameSync(`${scratch}.json`, result);
    return compilation;
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

/** Compiles every kernel file, two at a time. `progress` is told of each. */
export async function compileAll(
  nvcc: string,
  targets: readonly Target[],
  progress: (file: string, seconds: number) => void = () => {},
) {
  const files = readdirSync(join(root, 'native/cuda/kernels'));
  const headers = ['cuda', 'cuda/device', 'cuda/kernels', 'core'].flatMap((folder) =>
    readdirSync(join(root, 'native', folder))
      .filter((each) => /\.(h|cuh)$/.test(each))
      .map((each) => readFileSync(join(root, 'native', folder, each), 'utf8')),
  );
  const key = JSON.stringify([nvccVersion(nvcc), flagsFor(targets).filter((flag) => !flag.startsWith('-I')), headers]);
  const waiting = files.filter((each) => each.endsWith('.cu')).sort();
  const compilations = new Map<string, Compilation>();
  const work = async () => {
    for (let file = waiting.shift(); file !== undefined; file = waiting.shift()) {
      const compilation = await compile(nvcc, file, key, targets);
      compilations.set(file, compilation);
      progress(file, compilation.seconds);
    }
  };
  await Promise.all([work(), work()]);
  const all = [...compilations].sort(([a], [b]) => (a < b ? -1 : 1)).map(([, compilation]) => compilation);
  return {
    kernels: all.flatMap((each) => each.kernels).sort((a, b) => (a.file + a.name < b.file + b.name ? -1 : 1)),
    calls: all.flatMap((each) => each.calls),
    fatBinaryBytes: all.reduce((sum, each) => sum + each.fatBinaryBytes, 0),
    seconds: all.reduce((sum, each) => sum + each.seconds, 0),
  };
}
