// A run in one safetensors file. A resumed run continues bit-identically to one that never stopped.
//
//   parameters.<name>, adam.first.<name>, adam.second.<name>   f32, as the model names and shapes them
//   run.step [1], run.random [4]                               i32
//   run.meta                                                   i32, one byte of JSON each: so the checksum covers it too
//
// A file is input: all that it says is checked, against the command line's bounds and against the sizes of its own tensors,
// before memory is taken for a model.

import { mkdir } from 'node:fs/promises';
import { dirname } from 'node:path';
import { Failure, UsageError } from '../failure.js';
import { alsoNamed, codeOf, named } from '../files.js';
import { type Device, saveSafetensors, type Tensor } from '../index.js';
import type { Placed } from '../safetensors/header.js';
import { SafetensorsReader } from '../safetensors/reader.js';
import { ATTENTIONS, type Attention, storedConfig, type TrainConfig } from './config.js';
import { refuseDiverged } from './loop.js';
import { parameterShapes } from './model.js';
import { Random } from './random.js';
import { modelConfig, type Run, startRun } from './run.js';

/** The first has no checksum. */
const FORMATS = ['sas-attention training run 1', 'sas-attention training run 2'] as const;

interface Meta {
  format: (typeof FORMATS)[number];
  attention: Attention;
  config: TrainConfig;
  /** SHA-256 of the text it trains on. */
  textHash: string;
}

export interface Checkpoint {
  path: string;
  meta: Meta;
  step: number;
  random: Random;
  tensors: ReadonlyMap<string, Float32Array>;
}

/** Most elements of `run.meta`. */
const MAX_META = 65_536;

const checkpointNames = (name: string) => [`parameters.${name}`, `adam.first.${name}`, `adam.second.${name}`] as const;

/** All live tensors of a run by the names that the file uses. */
function tensorsOf({ model, moments }: Run): [string, Tensor][] {
  return [...model.parameters].flatMap(([name, parameter]): [string, Tensor][] => {
    const { first, second } = moments.get(name) as { first: Tensor; second: Tensor };
    const [own, ofFirst, ofSecond] = checkpointNames(name);
    return [
      [own, parameter],
      [ofFirst, first],
      [ofSecond, second],
    ];
  });
}

/** The name under which the checkpoint that is replaced stays. */
const previousOf = (path: string) => path.replace(/(\.safetensors)?$/, '.previous$1');

/**
 * Replaces an older checkpoint only once the new one is complete on disk; the older one stays beside it, as `.previous`. Throws
 * DivergedError, and writes nothing, where an element is not a finite number.
 */
export async function saveCheckpoint(path: string, run: Run, textHash: string): Promise<void> {
  const { attention, config, step } = run;
  const meta: Meta = { format: FORMATS[1], attention, config, textHash };
  const json = Int32Array.from(Buffer.from(JSON.stringify(meta)));
  const random = run.random.state;
  const entries = await Promise.all(
    tensorsOf(run).map(async ([name, tensor]) => {
      const data = (await tensor.data()) as Float32Array;
      refuseDiverged(`${name} after step ${step}`, data.find((value) => !Number.isFinite(value)) ?? 0);
      return [name, { shape: tensor.shape, data }] as const;
    }),
  );
  try {
    await mkdir(dirname(path), { recursive: true });
    await alsoNamed(path, previousOf(path));
  } catch (error) {
    throw named(path, 'written', error);
  }
  await saveSafetensors(
    path,
    [
      ...entries,
      ['run.step', { shape: [1], data: Int32Array.of(step) }],
      ['run.random', { shape: [4], data: random }],
      ['run.meta', { shape: [json.length], data: json }],
    ],
    { checksum: true },
  );
}

