// Models and sample tasks for the tests of the evaluation.
import { mkdtempSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import type { LanguageModel } from '../../../../bench/quality/eval/score.js';
import { saveCheckpoint } from '../../../../lib/gpt/checkpoint.js';
import { type Attention, DEFAULT_CONFIG, type TrainConfig } from '../../../../lib/gpt/config.js';
import type { TextData } from '../../../../lib/gpt/data.js';
import { train } from '../../../../lib/gpt/loop.js';
import { disposeRun, startRun } from '../../../../lib/gpt/run.js';
import { getDevice } from '../../../../lib/index.js';

export const sample = (name: string): string => join(import.meta.dirname, 'samples', name);

/** Trained for a few steps on one sentence; its window is 48 bytes, shorter than some contexts and choices. */
export async function tinyCheckpoint(attention: Attention, seq = 48): Promise<string> {
  const path = join(mkdtempSync(join(tmpdir(), 'sas-eval-')), 'checkpoint.safetensors');
  const sentence = 'Question: What do bees make from nectar?\nAnswer: honey, and wax for the comb.\n';
  const text = Buffer.from(sentence.repeat(20));
  const data: TextData = { name: 'bees', train: text, validation: text, hash: 'none' };
  const sizes = { width: 32, layers: 2, heads: 2, simHeads: 4, simHeadDim: 24, kernel: 3, seq, batch: 4 };
  const config: TrainConfig = { ...DEFAULT_CONFIG, ...sizes, attentions: [attention], steps: 30, lr: 1e-2 };
  const run = startRun(config, attention, getDevice('cpu'));
  const silent = { onStep: () => {}, onValidation: () => {}, saveCheckpoint: async () => {}, shouldStop: () => false };
  await train(run, data, silent);
  await saveCheckpoint(path, run, data.hash);
  disposeRun(run);
  return path;
}

/** A model of letters: bytes as tokens; the logit of a token is what `logit` says of it and of all tokens up to there. */
export class LetterModel implements LanguageModel {
  readonly vocabulary = 256;
  readonly boundary = 10;
  /** Shapes [N,T] that were asked for. */
  readonly calls: [number, number][] = [];

  constructor(
    readonly contextLength: number,
    private readonly logit: (token: number, seen: readonly number[]) => number,
  ) {}

  encode(text: string): number[] {
    return [...Buffer.from(text)];
  }

  async logits(tokens: Int32Array, length: number): Promise<Float32Array> {
    const rows = tokens.length / length;
    this.calls.push([rows, length]);
    const logits = new Float32Array(tokens.length * this.vocabulary);
    for (let i = 0; i < tokens.length; i++) {
      const seen = [...tokens.subarray(i - (i % length), i + 1)];
      for (let token = 0; token < this.vocabulary; token++)
        logits[i * this.vocabulary + token] = this.logit(token, seen);
    }
    return logits;
  }
}
