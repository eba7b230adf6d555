// Reads the fixtures that ../fixtures/generate.py wrote with PyTorch autograd in float64.
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { type Array64, array64 } from '../reference/array64.js';
import type { AttentionConfigs64, AttentionKind } from '../reference/attention_configs.js';

export function fixturePath(name: string): string {
  return fileURLToPath(new URL(`../fixtures/${name}`, import.meta.url));
}

interface StoredArray {
  shape: number[];
  data: (number | string)[]; // infinities are strings
}

/** One op: every tensor by its name in the API; `gradients` has one entry per input. */
interface StoredCase {
  options: Record<string, number | boolean | string>;
  inputs: Record<string, StoredArray>;
  gradOutput: StoredArray;
  outputs: Record<string, StoredArray>;
  gradients: Record<string, StoredArray>;
  tokens?: StoredArray;
  targets?: StoredArray;
}

/** What the optimizer's ops do to lists of tensors. */
interface StoredOptimizer {
  clipGradNorm: { maxNorm: number; gradients: StoredArray[]; norm: StoredArray; clipped: StoredArray[] }[];
  adamW: {
    options: { lr: number; beta1: number; beta2: number; eps: number; weightDecay: number };
    parameter: StoredArray;
    steps: { gradient: StoredArray; parameter: StoredArray; firstMoment: StoredArray; secondMoment: StoredArray }[];
  }[];
}

export type Arrays = Record<string, Array64>;

export interface FixtureCase<Options> {
  options: Options;
  inputs: Arrays; // gradOutput, tokens and targets too
  outputs: Arrays;
  gradients: Arrays; // by the inputs that have one
}

export function toArray64({ shape, data }: StoredArray): Array64 {
  return array64(data.map(Number), shape);
}

function toArrays(stored: Record<string, StoredArray>): Arrays {
  return Object.fromEntries(Object.entries(stored).map(([name, value]) => [name, toArray64(value)]));
}

function toCase<Options>(stored: StoredCase): FixtureCase<Options> {
  return {
    options: stored.options as Options,
    inputs: toArrays({
      ...stored.inputs,
      gradOutput: stored.gradOutput,
      ...(stored.tokens && { tokens: stored.tokens }),
      ...(stored.targets && { targets: stored.targets }),
    }),
    outputs: toArrays(stored.outputs),
    gradients: toArrays(stored.gradients),
  };
}

function readJson<Content>(name: string): Content {
  return JSON.parse(readFileSync(fixturePath(name), 'utf8')) as Content;
}

const { clipGradNorm, adamW, ...ops } = {
  ...readJson<StoredOptimizer & Record<string, StoredCase[]>>('ops.json'),
  ...readJson<Record<string, StoredCase[]>>('factor_ops.json'),
};

export const clipGradNormCases = clipGradNorm;
export const adamWCases = adamW;

/** Of the op of that name; none if PyTorch has no such op. */
export function opCases(name: string): FixtureCase<unknown>[] {
  return ((ops as Record<string, StoredCase[]>)[name] ?? []).map((stored) => toCase(stored));
}

export interface SasOptions {
  heads: number;
  headDim: number;
  simHeads: number;
  simHeadDim: number;
  kernelSize: number;
  causal: boolean;
  scale?: number;
}

export function sasCases(): FixtureCase<SasOptions>[] {
  return readJson<StoredCase[]>('sas.json').map((stored) => toCase<SasOptions>(stored));
}

/** What the module of sas_torch_state.safetensors computes. */
export function torchStateCase(): FixtureCase<SasOptions> {
  return toCase<SasOptions>(readJson<StoredCase>('sas_torch_state.json'));
}

interface SafetensorsEntry {
  dtype: string;
  shape: number[];
  data_offsets: [number, number]; // bytes, relative to the end of the header
}

/** A minimal reader of float32 safetensors files, so that the fixture is not judged by the library's own reader. */
export function parseSafetensors(name: string): Arrays {
  const file = readFileSync(fixturePath(name));
  const headerLength = Number(file.readBigUInt64LE(0));
  const header = JSON.parse(file.toString('utf8', 8, 8 + headerLength)) as Record<string, SafetensorsEntry>;
  const arrays: Arrays = {};
  for (const [key, { dtype, shape, data_offsets: offsets }] of Object.entries(header)) {
    if (dtype !== 'F32') throw new Error(`${name}: ${key} is ${dtype}, expected F32`);
    const values: number[] = [];
    for (let offset = offsets[0]; offset < offsets[1]; offset += 4)
      values.push(file.readFloatLE(8 + headerLength + offset));
    arrays[key] = array64(values, shape);
  }
  return arrays;
}

/** The attention modules of attentions.json; `inputs` are x and the parameters by name. */
export function attentionCases<Kind extends AttentionKind>(kind: Kind): FixtureCase<AttentionConfigs64[Kind]>[] {
  const stored = readJson<Record<AttentionKind, StoredCase[]>>('attentions.json');
  return stored[kind].map((fixture) => toCase<AttentionConfigs64[Kind]>(fixture));
}
