/** The steps of `npm run train`, timed as it takes them: batch, forward, backward, clipping and AdamW. */

import { DEFAULT_CONFIG, type TrainConfig } from '../gpt/config.js';
import { splitText, type TextData, VOCABULARIES } from '../gpt/data.js';
import { Random } from '../gpt/random.js';
import type { Run } from '../gpt/run.js';
import type { Case, Contestant } from './cases.js';
import { COUNTED, type Counted, DEFAULT, type MeasuredModel, TINY, WIDE } from './models.js';
import type { Subject } from './subject.js';
import { attentionWork, linearWork, type Passes, sasWork, sum, sumPasses, type Work } from './work.js';

const SMALL_CONFIG: TrainConfig = { ...DEFAULT_CONFIG, width: 64, seq: 32 };

/** Attention over projected q, k, v and what follows it, C -> C. */
function attendingWork(config: TrainConfig, attention: Counted): Passes {
  const { batch, seq, width, heads, simHeads, simHeadDim, kernel } = config;
  const headDim = width / heads;
  const sizes = { heads, headDim, simHeads, simHeadDim, kernelSize: kernel };
  switch (attention) {
    case 'mha':
      return sumPasses([
        attentionWork({ batch, length: seq, heads, width: headDim, valueWidth: headDim }),
        linearWork(batch * seq, width, width),
      ]);
    case 'sas':
      return sasWork(batch, seq, sizes);
    case 'sas-linear':
      return sasWork(batch, seq, { ...sizes, kernelSize: 1 });
    case 'sas-heads':
      return sasWork(batch, seq, { ...sizes, simHeadDim: headDim }, 4, 'heads');
    case 'sas-features':
      return sasWork(batch, seq, { ...sizes, simHeads: heads }, 4, 'features');
  }
}

/**
 * Matrix work of one step, forward and backward; norms, embeddings, GELU, the loss and AdamW do not count:
 *
 *   layers * (3 projections C -> C + SAS block (expansions, attention, C -> C) + MLP C -> F -> C) + head C -> vocabulary
 *
 * (multi-head attention: its attention and C -> C instead of the SAS block)
 * on B*T rows, where backward is twice forward, 2.5 times for attention.
 */
export function stepWork(config: TrainConfig, attention: Counted = 'sas'): Work {
  const { batch, seq, width, layers } = config;
  const hidden = config.hidden ?? 4 * width;
  const linear = (inputs: number, outputs: number) => linearWork(batch * seq, inputs, outputs);
  const projections = [linear(width, width), linear(width, width), linear(width, width)];
  const mlp = [linear(width, hidden), linear(hidden, width)];
  const block = sumPasses([...projections, attendingWork(config, attention), ...mlp]);
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

type Step = Contestant & { dispose(): void };
type Wishes = Pick<Contestant, 'target' | 'speedup'>;

/** The model is made when its first step is taken. */
export function step(
  { startRun, disposeRun, enqueueStep, device }: Subject,
  name: string,
  config: TrainConfig,
  attention: Counted = 'sas',
  wishes: Wishes = {},
): Step {
  let started: { run: Run; data: TextData } | undefined;
  return {
    name,
    work: { ...stepWork(config, attention), tokens: config.batch * config.seq },
    ...wishes,
    run() {
      started ??= { run: startRun(config, attention, device), data: randomText(config.seq) };
      const { loss, gradNorm } = enqueueStep(started.run, started.data);
      loss.dispose();
      gradNorm.dispose();
    },
    dispose() {
      if (started) disposeRun(started.run);
      started = undefined;
    },
  };
}

/** A case of steps, whose models go when it is done. */
const stepCase = (facts: Pick<Case, 'name' | 'length' | 'unit' | 'slow'>, contestants: readonly Step[]): Case => ({
  ...facts,
  contestants,
  dispose() {
    for (const contestant of contestants) contestant.dispose();
  },
});

export function defaultStepCases(subject: Subject): Case[] {
  const name = 'training step, default model';
  return [
    stepCase({ name, length: DEFAULT_CONFIG.seq, unit: 'percent' }, [
      step(subject, 'fused', DEFAULT_CONFIG, 'sas', { target: 60 }),
    ]),
  ];
}

/** Is a small step as good per FLOP? It has fewer of them to spread its fixed costs over. */
export function smallStepCases(subject: Subject): Case[] {
  const name = `training step, ${SMALL_CONFIG.width} wide`;
  return [
    stepCase({ name, length: SMALL_CONFIG.seq, unit: 'ratio' }, [
      step(subject, 'default step', DEFAULT_CONFIG),
      step(subject, 'small step', SMALL_CONFIG, 'sas', { target: 0.5 }),
    ]),
  ];
}

/** A SAS step as a multiple of an MHA step, wanted to be at most `wanted` times what the FLOPs are a multiple of. */
function ratioCase(subject: Subject, model: MeasuredModel, wanted: number, slow: boolean): Case {
  const [mha, sas] = [model.configOf('mha'), model.configOf('sas')];
  const target = Number(((wanted * stepWork(sas, 'sas').flops) / stepWork(mha, 'mha').flops).toFixed(2));
  return stepCase({ name: `SAS step / MHA step, ${model.name}`, length: sas.seq, unit: 'times', slow }, [
    step(subject, 'MHA', mha, 'mha'),
    step(subject, 'SAS', sas, 'sas', { target }),
  ]);
}

export const stepRatioCases = (subject: Subject): Case[] => [
  ratioCase(subject, TINY, 0.9, false),
  ratioCase(subject, DEFAULT, 0.9, false),
  ratioCase(subject, WIDE, 1, true),
];

/** How much faster than another checkout's steps these are wished to be. */
const SPEEDUPS = { sas: 1.3, mha: 1.1 } as const;

/** Tokens per second of training: for comparisons with another checkout. */
export const throughputCases = (subject: Subject): Case[] =>
  [TINY, DEFAULT].map((model) =>
    stepCase(
      { name: `tokens/s of training, ${model.name}`, length: model.configOf('sas').seq, unit: 'tokensPerSecond' },
      COUNTED.map((attention) =>
        step(subject, attention, model.configOf(attention), attention, {
          speedup: attention === 'mha' ? SPEEDUPS.mha : SPEEDUPS.sas,
        }),
      ),
    ),
  );
