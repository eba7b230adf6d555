/**
 * Times the ops on the device that SAS_DEVICE names, within a time budget:
 *   node gpu_bench.mjs --out FILE [--seconds N] [--quick] [--tokens N] [--only TEXT]
 * --tokens is the size of a batch, and the longest sequence; --only leaves the cases whose names hold TEXT. What cannot be
 * measured is listed with its reason, what there was no time for is listed too. Exit code 1 if nothing was measured.
 */
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import type { Assignment, Bounds, Message, Row } from './bench_worker.js';
import { type Float, TOKENS } from './gpu_cases.js';
import { groupsOf } from './groups.js';
import { type Limits, runJob, secondsOption, writeResult } from './jobs.js';
import { origin } from './manifest.js';

/** A case without a number. */
export interface Failure {
  readonly case: string;
  readonly dtype: Float;
  readonly length: number;
  readonly reason: string;
}

const PATIENCE = 40; // seconds per case
const worker = fileURLToPath(new URL('./bench_worker.mjs', import.meta.url));

const { values } = parseArgs({
  options: {
    out: { type: 'string', default: 'bench.json' },
    seconds: { type: 'string', default: '600' },
    quick: { type: 'boolean', default: false },
    tokens: { type: 'string', default: String(TOKENS) },
    only: { type: 'string', default: '' },
  },
});
const start = performance.now();
const limits: Limits = { deadline: start + 1000 * secondsOption('seconds', values.seconds), patience: PATIENCE };
const tokens = Number(values.tokens);
if (!(Number.isInteger(tokens) && tokens > 0))
  throw new Error(`--tokens ${values.tokens}: expected a positive integer`);
const groups = groupsOf(tokens);
const timing = values.quick ? { samples: 5, minSeconds: 0.02 } : { samples: 9, minSeconds: 0.03 };

const facts = origin();
const rows: Row[] = [];
const failures: Failure[] = [];
const notRun: Omit<Failure, 'reason'>[] = [];
let bounds: Bounds | undefined;

const save = () => {
  const seconds = (performance.now() - start) / 1000;
  writeResult(values.out, { ...facts, seconds, ...(bounds && { bounds }), rows, failures, notRun });
};

/** One group in one process; what the process did not come to is noted. */
async function runGroup(group: string | undefined, dtype: Float): Promise<void> {
  const { only } = values;
  const cases = (groups[group ?? '']?.cases ?? []).filter(({ name }) => name.includes(only));
  if (group !== undefined && cases.length === 0) return;
  const waiting = (group === undefined ? [{ name: 'bounds', length: 0 }] : cases).map(({ name, length }) => ({
    case: name,
    dtype,
    length,
  }));
  let running: Omit<Failure, 'reason'> | undefined;
  const assignment: Assignment = { ...(group !== undefined && { group }), only, dtype, tokens, ...timing };
  const environment = (group && groups[group]?.environment) || {};
  const ending = await runJob<Message>(worker, assignment, { ...limits, environment }, (message) => {
    if (message.kind === 'begin') running = waiting.shift();
    if (message.kind === 'begin') return;
    if (message.kind === 'row') rows.push(message.row);
    if (message.kind === 'bounds') bounds = message.bounds;
    if (message.kind === 'failed' && running) failures.push({ ...running, reason: message.reason });
    running = undefined;
    save();
  });
  if (running && ending.kind === 'out of time') waiting.unshift(running);
  else if (running) failures.push({ ...running, reason: `the process ${ending.kind}: ${ending.detail}` });
  if (ending.kind === 'out of time') notRun.push(...waiting);
  else for (const item of waiting) failures.push({ ...item, reason: `not reached: the process ${ending.kind}` });
}

await runGroup(undefined, 'f32');
// Everything in bf16 first, in case the time is too short for all.
for (const dtype of values.quick ? (['bf16'] as const) : (['bf16', 'f16', 'f32'] as const)) {
  for (const [name, { dtypes }] of Object.entries(groups)) {
    if (dtypes.includes(dtype)) await runGroup(name, dtype);
  }
}

save();
for (const { case: name, dtype, length, reason } of failures)
  console.log(`FAIL ${name} ${dtype} T=${length}: ${reason}`);
const counts = `${rows.length} measured, ${failures.length} failed, ${notRun.length} not run`;
console.log(`bench: ${counts}, ${((performance.now() - start) / 1000).toFixed(0)} s`);
process.exitCode = rows.length === 0 ? 1 : 0;
