/** The rest of a training step at the sizes of a GPT of 125M parameters, and whole steps of that GPT. */

import { DEFAULT_CONFIG, type TrainConfig } from '../../../lib/gpt/config.js';
import { type TextData, VOCABULARIES } from '../../../lib/gpt/data.js';
import { enqueueStep } from '../../../lib/gpt/loop.js';
import { Random } from '../../../lib/gpt/random.js';
import { disposeRun, startRun } from '../../../lib/gpt/run.js';
import { getDevice, ops, Tensor } from '../../../lib/index.js';
import { stepWork } from '../../../lib/measure/step_cases.js';
import { batchesOf, elementSize, type GpuCase, inScope, lengthOf, type Prepared, randn } from './gpu_cases.js';

const WIDTH = 768;
const HIDDEN = 4 * WIDTH;
const VOCABULARY = VOCABULARIES.r50k;
/** Rows of logits in a case of the loss: 50,257 classes of 32,768 rows would be 3.3 GB in bf16. */
const LOSS_PART = 1 / 4;
const PARAMETERS = 124_000_000;

const integers = (shape: readonly number[], below: number, seed: number): Tensor => {
  const random = Random.seeded(seed, 'integers');
  const size = shape.reduce((a, b) => a * b, 1);
  return Tensor.from(
    Int32Array.from({ length: size }, () => random.below(below)),
    shape,
  );
};

/** One op that is bound by memory: no FLOPs are counted. */
function memoryCase(
  name: string,
  rows: number,
  prepare: (...args: Parameters<GpuCase['prepare']>) => Omit<Prepared, 'flops'>,
  length = lengthOf(rows),
): GpuCase {
  return {
    name,
    length,
    batches: batchesOf(rows, length),
    prepare: (...args) => ({ flops: 0, ...prepare(...args) }),
  };
}

/** Norms, GELU, the loss, embeddings, clipping and AdamW. */
export function trainingOpCases(tokens: number): GpuCase[] {
  const length = lengthOf(tokens);
  const wide = (batch: number, width: number) => [batch, length, width] as const;
  const lossCase = (name: string, prepare: Parameters<typeof memoryCase>[2]) =>
    memoryCase(name, tokens * LOSS_PART, prepare, length);
  return [
    memoryCase('layerNorm forward', tokens, (batch, dtype, own) => {
      const x = randn(own, wide(batch, WIDTH), dtype);
      const [weight, bias] = [randn(own, [WIDTH], 'f32'), randn(own, [WIDTH], 'f32')];
      return { bytes: 2 * elementSize(dtype) * x.size, run: inScope(() => void ops.layerNorm(x, weight, bias)) };
    }),
    memoryCase('layerNorm backward', tokens, (batch, dtype, own) => {
      const [x, gradOutput] = [randn(own, wide(batch, WIDTH), dtype), randn(own, wide(batch, WIDTH), dtype)];
      const [weight, bias] = [randn(own, [WIDTH], 'f32'), randn(own, [WIDTH], 'f32')];
      const { output, mean, rstd } = ops.layerNorm(x, weight, bias);
      output.dispose();
      const saved = { x, weight, mean: own(mean), rstd: own(rstd) };
      const bytes = 3 * elementSize(dtype) * x.size;
      return { bytes, run: inScope(() => void ops.layerNormBackward(gradOutput, saved)) };
    }),
    memoryCase('gelu forward', tokens, (batch, dtype, own) => {
      const x = randn(own, wide(batch, HIDDEN), dtype);
      return { bytes: 2 * elementSize(dtype) * x.size, run: inScope(() => void ops.gelu(x)) };
    }),
    memoryCase('gelu backward', tokens, (batch, dtype, own) => {
      const [x, gradOutput] = [randn(own, wide(batch, HIDDEN), dtype), randn(own, wide(batch, HIDDEN), dtype)];
      return { bytes: 3 * elementSize(dtype) * x.size, run: inScope(() => void ops.geluBackward(gradOutput, x)) };
    }),
    lossCase('crossEntropy forward', (batch, dtype, own) => {
      const logits = randn(own, wide(batch, VOCABULARY), dtype);
      const targets = own(integers([batch, length], VOCABULARY, 1));
      const bytes = elementSize(dtype) * logits.size;
      return { bytes, run: inScope(() => void ops.crossEntropy(logits, targets)) };
    }),
    lossCase('crossEntropy backward', (batch, dtype, own) => {
      const logits = randn(own, wide(batch, VOCABULARY), dtype);
      const targets = own(integers([batch, length], VOCABULARY, 1));
      const { loss, logSumExp } = ops.crossEntropy(logits, targets);
      own(loss);
      const saved = { logits, targets, logSumExp: own(logSumExp) };
      const gradLoss = own(Tensor.from([1], []));
      const bytes = 2 * elementSize(dtype) * logits.size;
      return { bytes, run: inScope(() => void ops.crossEntropyBackward(gradLoss, saved)) };
    }),
    memoryCase('embedding forward', tokens, (batch, dtype, own) => {
      const indices = own(integers([batch, length], VOCABULARY, 2));
      const table = randn(own, [VOCABULARY, WIDTH], 'f32');
      const positions = randn(own, [length, WIDTH], 'f32');
      const bytes = (elementSize(dtype) + 4) * indices.size * WIDTH;
      return { bytes, run: inScope(() => void ops.embedding(indices, table, positions, { dtype })) };
    }),
    memoryCase('embedding backward', tokens, (batch, dtype, own) => {
      const indices = own(integers([batch, length], VOCABULARY, 2));
      const gradOutput = randn(own, wide(batch, WIDTH), dtype);
      const sizes = { vocabulary: VOCABULARY, positions: length };
      const bytes = 2 * elementSize(dtype) * gradOutput.size + 4 * (VOCABULARY + length) * WIDTH;
      return { bytes, run: inScope(() => void ops.embeddingBackward(gradOutput, indices, sizes)) };
    }),
    memoryCase('clipGradNorm 124M', 512, (_batch, _dtype, own) => {
      const gradient = randn(own, [PARAMETERS], 'f32');
      // Clipped by the first run: from then on it is only read.
      return { bytes: 4 * PARAMETERS, run: inScope(() => void ops.clipGradNorm([gradient], 1)) };
    }),
    memoryCase('adamW 124M', 512, (_batch, _dtype, own) => {
      const [parameter, gradient] = [randn(own, [PARAMETERS], 'f32'), randn(own, [PARAMETERS], 'f32')];
      const [firstMoment, secondMoment] = [own(Tensor.zeros([PARAMETERS])), own(Tensor.zeros([PARAMETERS]))];
      const states = [{ parameter, gradient, firstMoment, secondMoment }];
      let step = 0;
      return { bytes: 7 * 4 * PARAMETERS, run: () => ops.adamW(states, { lr: 1e-4, step: ++step }) };
    }),
  ];
}

