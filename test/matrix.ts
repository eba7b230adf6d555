/**
 * `npm run test:matrix`: the suites once more under every condition that multiplies them. CI runs one of them each time, in turn:
 * `--pick N` takes the N-th (modulo their number), names take those, nothing takes all; `--covered` only prints the arguments that spare
 * `npm test` what these cover. The last line sums up.
 */
import { execFileSync, spawnSync } from 'node:child_process';
import { mkdirSync, readFileSync, rmSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { parseArgs } from 'node:util';

const root = resolve(import.meta.dirname, '..');

interface Configuration {
  readonly name: string;
  readonly what: string;
  /** Arguments of `vitest run`. */
  readonly tests: readonly string[];
  readonly environment?: Readonly<Record<string, string>>;
  /** Made before the tests. */
  readonly build?: () => void;
  /** A project of `npm test` that need not run beside it: this runs all of its tests. */
  readonly covers?: string;
}

const clangAddon = join(root, 'build/clang/Release/sas_attention.node');

/** Older ones do not know avx512bf16 by name. */
const CLANG = process.env.SAS_CLANG ?? 'clang-19';

/** Warnings are errors; one instruction set with wide vectors and the plain one. */
function buildWithClang(): void {
  const options = [
    '-DCMAKE_BUILD_TYPE=Release',
    '-DSAS_CUDA=off',
    `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${join(root, 'build/clang/Release')}`,
  ];
  const env = { ...process.env, CC: CLANG, CXX: CLANG.replace('clang', 'clang++'), SAS_WERROR: '1' };
  const run = (args: readonly string[]) => execFileSync('cmake', args, { cwd: root, env, stdio: 'inherit' });
  run(['-S', '.', '-B', 'build/clang', ...options]);
  run(['--build', 'build/clang', '--target', 'sas_attention', '--parallel', '2']);
}

/** The sanitized suite in parts of a few minutes each. */
const FILES = {
  ops: ['ops.1', 'ops.2'],
  modules: ['sas_attention.1', 'sas_attention.2', 'sas_attention', 'attentions'],
};
const pathOf = (name: string) => `test/parity/${name}.test.ts`;
const SANITIZED = [
  { part: 'ops', what: 'every op', tests: FILES.ops.map(pathOf) },
  { part: 'modules', what: 'SasAttention and the attentions', tests: FILES.modules.map(pathOf) },
  {
    part: 'rest',
    what: 'repeatability, random sizes, copies, random calls',
    tests: Object.values(FILES)
      .flat()
      .flatMap((name) => ['--exclude', pathOf(name)]),
  },
];

const CONFIGURATIONS: readonly Configuration[] = [
  ...SANITIZED.map(({ part, what, tests }) => ({
    name: `sanitized-${part}`,
    what: `AddressSanitizer and UndefinedBehaviorSanitizer over the CUDA kernels' source on the emulated GPU: ${what}`,
    tests: ['--project', 'cuda-emulated', ...tests],
    environment: { SAS_SANITIZE: 'address,undefined' },
  })),
  {
    name: 'package',
    what: 'the packed tarball: built from source, and on Node 20, 22 and 24',
    tests: ['--config', 'test/package/vitest.config.ts'],
  },
  {
    name: 'nvcc',
    what: 'nvcc for every target: registers, spills, the committed table; the addon with CUDA on a machine without a driver',
    tests: ['--project', 'cuda'],
    covers: 'cuda',
    environment: { SAS_CUDA_TARGETS: 'all' },
  },
  {
    name: 'small-shared-memory',
    what: 'the emulated GPU with 99 KB of shared memory per block, as consumer cards have, and another scheduling seed',
    tests: ['--project', 'cuda-emulated'],
    environment: { SAS_EMULATOR_SHARED: '101376' },
    covers: 'cuda-emulated',
  },
  {
    name: 'clang',
    what: 'the CPU backend compiled by Clang, on every instruction set',
    tests: ['--project', 'cpu-*'],
    environment: { SAS_BINDING: clangAddon },
    build: buildWithClang,
  },
];

/** Counts of one vitest run. */
interface Counts {
  numPassedTests: number;
  numFailedTests: number;
  numPendingTests: number;
  numTodoTests: number;
}

function run({ name, what, tests, environment, build }: Configuration): { counts: Counts; status: number } {
  console.log(`== ${name}: ${what}`);
  const output = join(root, `build/matrix-${name}.json`);
  rmSync(output, { force: true });
  build?.();
  const vitest = join(root, 'node_modules/vitest/vitest.mjs');
  const reporters = ['--reporter=default', '--reporter=json', `--outputFile=${output}`];
  const { status } = spawnSync(process.execPath, [vitest, 'run', ...tests, ...reporters], {
    cwd: root,
    env: { ...process.env, ...environment },
    stdio: 'inherit',
  });
  return { counts: JSON.parse(readFileSync(output, 'utf8')) as Counts, status: status ?? 1 };
}

const { values, positionals } = parseArgs({
  allowPositionals: true,
  options: {
    pick: { type: 'string' },
    list: { type: 'boolean', default: false },
    covered: { type: 'boolean', default: false },
  },
});
if (values.list) {
  for (const { name, what } of CONFIGURATIONS) console.log(`${name.padEnd(20)}  ${what}`);
  process.exit();
}
/** A name stands for itself and for its parts. */
const isNamed = ({ name }: Configuration, by: string) => name === by || name.startsWith(`${by}-`);
const unknown = positionals.find((name) => !CONFIGURATIONS.some((each) => isNamed(each, name)));
if (unknown !== undefined) {
  console.error(`test:matrix: ${unknown}: expected some of ${CONFIGURATIONS.map(({ name }) => name).join(', ')}`);
  process.exit(2);
}
const picked = values.pick === undefined ? undefined : CONFIGURATIONS[Number(values.pick) % CONFIGURATIONS.length];
if (values.pick !== undefined && picked === undefined) {
  console.error(`test:matrix: --pick ${values.pick}: expected a number of at least 0`);
  process.exit(2);
}
const chosen = picked
  ? [picked]
  : CONFIGURATIONS.filter((each) => positionals.length === 0 || positionals.some((name) => isNamed(each, name)));
if (values.covered) {
  // For `npm test` beside it: the arguments that leave out what is covered.
  console.log([...new Set(chosen.flatMap(({ covers }) => (covers ? [`--project=!${covers}`] : [])))].join(' '));
  process.exit();
}
mkdirSync(join(root, 'build'), { recursive: true });
const results = chosen.map(run);
const sum = (key: keyof Counts) => results.reduce((total, { counts }) => total + counts[key], 0);
console.log(
  `${sum('numPassedTests')} passed, ${sum('numFailedTests')} failed, ${sum('numPendingTests') + sum('numTodoTests')} skipped`,
);
process.exitCode = results.some(({ status }) => status !== 0) ? 1 : 0;