export async function loadCheckpoint(path: string): Promise<Checkpoint> {
  try {
    return await SafetensorsReader.open('loadSafetensors', path, (reader) => readCheckpoint(path, reader));
  } catch (error) {
    if (codeOf(error) === 'ENOENT') throw new UsageError(`checkpoint '${path}': no such file`);
    const message = error instanceof Error ? error.message : String(error);
    const reason = error instanceof UsageError ? message : `it cannot be read (${message})`;
    const Kind = codeOf(error)?.startsWith('E') ? Failure : UsageError;
    throw new Kind(`checkpoint '${path}': ${reason}`, { cause: error });
  }
}

async function readCheckpoint(path: string, reader: SafetensorsReader): Promise<Checkpoint> {
  const placed = new Map(reader.tensors.map((tensor) => [tensor.name, tensor]));
  const int32 = async (name: string, fits: (length: number) => boolean): Promise<Int32Array> => {
    const tensor = placed.get(name);
    if (tensor?.dtype !== 'i32' || tensor.shape.length !== 1 || !fits(tensor.shape[0] as number)) {
      throw new UsageError('it is not a checkpoint written by sas-attention train');
    }
    placed.delete(name);
    return (await reader.read(tensor)) as Int32Array;
  };
  const meta = parseMeta(await int32('run.meta', (length) => length <= MAX_META));
  const [step = 0] = await int32('run.step', (length) => length === 1);
  const random = await int32('run.random', (length) => length === 4);
  if (step < 0) throw new UsageError(`its step is ${step}, expected an integer of at least 0`);
  if (!random.some((word) => word !== 0)) throw new UsageError('its random numbers are all the same');
  checkShapes(placed, meta);
  const data = await reader.readAll(meta.format === FORMATS[1] ? true : undefined);
  const tensors = new Map([...placed.keys()].map((name) => [name, data.get(name) as Float32Array]));
  return { path, meta, step, random: Random.fromState(random), tensors };
}

function parseMeta(bytes: Int32Array): Meta {
  let stored: Partial<Record<keyof Meta, unknown>>;
  try {
    stored = JSON.parse(new TextDecoder('utf-8', { fatal: true }).decode(Uint8Array.from(bytes))) ?? {};
  } catch {
    throw new UsageError('what it says of its run is not JSON');
  }
  const { format, attention, textHash } = stored;
  const known = FORMATS.find((name) => name === format);
  if (known === undefined) throw new UsageError('it has a format that this version does not know');
  const config = storedConfig(stored.config);
  const own = ATTENTIONS.find((name) => name === attention);
  if (own === undefined || !config.attentions.includes(own)) {
    throw new UsageError('its attention is none of those that its configuration has');
  }
  if (typeof textHash !== 'string') throw new UsageError('it does not say which text it was trained on');
  return { format: known, attention: own, config, textHash };
}

/** The file holds exactly what a run of its configuration has. */
function checkShapes(placed: ReadonlyMap<string, Placed>, { config, attention }: Meta): void {
  const strangers = new Set(placed.keys());
  for (const [name, shape] of parameterShapes(modelConfig(config, attention))) {
    for (const own of checkpointNames(name)) {
      const tensor = placed.get(own);
      if (tensor?.dtype !== 'f32' || tensor.shape.join() !== shape.join()) {
        throw new UsageError(`'${own}' is missing or has another shape than its configuration says`);
      }
      strangers.delete(own);
    }
  }
  const [stranger] = strangers;
  if (stranger !== undefined) throw new UsageError(`it holds '${stranger}', which no run of its configuration has`);
}

/** A run that stands where the checkpoint was written. */
export function resumeRun(checkpoint: Checkpoint, config: TrainConfig, device: Device): Run {
  const run = startRun(config, checkpoint.meta.attention, device);
  for (const [name, tensor] of tensorsOf(run)) {
    const stored = checkpoint.tensors.get(name);
    if (stored?.length !== tensor.size) {
      throw new UsageError(`checkpoint '${checkpoint.path}': '${name}' is missing or has another shape`);
    }
    tensor.copyFrom(stored);
  }
  run.step = checkpoint.step;
  run.random = checkpoint.random;
  return run;
}
