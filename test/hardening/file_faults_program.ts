/**
 * `faults`, or `some` with fewer kinds of errors: lets every call of each operation on files fail in turn, and looks at the files after each; `trace`: records the
 * calls. Runs with sas_file_faults preloaded (see file_faults.ts); prints JSON.
 */
import { mkdirSync, openSync, readdirSync, readFileSync, rmSync, writeFileSync, writeSync } from 'node:fs';
import { constants } from 'node:os';
import { join } from 'node:path';
import { loadCheckpoint, saveCheckpoint } from '../../lib/gpt/checkpoint.js';
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { splitText } from '../../lib/gpt/data.js';
import { MetricsLog } from '../../lib/gpt/metrics.js';
import { type Run, startRun } from '../../lib/gpt/run.js';
import { runToEnd } from '../../lib/gpt/run_to_end.js';
import { getDevice, loadSafetensors, saveSafetensors } from '../../lib/index.js';
import type { FaultCounts } from './file_faults.js';

const kind = process.argv[2] as 'faults' | 'some' | 'trace';
const folder = process.env.SAS_TEST_FILES as string;
const tracePath = process.env.SAS_TEST_TRACE as string;
const control = openSync(process.env.SAS_TEST_CONTROL as string, 'r+');

/** -1: half of what the call was asked for; below: half, and then that error of every write. */
const set = (failAt: number, error: number, trace: boolean) =>
  writeSync(control, new BigInt64Array([BigInt(failAt), 0n, BigInt(error), trace ? 1n : 0n]), 0, 32, 0);
const seen = () => Number(readFileSync(process.env.SAS_TEST_CONTROL as string).readBigInt64LE(8));

const at = (name: string) => join(folder, name);
const SIZES = { width: 2, layers: 1, heads: 1, simHeads: 1, simHeadDim: 2, kernel: 1, hidden: 1, seq: 2, batch: 1 };
const config: TrainConfig = { ...DEFAULT_CONFIG, ...SIZES, attentions: ['mha'], steps: 9 };
const runAt = (step: number): Run => Object.assign(startRun(config, 'mha', getDevice('cpu')), { step });
const [older, old, fresh] = [runAt(1), runAt(2), runAt(3)];

const tensors = (value: number, length: number) =>
  Array.from(
    { length: 3 },
    (_, i) => [`t${i}`, { shape: [length], data: new Float32Array(length).fill(value + i) }] as const,
  );
const save = (value: number, length: number) =>
  saveSafetensors(at('model.safetensors'), tensors(value, length), { checksum: true });
const log = new MetricsLog(at('metrics.jsonl'));
const line = (step: number) => log.append({ attention: 'mha', step, validationLoss: step });
const lines = async (count: number) => {
  await log.reset();
  for (let step = 1; step <= count; step++) line(step);
  await log.flush();
};

interface Operation {
  name: string;
  /** Makes the files that it begins with. */
  before(): Promise<void>;
  run(): Promise<unknown>;
  /** The file that its errors name. */
  file: string;
  /** Whether a file may also end between the old and the new one, at the end of a line. */
  appends?: true;
}

const checkpoint = () => saveCheckpoint(at('checkpoint.safetensors'), fresh, 'text');
const OPERATIONS: Operation[] = [
  { name: 'save', before: () => save(1, 300), run: () => save(4, 500), file: 'model.safetensors' },
  { name: 'save a new file', before: async () => {}, run: () => save(4, 500), file: 'model.safetensors' },
  {
    name: 'save a checkpoint',
    before: async () => {
      for (const run of [older, old]) await saveCheckpoint(at('checkpoint.safetensors'), run, 'text');
    },
    run: checkpoint,
    file: 'checkpoint',
  },
  {
    name: 'trim the metrics',
    before: () => lines(40),
    run: () => log.resume('mha', 20, 99, []),
    file: 'metrics.jsonl',
  },
];
/** Only recorded: its metrics are neither the old nor the new ones while it appends to them. */
const TRAINING: Operation = {
  name: 'train for a step',
  before: async () => {
    await log.reset();
    await saveCheckpoint(at('checkpoint.safetensors'), old, 'text');
  },
  run: async () => {
    const text = splitText('text', new Uint8Array(200).fill(97), config.seq);
    const run = startRun({ ...config, steps: 1 }, 'mha', getDevice('cpu'));
    const events = { step: () => {}, validation: () => {}, shouldStop: () => false };
    await runToEnd(run, text, { log, checkpoint: at('checkpoint.safetensors') }, events);
  },
  file: 'checkpoint.safetensors',
};
const MORE: Operation[] = [
  {
    name: 'append to the metrics',
    before: () => lines(3),
    run: async () => {
      for (const step of [4, 5]) line(step);
      await log.flush();
    },
    file: 'metrics.jsonl',
    appends: true,
  },
  {
    name: 'load',
    before: () => save(1, 300),
    run: async () => {
      const loaded = await loadSafetensors(at('model.safetensors'));
      for (const [name, { data }] of tensors(1, 300)) {
        if (!loaded.get(name)?.data.every((value, i) => value === data[i])) throw new Error(`${name} was misread`);
      }
    },
    file: 'model.safetensors',
  },
  {
    name: 'resume',
    before: () => saveCheckpoint(at('checkpoint.safetensors'), old, 'text'),
    run: async () => {
      const { step, tensors } = await loadCheckpoint(at('checkpoint.safetensors'));
      const expected = await old.model.parameters.get('head.weight')?.data();
      const found = tensors.get('parameters.head.weight');
      if (step !== 2 || !found?.every((value, i) => value === expected?.[i])) throw new Error('it was misread');
    },
    file: 'checkpoint.safetensors',
  },
];

