// The training loop: AdamW on random batches, validation on fixed ones.

import { Failure } from '../failure.js';
import { type Device, ops, scope, Tensor } from '../index.js';
import type { ActivationDType } from './config.js';
import { type Batch, sampleBatch, type TextData, validationBatches } from './data.js';
import type { Run } from './run.js';

/** Weight decay applies to every parameter, biases and norms too: PyTorch's AdamW as it comes. */
const ADAM_W = { beta1: 0.9, beta2: 0.95, eps: 1e-8, weightDecay: 0.1 };
const CLIP_NORM = 1;
const WARM_UP_STEPS = 50;
/** The learning rate ends at this part of its peak. */
const FINAL_LR = 0.1;
const VALIDATE_EVERY = 100;
const VALIDATION_BATCHES = 16;

/**
 * Gradients are scaled up by this on their way back. f16 loses what is below 6e-8, and the gradient of a logit is about
 * 1 / (vocabulary * tokens). Clipping and Adam undo the scale exactly: both are given it.
 */
const LOSS_SCALE: Record<ActivationDType, number> = { f32: 1, bf16: 1, f16: 1024 };

/** Linear warm-up, then a cosine to FINAL_LR * peak; `step` counts from 1. */
export function learningRate(step: number, steps: number, peak: number): number {
  const warmUp = Math.min(WARM_UP_STEPS, Math.ceil(steps / 4));
  if (step <= warmUp) return (peak * step) / warmUp;
  const progress = (step - warmUp) / (steps - warmUp);
  return peak * (FINAL_LR + (1 - FINAL_LR) * 0.5 * (1 + Math.cos(Math.PI * progress)));
}

/** What is computed is no longer a number: nothing of it may be kept. */
export class DivergedError extends Failure {}

/** Throws unless the value is a finite number; `what` says which it is. */
export function refuseDiverged(what: string, value: number): number {
  if (Number.isFinite(value)) return value;
  throw new DivergedError(`${what} is ${value}: the training diverged, try a lower --lr`);
}

export interface StepResult {
  step: number;
  loss: number;
  gradNorm: number;
  learningRate: number;
}

export interface TrainEvents {
  /** `seconds`: time this step took, validation not counted. */
  onStep(result: StepResult, seconds: number): void;
  onValidation(step: number, loss: number): void;
  /** After each validation and where the training stops. */
  saveCheckpoint(): Promise<void>;
  /** Asked after every step; true ends the training there. */
  shouldStop(): boolean;
}

/** What a step leaves on the device until it is read: two scalars. */
interface PendingStep {
  step: number;
  learningRate: number;
  loss: Tensor;
  gradNorm: Tensor;
}

function upload({ tokens, targets }: Batch, seq: number, device: Device): { tokens: Tensor; targets: Tensor } {
  const shape = [tokens.length / seq, seq];
  return { tokens: Tensor.from(tokens, shape, { device }), targets: Tensor.from(targets, shape, { device }) };
}

/** Forward, backward and update on a random batch. Everything is enqueued, nothing is waited for. */
export function enqueueStep(run: Run, data: TextData): PendingStep {
  const { model, moments, config, device } = run;
  const batch = sampleBatch(data.train, run.random, config.batch, config.seq);
  const step = ++run.step;
  const rate = learningRate(step, config.steps, config.lr);
  const lossScale = LOSS_SCALE[config.dtype];
  return scope(() => {
    const { tokens, targets } = upload(batch, config.seq, device);
    const { logits, saved } = model.forward(tokens);
    const { loss, logSumExp } = ops.crossEntropy(logits, targets);
    const gradLoss = Tensor.from([lossScale], [], { device });
    const gradLogits = ops.crossEntropyBackward(gradLoss, { logits, targets, logSumExp });
    const gradients = model.backward(gradLogits, saved);

    const states = [...model.parameters].map(([name, parameter]) => {
      const gradient = gradients.get(name);
      const moment = moments.get(name);
      if (!gradient || !moment) throw new Error(`no gradient for '${name}'`);
      return { parameter, gradient, firstMoment: moment.first, secondMoment: moment.second };
    });
    const gradNorm = ops.clipGradNorm(
      states.map(({ gradient }) => gradient),
      CLIP_NORM * lossScale,
    );
    ops.adamW(states, { ...ADAM_W, eps: ADAM_W.eps * lossScale, lr: rate, step });
    return { step, learningRate: rate, loss, gradNorm };
  });
}

async function readStep({ step, learningRate, loss, gradNorm }: PendingStep, lossScale: number): Promise<StepResult> {
  const [[lossValue = Number.NaN], [norm = Number.NaN]] = await Promise.all([loss.data(), gradNorm.data()]);
  loss.dispose();
  gradNorm.dispose();
  refuseDiverged(`the loss of step ${step}`, lossValue);
  refuseDiverged(`the gradient norm of step ${step}`, norm);
  return { step, loss: lossValue, gradNorm: norm / lossScale, learningRate };
}

/** Mean loss over fixed batches of the validation text, the same for every model and at every time. Throws DivergedError. */
export async function validate({ model, config, device, step }: Run, data: TextData): Promise<number> {
  const batches = validationBatches(data.validation, VALIDATION_BATCHES, config.batch, config.seq);
  const enqueue = (batch: Batch) =>
    scope(() => {
      const { tokens, targets } = upload(batch, config.seq, device);
      return ops.crossEntropy(model.forward(tokens, { save: false }).logits, targets).loss;
    });
  const read = async (loss: Tensor) => {
    const [value = Number.NaN] = await loss.data();
    loss.dispose();
    return value;
  };
  let sum = 0;
  let pending: Tensor | undefined;
  // One batch is queued while the one before computes.
  for (const batch of batches) {
    const next = enqueue(batch);
    if (pending) sum += await read(pending);
    pending = next;
  }
  if (pending) sum += await read(pending);
  return refuseDiverged(`the validation loss after step ${step}`, sum / batches.length);
}

/** Trains until `config.steps` or until asked to stop; says whether it got to the end. Throws DivergedError. */
export async function train(run: Run, data: TextData, events: TrainEvents): Promise<boolean> {
  const { config } = run;
  const lossScale = LOSS_SCALE[config.dtype];
  let since = performance.now();
  let pending: PendingStep | undefined;
  const flush = async () => {
    if (!pending) return;
    const result = await readStep(pending, lossScale);
    pending = undefined;
    const now = performance.now();
    events.onStep(result, (now - since) / 1000);
    since = now;
  };

  let savedStep = -1;
  const save = async () => {
    if (savedStep !== run.step) await events.saveCheckpoint();
    savedStep = run.step;
  };

  while (run.step < config.steps && !events.shouldStop()) {
    const next = enqueueStep(run, data);
    // The loss of the step before is read while this one computes: the device never waits for us.
    await flush();
    pending = next;
    if (run.step % VALIDATE_EVERY === 0 || run.step === config.steps) {
      await flush();
      events.onValidation(run.step, await validate(run, data));
      await save();
      since = performance.now();
    }
  }
  await flush();
  await save();
  return run.step === config.steps;
}
