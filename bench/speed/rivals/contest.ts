/** What is compared with whom, and what it takes to be a side of a comparison. */
import { REFERENCE } from '../../../lib/measure/cases.js';

/** Heads of the plain attention: the reference before its simulation. */
export const { heads: HEADS, headDim: WIDTH } = REFERENCE;

/** What both sides compute, batch 1, f32. */
export interface Contest {
  readonly rival: string;
  /**
   * attention: softmax attention, HEADS heads of WIDTH. mha: the same and an output projection. sas: the whole SAS block at the
   * reference size.
   */
  readonly kind: 'attention' | 'mha' | 'sas';
  readonly length: number;
  readonly causal: boolean;
  /** Forward, then the gradients of q, k, v and of all parameters for a given gradient of the output. */
  readonly backward: boolean;
  /** Where a rival has more than one way: its name. */
  readonly variant?: string;
  /** How many times as long as ours the rival is wanted to take. */
  readonly goal: number | null;
}

export function nameOf({ kind, length, causal, backward, variant }: Contest): string {
  const what = { attention: 'attention', mha: 'MHA', sas: 'SAS' }[kind];
  const pass = backward ? 'forward + backward' : 'forward';
  return `${what} ${pass} T=${length}${causal ? ' causal' : ''}${variant ? ` (${variant})` : ''}`;
}

/** Row-major. */
export interface HostTensor {
  readonly shape: readonly number[];
  readonly data: Float32Array;
}
export type HostTensors = Readonly<Record<string, HostTensor>>;

/** 'output' and, with a backward pass, the gradients by the names of what they are gradients of; layout as the inputs. */
export type Results = Readonly<Record<string, Float32Array>>;

export interface Side {
  results(): Promise<Results>;
  /** Seconds per run; each of the `repeats` runs is waited for before the next. */
  sample(repeats: number): Promise<number>;
}

/** What a rival is given. */
export interface Work {
  /** q, k and v [1, T, HEADS, WIDTH], and gradOutput [1, T, HEADS, WIDTH] (attention) or [1, T, HEADS * WIDTH]. */
  readonly inputs: {
    readonly q: HostTensor;
    readonly k: HostTensor;
    readonly v: HostTensor;
    readonly gradOutput: HostTensor;
  };
  /** By the names of the published module's state dict; none for attention. */
  readonly parameters: HostTensors;
}

export interface OpenRival {
  /** Its name and version, and what else decides its speed. */
  readonly version: string;
  side(contest: Contest, work: Work): Promise<Side>;
  close?(): void;
}

export interface Rival {
  readonly name: string;
  /** Throws, with the reason in one line, where the rival is not installed or does not start. */
  open(threads: number): Promise<OpenRival>;
}

/** A side in this process. */
export async function sampleRuns(run: () => Promise<void>, repeats: number): Promise<number> {
  const start = performance.now();
  for (let i = 0; i < repeats; ++i) await run();
  return (performance.now() - start) / 1000 / repeats;
}

const attention = { kind: 'attention', backward: false } as const;
const sas = { kind: 'sas', length: 512, causal: true } as const;
const mha = { kind: 'mha', length: 512, causal: true } as const;
const short = { kind: 'attention', length: 256, causal: true } as const;

export const CONTESTS: readonly Contest[] = [
  { rival: 'onnxruntime-node', ...attention, length: 512, causal: false, goal: 1.2 },
  { rival: 'onnxruntime-node', ...attention, length: 512, causal: true, goal: 2.4 },
  { rival: 'onnxruntime-node', ...attention, length: 2048, causal: false, goal: 1.2 },
  { rival: 'onnxruntime-node', ...attention, length: 2048, causal: true, goal: 2.4 },
  { rival: 'onnxruntime-node', ...sas, backward: false, variant: 'standard ops', goal: 3 },
  { rival: 'onnxruntime-node', ...sas, backward: false, variant: 'its fused attention', goal: 3 },
  { rival: 'PyTorch', ...sas, backward: false, goal: 8 },
  { rival: 'PyTorch', ...sas, backward: true, goal: 8 },
  { rival: 'PyTorch', ...mha, backward: false, goal: null },
  { rival: 'PyTorch', ...mha, backward: true, goal: null },
  { rival: 'tfjs-wasm', ...short, backward: false, goal: null },
  { rival: 'tfjs-wasm', ...short, backward: true, goal: 60 },
  { rival: 'jax-js', ...short, backward: false, goal: null },
  { rival: 'jax-js', ...short, backward: true, goal: 15 },
];
