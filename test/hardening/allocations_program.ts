/**
 * Runs in a process that has sas_failing_allocations preloaded. Every allocation that the addon makes in a piece of work, in
 * turn, fails: an OutOfMemoryError must come of it, the next time the work must give the same bits as ever, and nothing may be
 * left. Arguments: what fails, and the first and last allocation to fail (default: from 1 to where the work makes no more):
 *   all      every allocation of a training step
 *   ops      of every op, forward and backward, one op after the other
 *   device   memory of tensors and scratch only of a training step, in a new environment each time
 * Prints a line of JSON.
 */
import { createHash } from 'node:crypto';
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { getDevice, OutOfMemoryError, type Tensor } from '../../lib/index.js';
import { dispose, type Problem, problemOf, run } from '../helpers/op_run.js';
import { opTable } from '../helpers/op_table.js';
import { TrainingStep } from './training_step.js';

/** The preloaded library's control block: see native/failing_allocations.cc. */
class Control {
  readonly #file = openSync(process.env.SAS_TEST_ALLOCATIONS as string, 'r+');
  arm(number: number, onlyDevice: boolean): void {
    writeSync(this.#file, BigInt64Array.of(0n, 0n, onlyDevice ? 1n : 0n, 0n), 0, 32, 0);
    writeSync(this.#file, BigInt64Array.of(BigInt(number)), 0, 8, 0);
  }
  /** Nothing fails any more; whether the failure has happened. */
  disarm(): boolean {
    const [number = 0n, seen = 0n] = this.#read();
    writeSync(this.#file, BigInt64Array.of(0n), 0, 8, 0);
    return seen >= number;
  }
  #read(): BigInt64Array {
    const values = new BigInt64Array(4);
    readSync(this.#file, values, 0, 32, 0);
    return values;
  }
  close(): void {
    closeSync(this.#file);
  }
}

interface Outcome {
  failed: boolean;
  /** How the failure was told: thrown at the call, or by a wait. */
  told: 'call' | 'wait' | 'none';
}

const device = getDevice('cpu');

/** Work that can be done again from where it started. */
interface Work {
  restore(): void;
  /** Enqueues it; all that it returns is disposed. */
  run(): Tensor[];
}

const trainingWork = (training: TrainingStep): Work => ({
  restore: () => training.restore(),
  run: () => [training.run()],
});

/** Of every op, and of its twin. */
const opWorks: [name: string, work: Work][] = opTable.flatMap((op) =>
  [op, ...(op.naive?.name ? [op.naive] : [])].map((calls): [string, Work] => {
    const item = op.small[0] ?? op.repeated[0];
    let problem: Problem | undefined;
    const work = {
      restore: () => {
        if (problem) dispose(problem);
        problem = problemOf(op, item, 'f32');
      },
      run: () => {
        const { outputs, gradients } = run(calls, problem as Problem);
        return Object.values({ ...outputs, ...gradients });
      },
    };
    return [calls.name ?? op.name, work];
  }),
);

/** Does the work with the n-th allocation failing. */
async function attempt(control: Control, work: Work, n: number, onlyDevice: boolean): Promise<Outcome> {
  let told: Outcome['told'] = 'none';
  const tell = (where: 'call' | 'wait') => (error: unknown) => {
    if (!(error instanceof OutOfMemoryError)) throw new Error(`allocation ${n}: ${String(error)}`, { cause: error });
    if (told === 'none') told = where;
  };
  control.arm(n, onlyDevice);
  try {
    const results = work.run();
    for (const result of results) await result.raw().catch(tell('wait'));
    for (const result of results) result.dispose();
  } catch (error) {
    tell('call')(error);
  }
  await device.synchronize().catch(tell('wait'));
  return { failed: control.disarm(), told };
}

async function prepared(): Promise<TrainingStep> {
  const training = new TrainingStep(device);
  await training.remember();
  return training;
}

/** What the work gives where nothing fails. */
async function bitsOf(work: Work): Promise<string> {
  work.restore();
  const hash = createHash('sha256');
  const results = work.run();
  for (const result of results) {
    const bits = await result.raw();
    hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
    result.dispose();
  }
  await device.synchronize();
  return hash.digest('hex');
}

/** What must hold after a failure: the same bits as ever, and as many live bytes. */
async function verify(work: Work, what: string, bits: string, live: number): Promise<void> {
  if ((await bitsOf(work)) !== bits) throw new Error(`after ${what} failed, the results are others`);
  work.restore();
  const left = device.memory().live - live;
  if (left !== 0) throw new Error(`after ${what} failed, ${left} bytes more are live`);
}

async function everyAllocation(name: string, work: Work, first: number, last: number) {
  const control = new Control();
  const bits = await bitsOf(work);
  work.restore();
  const live = device.memory().live;
  const counts = { call: 0, wait: 0, none: 0 };
  let n = first;
  for (; n <= last; n++) {
    work.restore();
    await device.trim(); // the next time takes all of its memory anew
    const { failed, told } = await attempt(control, work, n, false);
    if (!failed) break;
    counts[told]++;
    await verify(work, `allocation ${n} of ${name}`, bits, live);
  }
  control.close();
  return { allocations: n - first, toldByCall: counts.call, toldByWait: counts.wait, notNoticed: counts.none };
}

async function everyOp(first: number, last: number): Promise<object> {
  const sum = { ops: 0, allocations: 0, toldByCall: 0, toldByWait: 0, notNoticed: 0 };
  for (const [name, work] of opWorks) {
    const counts = await everyAllocation(name, work, first, last);
    if (counts.allocations === 0) throw new Error(`${name} makes no allocation`);
    sum.ops++;
    for (const [key, count] of Object.entries(counts)) sum[key as keyof typeof sum] += count;
  }
  return sum;
}

async function inNewEnvironment(n: number): Promise<Outcome> {
  const program = JSON.stringify(import.meta.url);
  const script = `import('tsx/esm/api').then(({ register }) => { register(); return import(${program}); });`;
  const worker = new Worker(script, { eval: true, workerData: { n } });
  return new Promise((resolve, reject) => {
    worker.on('message', resolve);
    worker.on('error', reject);
  });
}

async function everyDeviceAllocation(first: number, last: number): Promise<object> {
  const counts = { call: 0, wait: 0, none: 0 };
  let n = first;
  for (; n <= last; n++) {
    const { failed, told } = await inNewEnvironment(n);
    if (!failed) break;
    if (told === 'none') throw new Error(`allocation ${n} failed and nobody was told`);
    counts[told]++;
  }
  return { allocations: n - first, toldByCall: counts.call, toldByWait: counts.wait };
}

if (isMainThread) {
  const [mode, ...range] = process.argv.slice(2);
  const [first = 1, last = 1_000_000] = range.map(Number);
  const modes: Record<string, () => Promise<object>> = {
    all: async () => everyAllocation('the training step', trainingWork(await prepared()), first, last),
    ops: () => everyOp(first, last),
    device: () => everyDeviceAllocation(first, last),
  };
  console.log(JSON.stringify(await modes[mode]()));
} else {
  // A fresh environment, nothing reserved yet: the first step takes all its memory, scratch too, from the system.
  const { n } = workerData as { n: number };
  const control = new Control();
  const work = trainingWork(await prepared());
  await device.trim();
  const live = device.memory().live;
  const outcome = await attempt(control, work, n, true);
  const bits = await bitsOf(work);
  await verify(work, `allocation ${n} of the training step`, bits, live);
  control.close();
  parentPort?.postMessage(outcome);
}
