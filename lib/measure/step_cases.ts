/** The steps of `npm run train`, timed as it takes them: batch, forward, backward, clipping and AdamW. */

import { DEFAULT_CONFIG, type TrainConfig } from '../gpt/config.js';
import { splitText, type TextData, VOCABULARIES } from '../gpt/data.js';
import { enqueueStep } from '../gpt/loop.js';
import { Random } from '../gpt/random.js';
import { type Run, startRun } from '../gpt/run.js';
import type { Device } from '../index.js';
import type { Case, Contestant } from './cases.js';
import { attentionWork, linearWork, sasWork, sum, sumPasses, type Work } from './work.js';

const SMALL_CONFIG: TrainConfig = { ...DEFAULT_CONFIG, width: 64, seq: 32 };

/**
 * Matrix work of one step, forward and backward; norms, embeddings, GELU, the loss and AdamW do not count:
 *
 *   layers * (3 projections C -> C + SAS block (expansions, attention, C -> C) + MLP C -> 4C -> C) + head C -> vocabulary
 *
 * (multi-head attention: its attention and C -> C instead of the SAS block)
 * on B*T rows, where backward is twice forward, 2.5 times for attention.
 */
export function stepWork(config: TrainConfig, attention: 'sas' | 'mha' = 'sas'): Work {
  const { batch, seq, width, layers, heads, simHeads, simHeadDim, kernel } = config;
  const linear = (inputs: number, outputs: number) => linearWork(batch * seq, inputs, outputs);
  const sizes = { heads, headDim: width / heads, simHeads, simHeadDim, kernelSize: kernel };
  const projections = [linear(width, width), linear(width, width), linear(width, width)];
  const mlp = [linear(width, 4 * width), linear(4 * width, width)];
  const { headDim } = sizes;
  const multiHead = [
    attentionWork({ batch, length: seq, heads, width: headDim, valueWidth: headDim }),
    linear(width, width),
  ];
  const attending = attention === 'sas' ? [sasWork(batch, seq, sizes)] : multiHead;
  const block = sumPasses([...projections, ...attending, ...mlp]);
  const blocks = Array.from({ length: layers }, () => block);
  const { forward, backward } = sumPasses([...blocks, linear(width, VOCABULARIES[config.tokenizer])]);
  return sum([forward, backward]);
}

/** The time of a step does not depend on what is written. */
const randomText = (seq: number): TextData => {
  const random = Random.seeded(0, 'text');
  const bytes = Uint8Array.from({ length: 65_536 }, () => random.below(VOCABULARIES.bytes));
  return splitText('random bytes', bytes, seq);
};

/** The model is made when its first step is taken. */
function step(name: string, config: TrainConfig, device: Device, target?: number): Contestant {
  let started: { run: Run; data: TextData } | undefined;
  return {
    name,
    work: stepWork(config),
    target,
    run() {
      started ??= { run: startRun(config, 'sas', device), data: randomText(config.seq) };
      const { loss, gradNorm } = enqueueStep(started.run, started.data);
      loss.dispose();
      gradNorm.dispose();
    },
  };
}

export function defaultStepCases(device: Device): Case[] {
  return [
    {
      name: 'training step, default model',
      length: DEFAULT_CONFIG.seq,
      unit: 'percent',
      contestants: [step('fused', DEFAULT_CONFIG, device, 55)],
    },
  ];
}

/** Is a small step as good per FLOP? It has fewer of them to spread its fixed costs over. */
export function smallStepCases(device: Device): Case[] {
  return [
    {
      name: `training step, ${SMALL_CONFIG.width} wide`,
      length: SMALL_CONFIG.seq,
      unit: 'ratio',
      contestants: [step('default step', DEFAULT_CONFIG, device), step('small step', SMALL_CONFIG, device, 0.5)],
    },
  ];
}
