/** What is scored: any model that turns text into tokens and tokens into logits. */

import { loadCheckpoint, resumeRun } from '../../../lib/gpt/checkpoint.js';
import type { Tokens } from '../../../lib/gpt/data.js';
import { disposeRun, type Run } from '../../../lib/gpt/run.js';
import { type Device, scope, Tensor } from '../../../lib/index.js';
import { encoderOf } from '../texts.js';
import type { LanguageModel } from './score.js';

/** A checkpoint of `npm run train` or `npm run compare`, with the tokenizer that it was trained with. */
export class CheckpointModel implements LanguageModel {
  /** Texts of a folder were joined by line breaks. */
  readonly boundary: number;

  private constructor(
    private readonly run: Run,
    private readonly tokens: (text: Uint8Array) => Tokens,
  ) {
    this.boundary = this.encode('\n')[0] as number;
  }

  /** Throws UsageError where the file is no checkpoint. */
  static async open(path: string, device: Device): Promise<CheckpointModel> {
    const checkpoint = await loadCheckpoint(path);
    const { config } = checkpoint.meta;
    return new CheckpointModel(resumeRun(checkpoint, config, device), await encoderOf(config.tokenizer));
  }

  get contextLength(): number {
    return this.run.config.seq;
  }

  get vocabulary(): number {
    return this.run.model.config.vocabulary;
  }

  /** What the results belong to. */
  get facts() {
    const { attention, step, model, config } = this.run;
    return { attention, steps: step, parameters: model.parameterCount, dtype: config.dtype, contextLength: config.seq };
  }

  encode(text: string): number[] {
    return [...this.tokens(new TextEncoder().encode(text))];
  }

  async logits(tokens: Int32Array, length: number): Promise<Float32Array> {
    const { model, device } = this.run;
    const logits = scope(() => {
      const input = Tensor.from(tokens, [tokens.length / length, length], { device });
      return model.forward(input, { save: false }).logits; // [N,T,V]
    });
    try {
      return (await logits.data()) as Float32Array;
    } finally {
      logits.dispose();
    }
  }

  dispose(): void {
    disposeRun(this.run);
  }
}
