// Text generation: one byte at a time from the model's own distribution.

import { type Device, scope, Tensor } from '../index.js';
import type { Gpt } from './model.js';
import { Random } from './random.js';

export interface SampleOptions {
  prompt: Uint8Array;
  /** Bytes to generate. */
  length: number;
  /** Below 1: more likely bytes become more likely still. */
  temperature: number;
  seed: number;
  shouldStop?: () => boolean;
}

/** Index drawn with probability softmax(logits / temperature). */
function draw(logits: readonly number[], temperature: number, random: Random): number {
  const max = Math.max(...logits);
  const weights = logits.map((logit) => Math.exp((logit - max) / temperature));
  let rest = random.uniform() * weights.reduce((a, b) => a + b, 0);
  const chosen = weights.findIndex((weight) => {
    rest -= weight;
    return rest < 0;
  });
  return chosen < 0 ? weights.length - 1 : chosen;
}

/** The prompt and what follows it. */
export async function generate(model: Gpt, device: Device, options: SampleOptions): Promise<Uint8Array> {
  const random = Random.seeded(options.seed, 'sample');
  const text = [...options.prompt];
  for (let i = 0; i < options.length && !options.shouldStop?.(); i++) {
    const context = Int32Array.from(text.slice(-model.config.seq));
    const logits = scope(() => {
      const tokens = Tensor.from(context, [1, context.length], { device });
      return model.forward(tokens, { save: false }).logits; // [1,T,V]
    });
    const values = await logits.data();
    logits.dispose();
    text.push(draw([...values.subarray(-model.config.vocabulary)], options.temperature, random));
  }
  return Uint8Array.from(text);
}

/** Text for a terminal: no control characters besides line breaks and tabs, broken UTF-8 as the replacement sign. */
export function printable(bytes: Uint8Array): string {
  return new TextDecoder().decode(bytes).replace(/[^\P{Cc}\n\t]/gu, '\uFFFD');
}
