/**
 * Runs the project's parity tests (test/parity) on the device that SAS_DEVICE names, within a time budget:
 *   node parity.mjs --out FILE [--seconds N] [--processes N] [--patience N] [--only TEXT]...
 * Every test is run, skipped with a reason, or counted as not run. Exit code 1 if one failed or none passed, 4 if one that was
 * asked for was not run.
 */
import { readdirSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { drain, type Limits, runJob, secondsOption, writeResult } from './jobs.js';
import { origin } from './manifest.js';
import type { Assignment, Message, Worst } from './parity_worker.js';

/** Not in the bundle, by name. */
const SKIPPED: Readonly<Record<string, string>> = {
  'repeatability > threads 1, 2, 3, 4 give the same bits':
    'starts child processes through tsx, which the bundle does not hold; it is about threads of the CPU',
};

interface Case {
  readonly file: string;
  /** Its place in the file; -1 for what is not a test. */
  readonly index: number;
  readonly name: string;
  state: 'not run' | 'running' | 'passed' | 'failed' | 'skipped';
  seconds?: number;
  /** Why it failed or was skipped. */
  message?: string;
}

const SAVE_EVERY_MS = 2000;
const INCOMPLETE = 4; // as run.sh has it
const worker = fileURLToPath(new URL('./parity_worker.mjs', import.meta.url));

/** The tests of one file; one that stands for all where it cannot be loaded. */
async function list(file: string, limits: Limits): Promise<Case[]> {
  let found: Extract<Message, { kind: 'list' }>['tests'] = [];
  const ending = await runJob<Message>(worker, { file } satisfies Assignment, limits, (message) => {
    if (message.kind === 'list') found = message.tests;
  });
  if (found.length === 0) {
    const unread: Case = { file, index: -1, name: 'cannot be loaded', state: 'not run' };
    if (ending.kind !== 'out of time') fail(unread, `the process ${ending.kind}: ${ending.detail}`);
    return [unread];
  }
  return found.map(({ name, skips }, index): Case => {
    const reason = SKIPPED[name] ?? (skips ? 'not for this device' : undefined);
    return { file, index, name, state: reason ? 'skipped' : 'not run', ...(reason && { message: reason }) };
  });
}

/** Merges what one process found into `all`: per group the check closest to its limit. */
function mergeWorst(all: Map<string, Worst>, found: readonly Worst[]): void {
  for (const worst of found) {
    const before = all.get(worst.group);
    const checks = worst.checks + (before?.checks ?? 0);
    const isCloser = before === undefined || !(worst.error / worst.limit <= before.error / before.limit);
    all.set(worst.group, { ...(isCloser ? worst : before), checks });
  }
}

/**
 * Runs `cases` of one file in one process; those that it left over when the device was lost go back into the queue. Returns
 * what failed besides them.
 */
async function runCases(cases: Case[], queue: Case[][], worst: Map<string, Worst>, limits: Limits): Promise<Case[]> {
  const file = cases[0]?.file ?? '';
  const byIndex = new Map(cases.map((item) => [item.index, item]));
  const assignment: Assignment = { file, tests: [...byIndex.keys()] };
  const ending = await runJob<Message>(worker, assignment, limits, (message) => {
    if (message.kind === 'worst') mergeWorst(worst, message.groups);
    if (message.kind !== 'begin' && message.kind !== 'end') return;
    const item = byIndex.get(message.test);
    if (item === undefined) return;
    item.state = 'running';
    if (message.kind === 'begin') return;
    item.state = message.failure === undefined ? 'passed' : 'failed';
    item.seconds = message.seconds;
    if (message.failure !== undefined) fail(item, message.failure);
  });
  const running = cases.find((item) => item.state === 'running');
  if (ending.kind === 'out of time') {
    if (running) running.state = 'not run';
    return [];
  }
  const fault = `the process ${ending.kind}: ${ending.detail}`;
  if (running) fail(running, fault);
  const left = cases.filter((item) => item.state === 'not run');
  const outside: Case = { file, index: -1, name: 'outside its tests', state: 'not run' };
  if (left.length === cases.length) {
    for (const item of left) fail(item, `was not reached; ${fault}`);
  } else if (left.length > 0) {
    queue.push(left);
  }
  if (running || ending.kind === 'done') return [];
  fail(outside, fault);
  return [outside];
}

function fail(item: Case, message: string): void {
  item.state = 'failed';
  item.message = message;
  console.log(`FAIL ${item.file} > ${item.name}: ${message.replaceAll('\n', '\n     ')}`);
  const alone: Assignment = { file: item.file, tests: [item.index] };
  if (item.index >= 0) console.log(`     again: node js/run/parity_worker.mjs '${JSON.stringify(alone)}'`);
}

/** `count` parts of about the same size and the same mixture. */
function deal<Item>(items: readonly Item[], count: number): Item[][] {
  return Array.from({ length: count }, (_, part) => items.filter((_, i) => i % count === part));
}

/** What is known of the cases so far; those that still run count as not run. */
function resultOf(cases: readonly Case[], worst: ReadonlyMap<string, Worst>) {
  const inState = (...states: Case['state'][]) => cases.filter(({ state }) => states.includes(state));
  const [passed, failed, skipped] = [inState('passed'), inState('failed'), inState('skipped')];
  const notRun = inState('not run', 'running');
  const nameOf = ({ file, name }: Case) => `${file} > ${name}`;
  return {
    counts: { passed: passed.length, failed: failed.length, skipped: skipped.length, notRun: notRun.length },
    failures: failed,
    skipped,
    notRun: notRun.map(nameOf),
    worst: [...worst.values()].sort((a, b) => a.group.localeCompare(b.group)),
    passed: passed.map((item) => ({ name: nameOf(item), seconds: item.seconds })),
  };
}

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      out: { type: 'string', default: 'parity.json' },
      seconds: { type: 'string', default: '600' },
      processes: { type: 'string', default: '6' },
      patience: { type: 'string', default: '75' }, // longer than any test may take (60 s)
      only: { type: 'string', multiple: true, default: [''] },
    },
  });
  const start = performance.now();
  const deadline = start + 1000 * secondsOption('seconds', values.seconds);
  const limits: Limits = { deadline, patience: secondsOption('patience', values.patience) };
  const width = Math.max(1, Math.min(Number(values.processes), availableParallelism()));
  // Fresh memory holds NaN: an element that no kernel wrote shows.
  process.env.SAS_POISON ??= '1';

  const files = readdirSync(new URL('../parity', import.meta.url))
    .filter((name) => name.endsWith('.mjs'))
    .map((name) => name.slice(0, -'.mjs'.length));
  const cases: Case[] = [];
  await drain([...files], width, async (file) => void cases.push(...(await list(file, limits))));
  cases.sort((a, b) => files.indexOf(a.file) - files.indexOf(b.file) || a.index - b.index);

  // One part of every file, then the next of every file: whatever the budget, every op gets its share of it.
  const chosen = cases.filter(
    ({ file, name, index, state }) =>
      state === 'not run' && index >= 0 && values.only.some((text) => `${file} > ${name}`.includes(text)),
  );
  const parts = files.map((file) =>
    deal(
      chosen.filter((item) => item.file === file),
      width,
    ),
  );
  const queue = Array.from({ length: width }, (_, part) => parts.map((ofFile) => ofFile[part] ?? []))
    .flat()
    .filter((part) => part.length > 0);
  const worst = new Map<string, Worst>();
  const facts = origin();
  const save = () => {
    const result = resultOf(cases, worst);
    writeResult(values.out, { ...facts, seconds: (performance.now() - start) / 1000, ...result });
    return result;
  };
  const saving = setInterval(save, SAVE_EVERY_MS);
  await drain(queue, width, async (part) => void cases.push(...(await runCases(part, queue, worst, limits))));
  clearInterval(saving);
  const { counts, skipped } = save();

  for (const item of skipped) console.log(`SKIP ${item.file} > ${item.name}: ${item.message}`);
  const seconds = ((performance.now() - start) / 1000).toFixed(0);
  console.log(
    `parity: ${counts.passed} passed, ${counts.failed} failed, ${counts.skipped} skipped, ${counts.notRun} not run, ${seconds} s`,
  );
  const isLeft =
    chosen.some(({ state }) => state === 'not run') ||
    cases.some(({ index, state }) => index < 0 && state === 'not run');
  process.exitCode = counts.failed > 0 ? 1 : isLeft ? INCOMPLETE : counts.passed === 0 ? 1 : 0;
}

await main();
