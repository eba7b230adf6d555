/**
 * Runs in a process that has sas_failing_allocations preloaded. Every allocation that the addon makes in a training step, in
 * turn, fails: an OutOfMemoryError must come of it, the next step must give the same loss as ever, and nothing may be left.
 * Arguments: `device` (memory of tensors and scratch only, in a new environment each time) or `all`, and the first and last
 * allocation to fail (default: from 1 to where a step makes no more). Prints a line of JSON.
 */
import { closeSync, openSync, readSync, writeSync } from 'node:fs';
import { isMainThread, parentPort, Worker, workerData } from 'node:worker_threads';
import { getDevice, OutOfMemoryError, Tensor } from '../../lib/index.js';
import { TrainingStep } from './training_step.js';

/** The preloaded library's control block: see native/failing_allocations.cc. */
class Control {
  readonly #file = openSync(process.env.SAS_TEST_ALLOCATIONS as string, 'r+');
  /** The pool asks a second time for device memory, after giving back what is free: then both fail. */
  arm(first: number, onlyDevice: boolean): void {
    const last = onlyDevice ? first + 1 : first;
    writeSync(this.#file, BigInt64Array.of(0n, BigInt(last), 0n, onlyDevice ? 1n : 0n), 0, 32, 0);
    writeSync(this.#file, BigInt64Array.of(BigInt(first)), 0, 8, 0);
  }
  /** Nothing fails any more; whether the failure has happened. */
  disarm(): boolean {
    const [first = 0n, , seen = 0n] = this.#read();
    writeSync(this.#file, BigInt64Array.of(0n), 0, 8, 0);
    return seen >= first;
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

/** One step with the n-th allocation failing. */
async function attempt(control: Control, training: TrainingStep, n: number, onlyDevice: boolean): Promise<Outcome> {
  let told: Outcome['told'] = 'none';
  const tell = (where: 'call' | 'wait') => (error: unknown) => {
    if (!(error instanceof OutOfMemoryError)) throw new Error(`allocation ${n}: ${String(error)}`, { cause: error });
    if (told === 'none') told = where;
  };
  control.arm(n, onlyDevice);
  try {
    const loss = training.run();
    await loss.data().catch(tell('wait'));
    loss.dispose();
  } catch (error) {
    tell('call')(error);
  }
  await device.synchronize().catch(tell('wait'));
  return { failed: control.disarm(), told };
}

/** Gives all free memory of the pool back to the system, so that the next step takes all of it anew. */
const emptyPool = (): void => Tensor.zeros([Number(process.env.SAS_MEMORY_LIMIT) / 8], { device }).dispose();

async function prepared(): Promise<TrainingStep> {
  const training = new TrainingStep(device);
  await training.remember();
  return training;
}

/** What must hold after a failure: the same loss as ever, and as many live bytes. */
async function verify(training: TrainingStep, n: number, loss: number, live: number): Promise<void> {
  training.restore();
  const again = await training.loss();
  await device.synchronize();
  if (again !== loss) throw new Error(`after allocation ${n} failed, the loss is ${again}, expected ${loss}`);
  const left = device.memory().live - live;
  if (left !== 0) throw new Error(`after allocation ${n} failed, ${left} bytes more are live`);
}

async function everyAllocation(first: number, last: number): Promise<object> {
  const control = new Control();
  const training = await prepared();
  const loss = await training.loss();
  const live = device.memory().live;
  const counts = { call: 0, wait: 0, none: 0 };
  let n = first;
  for (; n <= last; n++) {
    training.restore();
    emptyPool();
    await device.synchronize();
    const { failed, told } = await attempt(control, training, n, false);
    if (!failed) break;
    counts[told]++;
    await verify(training, n, loss, live);
  }
  control.close();
  return { allocations: n - first, toldByCall: counts.call, toldByWait: counts.wait, notNoticed: counts.none };
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
  const [mode, first = '1', last = '1000000'] = process.argv.slice(2);
  const every = mode === 'device' ? everyDeviceAllocation : everyAllocation;
  console.log(JSON.stringify(await every(Number(first), Number(last))));
} else {
  // A fresh environment, nothing reserved yet: the first step takes all its memory, scratch too, from the system.
  const { n } = workerData as { n: number };
  const control = new Control();
  const training = await prepared();
  emptyPool();
  await device.synchronize();
  const live = device.memory().live;
  const outcome = await attempt(control, training, n, true);
  training.restore();
  const loss = await training.loss();
  training.restore();
  await verify(training, n, loss, live);
  control.close();
  parentPort?.postMessage(outcome);
}
