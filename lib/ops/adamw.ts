import { binding } from '../binding.js';
import * as check from '../checks.js';
import { operands, type Tensor } from '../tensor.js';

/** One parameter and what AdamW keeps of it: f32 tensors of one shape. */
export interface AdamWState {
  parameter: Tensor;
  gradient: Tensor;
  /** Starts as zeros. */
  firstMoment: Tensor;
  /** Starts as zeros. */
  secondMoment: Tensor;
}

/** Settings of one step. */
export interface AdamWOptions {
  /** The learning rate. */
  lr: number;
  /** Default 0.9. */
  beta1?: number;
  /** Default 0.999. */
  beta2?: number;
  /** Default 1e-8. */
  eps?: number;
  /** Decoupled from the gradient. Default 0.01. */
  weightDecay?: number;
  /** 1 for the first step. */
  step: number;
}

const roles = ['parameter', 'gradient', 'firstMoment', 'secondMoment'] as const;

/**
 * One AdamW step, in place on parameters and moments (Loshchilov and Hutter, arXiv 1711.05101; the equations of PyTorch's AdamW).
 * A parameter that is used twice (tied weights) has one state, whose gradient is the sum of the gradients of its uses (`add`).
 */
export function adamW(states: readonly AdamWState[], options: AdamWOptions): void {
  const op = check.call('adamW', arguments.length, 2);
  const named: Record<string, Tensor> = {};
  const list = check.list(op, 'states', states);
  list.forEach((state, i) => {
    const given = check.record(op, `states[${i}]`, state, roles);
    for (const role of roles) named[`states[${i}].${role}`] = given[role];
  });
  const { buffers } = operands(op, named);
  const raw = list.map(({ parameter }, i) => {
    const of = (role: keyof AdamWState) => {
      const name = `states[${i}].${role}`;
      check.shape(op, name, named[name] as Tensor, parameter.shape, 'the shape of the parameter');
      check.dtype(op, name, named[name] as Tensor, 'f32');
      return buffers[name] as NonNullable<(typeof buffers)[string]>;
    };
    return {
      parameter: of('parameter'),
      gradient: of('gradient'),
      firstMoment: of('firstMoment'),
      secondMoment: of('secondMoment'),
    };
  });
  const known = ['lr', 'beta1', 'beta2', 'eps', 'weightDecay', 'step'] as const;
  const { lr, beta1 = 0.9, beta2 = 0.999, eps = 1e-8, weightDecay = 0.01, step } = check.options(op, options, known);
  check.finite(op, 'lr', lr, { min: 0 });
  check.finite(op, 'beta1', beta1, { min: 0, below: 1 });
  check.finite(op, 'beta2', beta2, { min: 0, below: 1 });
  check.finite(op, 'eps', eps, { min: 0 });
  check.finite(op, 'weightDecay', weightDecay, { min: 0 });
  check.integer(op, 'step', step, { min: 1 });
  binding.adamW(raw, lr, beta1, beta2, eps, weightDecay, step);
}
