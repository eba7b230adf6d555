// A run in one safetensors file. A resumed run continues bit-identically to one that never stopped.
//
//   parameters.<name>, adam.first.<name>, adam.second.<name>   f32, as the model names and shapes them
//   run.step [1], run.random [4]                               i32
//   run.meta                                                   i32, one byte of JSON each: safetensors hold only tensors

import { mkdirSync } from 'node:fs';
import { dirname } from 'node:path';
import { UsageError } from '../failure.js';
import { type Device, type DType, loadSafetensors, saveSafetensors, type Tensor } from '../index.js';
import { type Attention, DEFAULT_CONFIG, type TrainConfig } from './config.js';
import { Random } from './random.js';
import { type Run, startRun } from './run.js';

interface Meta {
  format: 'sas-attention training run 1';
  attention: Attention;
  config: TrainConfig;
  /** SHA-256 of the text it trains on. */
  textHash: string;
}

type Stored = Map<string, { shape: readonly number[]; dtype: DType; data: unknown }>;

export interface Checkpoint {
  path: string;
  meta: Meta;
  step: number;
  random: Random;
  tensors: Stored;
}

/** All live tensors of a run by the names that the file uses. */
function tensorsOf(run: Run): [string, Tensor][] {
  return [
    ...[...run.model.parameters].map(([name, tensor]): [string, Tensor] => [`parameters.${name}`, tensor]),
    ...[...run.moments].flatMap(([name, { first, second }]): [string, Tensor][] => [
      [`adam.first.${name}`, first],
      [`adam.second.${name}`, second],
    ]),
  ];
}

/** Replaces an older checkpoint only once the new one is complete on disk. */
export async function saveCheckpoint(path: string, run: Run, textHash: string): Promise<void> {
  const { attention, config } = run;
  const meta: Meta = { format: 'sas-attention training run 1', attention, config, textHash };
  const json = Int32Array.from(Buffer.from(JSON.stringify(meta)));
  mkdirSync(dirname(path), { recursive: true });
  await saveSafetensors(path, [
    ...tensorsOf(run),
    ['run.step', { shape: [1], data: Int32Array.of(run.step) }],
    ['run.random', { shape: [4], data: run.random.state }],
    ['run.meta', { shape: [json.length], data: json }],
  ]);
}

function int32(path: string, tensors: Stored, name: string): Int32Array {
  const data = tensors.get(name)?.data;
  if (!(data instanceof Int32Array))
    throw new UsageError(`checkpoint '${path}': it is not a checkpoint written by sas-attention train`);
  return data;
}

export async function loadCheckpoint(path: string): Promise<Checkpoint> {
  let tensors: Stored;
  try {
    tensors = await loadSafetensors(path);
  } catch (error) {
    const missing = error instanceof Error && 'code' in error && error.code === 'ENOENT';
    const reason = missing ? 'no such file' : `it cannot be read (${error instanceof Error ? error.message : error})`;
    throw new UsageError(`checkpoint '${path}': ${reason}`);
  }
  const json = Buffer.from(Uint8Array.from(int32(path, tensors, 'run.meta'))).toString();
  const stored = JSON.parse(json) as Meta;
  // What is not in it, older versions did not know.
  const meta: Meta = { ...stored, config: { ...DEFAULT_CONFIG, ...stored.config } };
  const [step = 0] = int32(path, tensors, 'run.step');
  return { path, meta, step, random: Random.fromState(int32(path, tensors, 'run.random')), tensors };
}

/** A run that stands where the checkpoint was written. */
export function resumeRun(checkpoint: Checkpoint, config: TrainConfig, device: Device): Run {
  const run = startRun(config, checkpoint.meta.attention, device);
  for (const [name, tensor] of tensorsOf(run)) {
    const stored = checkpoint.tensors.get(name);
    if (!(stored?.data instanceof Float32Array) || stored.shape.join() !== tensor.shape.join()) {
      throw new UsageError(`checkpoint '${checkpoint.path}': '${name}' is missing or has another shape`);
    }
    tensor.copyFrom(stored.data);
  }
  run.step = checkpoint.step;
  run.random = checkpoint.random;
  return run;
}
