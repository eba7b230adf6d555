/** What is scored: any model that turns text into tokens and tokens into logits. */
import { type Device, scope, Tensor } from 'sas-attention';
import { loadCheckpoint, resumeRun } from '../../lib/cli/train/checkpoint.js';
import { disposeRun, type Run } from '../../lib/cli/train/run.js';
import type { LanguageModel } from './score.js';

/** A checkpoint of `npm run train`: one token per byte of UTF-8. */
export class CheckpointModel implements LanguageModel {
  /** Texts of a folder were joined by line breaks. */
  readonly boundary = 10;

  private constructor(private readonly run: Run) {}

  /** Throws UsageError where the file is no checkpoint. */
  static async open(path: string, device: Device): Promise<CheckpointModel> {
    const checkpoint = await loadCheckpoint(path);
    return new CheckpointModel(resumeRun(checkpoint, checkpoint.meta.config, device));
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
    return [...new TextEncoder().encode(text)];
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
