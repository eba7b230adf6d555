/** What a training step spends on ops that only move bytes. */

import { VOCABULARIES } from '../gpt/data.js';
import { Random } from '../gpt/random.js';
import type { Tensor } from '../index.js';
import { type Case, toolsOf } from './cases.js';
import { DEFAULT } from './models.js';
import { step } from './step_cases.js';
import type { Subject } from './subject.js';

/** Ops of one kind, each as often as a step has it, on tensors of their own as there: nothing is found in a cache twice. */
interface Part {
  readonly name: string;
  /** Of the tensors read and written, each time they are. */
  readonly bytes: number;
  enqueue(): void;
}

const several = <T>(count: number, make: () => T): T[] => Array.from({ length: count }, make);

/** The parts of a step of the default model with SAS, and what frees their tensors. */
function partsOf(subject: Subject): { parts: Part[]; dispose(): void } {
  const { ops, Tensor, device } = subject;
  const kept: Tensor[] = [];
  const keep = (tensor: Tensor) => {
    kept.push(tensor);
    return tensor;
  };
  const randn = (...shape: number[]) => keep(toolsOf(subject).randn(shape));
  const config = DEFAULT.configOf('sas');
  const { batch, seq, width, layers, hidden, tokenizer } = config;
  const vocabulary = VOCABULARIES[tokenizer];
  const inner = hidden ?? 4 * width;
  /** Of [batch, seq, features]. */
  const bytes = (features: number) => 4 * batch * seq * features;

  const norms = several(2 * layers + 1, () => {
    const [x, gradOutput, weight, bias] = [
      randn(batch, seq, width),
      randn(batch, seq, width),
      randn(width),
      randn(width),
    ];
    const { output, mean, rstd } = ops.layerNorm(x, weight, bias);
    output.dispose();
    return { bias, gradOutput, saved: { x, weight, mean: keep(mean), rstd: keep(rstd) } };
  });
  const activations = several(layers, () => ({ x: randn(batch, seq, inner), gradOutput: randn(batch, seq, inner) }));

  const random = Random.seeded(0, 'targets');
  const indices = Int32Array.from({ length: batch * seq }, () => random.below(vocabulary));
  const logits = randn(batch, seq, vocabulary);
  const targets = keep(Tensor.from(indices, [batch, seq], { device }));
  const { loss, logSumExp } = ops.crossEntropy(logits, targets);
  const gradLoss = keep(Tensor.from([1], [], { device }));
  keep(loss);
  keep(logSumExp);

  const run = subject.startRun(config, 'sas', device);
  const shapes = [...run.model.parameters.values()].map(({ shape }) => shape);
  subject.disposeRun(run);
  const states = shapes.map((shape) => ({
    parameter: randn(...shape),
    gradient: randn(...shape),
    firstMoment: keep(Tensor.zeros(shape, { device })),
    secondMoment: keep(Tensor.zeros(shape, { device })),
  }));
  const gradients = states.map(({ gradient }) => gradient);
  const parameters = gradients.reduce((count, { size }) => count + size, 0);
  let updates = 0;

  const parts: Part[] = [
    {
      name: 'norms',
      bytes: norms.length * 5 * bytes(width), // x, y; gradY, x, gradX
      enqueue() {
        for (const { saved, bias } of norms) ops.layerNorm(saved.x, saved.weight, bias);
        for (const { gradOutput, saved } of norms) ops.layerNormBackward(gradOutput, saved);
      },
    },
    {
      name: 'GELU',
      bytes: layers * 5 * bytes(inner),
      enqueue() {
        for (const { x } of activations) ops.gelu(x);
        for (const { x, gradOutput } of activations) ops.geluBackward(gradOutput, x);
      },
    },
    {
      name: 'cross-entropy',
      bytes: 3 * bytes(vocabulary), // logits; logits, gradLogits
      enqueue() {
        ops.crossEntropy(logits, targets);
        ops.crossEntropyBackward(gradLoss, { logits, targets, logSumExp });
      },
    },
    {
      name: 'optimiser',
      // Clipping reads the gradients, once it has clipped them; AdamW reads four tensors and writes three.
      bytes: 8 * 4 * parameters,
      enqueue() {
        ops.clipGradNorm(gradients, 1);
        ops.adamW(states, { lr: 1e-4, step: ++updates });
      },
    },
  ];
  return {
    parts,
    dispose() {
      for (const tensor of kept) tensor.dispose();
    },
  };
}

/** Each part, run alone, as a share of the step; and all of them, one after the other. */
export function stepShareCases(subject: Subject): Case[] {
  const { parts, dispose } = partsOf(subject);
  const whole = step(subject, 'step', DEFAULT.configOf('sas'));
  const contestant = (name: string, own: readonly Part[], target?: number) => ({
    name,
    work: { flops: 0, bytes: own.reduce((sum, { bytes }) => sum + bytes, 0) },
    target,
    run: () =>
      subject.scope(() => {
        for (const { enqueue } of own) enqueue();
      }),
  });
  return [
    {
      name: 'share of the step, default model',
      length: DEFAULT.configOf('sas').seq,
      unit: 'share',
      contestants: [whole, ...parts.map((part) => contestant(part.name, [part])), contestant('together', parts, 6)],
      dispose() {
        whole.dispose();
        dispose();
      },
    },
  ];
}
