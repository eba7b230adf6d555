/** One test file in a process of its own: lists its tests, or runs those asked for and reports each as it ends. */
import { collectTests, startTests, type Test, type VitestRunner, type VitestRunnerConfig } from '@vitest/runner';
import { getTestName, getTests } from '@vitest/runner/utils';
import { worstChecks } from '../../../test/helpers/compare.js';
import { report, workerArgument } from './jobs.js';

export interface Assignment {
  /** Name in parity/, without its ending. */
  readonly file: string;
  /** Indices in the order of the list; absent: only list them. */
  readonly tests?: readonly number[];
}

/** The check that came closest to its limit, of those of one op and dtype. */
export interface Worst {
  readonly group: string;
  readonly checks: number;
  readonly error: number;
  readonly limit: number;
  readonly label: string;
}

export type Message =
  | { kind: 'list'; tests: { name: string; skips: boolean }[] }
  | { kind: 'begin'; test: number }
  | { kind: 'end'; test: number; seconds: number; failure?: string }
  | { kind: 'worst'; groups: Worst[] };

/** After one of these the CUDA context is lost: this process ends, the remaining tests need another. */
const LOST_DEVICE = /cudaError(?!MemoryAllocation)/;

const { file, tests } = workerArgument<Assignment>();
const path = new URL(`../parity/${file}.mjs`, import.meta.url).href;
const wanted = new Set(tests);
const indices = new Map<Test, number>();

const config: VitestRunnerConfig = {
  root: '/',
  setupFiles: [],
  name: undefined,
  passWithNoTests: false,
  testNamePattern: undefined,
  allowOnly: false,
  sequence: { seed: 0, hooks: 'stack', setupFiles: 'list' },
  chaiConfig: undefined,
  maxConcurrency: 1,
  testTimeout: Number(process.env.SAS_TEST_TIMEOUT) || 120_000,
  hookTimeout: 120_000,
  retry: 0,
  includeTaskLocation: false,
  tags: [],
  tagsFilter: undefined,
  strictTags: false,
};

/** A test's fault in words; stack traces point into bundled code and say nothing more. */
const failureOf = (test: Test): string =>
  (test.result?.errors ?? [])
    .map(({ name, message }) => (name === 'AssertionError' ? message : `${name}: ${message}`))
    .join('\n') || 'failed without a message';

const runner: VitestRunner = {
  config,
  pool: 'forks',
  importFile: (name: string) => import(name),
  onCollected(files) {
    for (const [index, test] of getTests(files).entries()) indices.set(test, index);
  },
  async onBeforeRunTask(test) {
    const index = indices.get(test) ?? -1;
    if (!wanted.has(index)) test.mode = 'skip';
    else await report({ kind: 'begin', test: index } satisfies Message);
  },
  async onAfterRunTask(test) {
    const seconds = (test.result?.duration ?? 0) / 1000;
    const failure = test.result?.state === 'pass' ? undefined : failureOf(test);
    await report({ kind: 'end', test: indices.get(test) ?? -1, seconds, failure } satisfies Message);
    if (failure !== undefined && LOST_DEVICE.test(failure)) {
      await reportWorst();
      process.exit(0);
    }
  },
};

const reportWorst = () => report({ kind: 'worst', groups: worstChecks() } satisfies Message);

/** Ends this process; with exit code 1 where the file as a whole is at fault: it cannot be loaded, or a hook failed. */
function leave(result: { errors?: { message: string }[] } | undefined): never {
  for (const { message } of result?.errors ?? []) console.error(message);
  process.exit(result?.errors?.length ? 1 : 0);
}

if (tests === undefined) {
  const [collected] = await collectTests([path], runner);
  if (collected?.result?.errors) leave(collected.result);
  await report({
    kind: 'list',
    tests: getTests(collected ?? []).map((test) => ({ name: getTestName(test, ' > '), skips: test.mode === 'skip' })),
  } satisfies Message);
  leave(undefined);
}
const [ran] = await startTests([path], runner);
await reportWorst();
leave(ran?.result);