/** What does not depend on kernels: a call from start to end, and copies to the device and back. */
export function hostCases(): GpuCase[] {
  const small = 256;
  const large = 2 ** 24;
  const memory = (
    name: string,
    size: number,
    prepare: (x: Tensor, values: Float32Array) => Prepared['run'],
  ): GpuCase => ({
    name,
    length: size,
    batches: [1],
    prepare(_batch, _dtype, own) {
      const x = randn(own, [size], 'f32');
      return { flops: 0, bytes: 4 * size, run: prepare(x, new Float32Array(size).fill(1)) };
    },
  });
  return [
    memory('add, enqueued', small, (x) => inScope(() => void ops.add(x, x))),
    memory('add, awaited', small, (x) => async () => {
      const sum = ops.add(x, x);
      await sum.data();
      sum.dispose();
    }),
    memory('upload', large, (_x, values) => inScope(() => void Tensor.from(values, [large]))),
    memory('download', large, (x) => async () => void (await x.data())),
  ];
}

const GPT: TrainConfig = {
  ...DEFAULT_CONFIG,
  width: WIDTH,
  layers: 12,
  heads: 12,
  simHeads: 36,
  simHeadDim: 96,
  seq: 1024,
  tokenizer: 'r50k',
};

/** Whole steps, update included, of the GPT with SAS and with multi-head attention. */
export function stepCases(tokens: number, layers = GPT.layers): GpuCase[] {
  const attentions = ['sas', 'mha'] as const;
  return attentions.flatMap((attention) =>
    [tokens / GPT.seq, 1].map(
      (batch): GpuCase => ({
        name: `GPT ${attention} step, ${layers} layers, batch ${batch}`,
        length: GPT.seq,
        batches: batchesOf(batch * GPT.seq, GPT.seq),
        prepare(fitting, dtype, own) {
          const config: TrainConfig = { ...GPT, dtype, layers, batch: fitting, attentions: [attention] };
          const run = startRun(config, attention, getDevice());
          own({ dispose: () => disposeRun(run) });
          const random = Random.seeded(0, 'text');
          const train = Uint16Array.from({ length: 2 ** 20 }, () => random.below(VOCABULARY));
          const data: TextData = { name: 'random tokens', train, validation: train, hash: '' };
          return {
            flops: stepWork(config, attention).flops,
            run() {
              const { loss, gradNorm } = enqueueStep(run, data);
              loss.dispose();
              gradNorm.dispose();
            },
          };
        },
      }),
    ),
  );
}