const filesNow = () =>
  new Map(
    readdirSync(folder)
      .sort()
      .map((name) => [name, readFileSync(at(name))]),
  );
const openFiles = () => readdirSync('/proc/self/fd').length;

async function begin(operation: Operation) {
  rmSync(folder, { recursive: true, force: true });
  mkdirSync(folder);
  await operation.before();
  return filesNow();
}

async function letFail(operation: Operation): Promise<FaultCounts> {
  const { name, run, file, appends } = operation;
  const counts = { operation: name, calls: 0, told: 0, overcome: 0 };
  const before = await begin(operation);
  set(0, 0, false);
  await run();
  counts.calls = seen();
  const after = filesNow();
  const { EIO, ENOSPC, EACCES, EINTR } = constants.errno;
  for (const error of kind === 'some' ? [EIO, EACCES, -ENOSPC] : [EIO, ENOSPC, EACCES, EINTR, -1, -ENOSPC]) {
    for (let call = 1; call <= counts.calls; call++) {
      await begin(operation);
      const descriptors = openFiles();
      set(call, error, false);
      const failure = await run().then(
        () => null,
        (error: Error) => error,
      );
      set(0, 0, false);
      const where = `${name}, error ${error} at call ${call} of ${counts.calls}`;
      const found = filesNow();
      if (failure === null) counts.overcome++;
      else counts.told++;
      if (failure && !failure.message.includes(at(file))) throw new Error(`${where}: no file in '${failure.message}'`);
      if (failure?.message.includes('.tmp')) throw new Error(`${where}: '${failure.message}'`);
      if (failure === null && error === EIO && !appends && name !== 'save a checkpoint') {
        throw new Error(`${where}: nothing was said`);
      }
      for (const [own, data] of found) {
        const [first, last] = [before.get(own), after.get(own)];
        const whole = appends ? last?.subarray(0, data.length).equals(data) && data.at(-1) === 10 : first?.equals(data);
        if (own.endsWith('.tmp')) throw new Error(`${where}: ${own} is left`);
        if (!(last?.equals(data) || (failure && whole))) throw new Error(`${where}: ${own} is neither old nor new`);
      }
      for (const own of before.keys()) if (!found.has(own)) throw new Error(`${where}: ${own} is gone`);
      if (failure === null) for (const own of after.keys()) if (!found.has(own)) throw new Error(`${where}: no ${own}`);
      if (openFiles() !== descriptors) throw new Error(`${where}: a file stays open`);
    }
  }
  return counts;
}

async function trace(operation: Operation) {
  const before = await begin(operation);
  writeFileSync(tracePath, '');
  set(0, 0, true);
  await operation.run();
  set(0, 0, false);
  const hex = (files: Map<string, Buffer>) => [...files].map(([name, data]) => [name, data.toString('hex')]);
  return {
    operation: operation.name,
    before: hex(before),
    after: hex(filesNow()),
    trace: readFileSync(tracePath, 'utf8'),
  };
}

const results: unknown[] = [];
if (kind === 'trace') for (const operation of [...OPERATIONS, TRAINING]) results.push(await trace(operation));
else for (const operation of [...OPERATIONS, ...MORE]) results.push(await letFail(operation));
process.stdout.write(JSON.stringify(results));
