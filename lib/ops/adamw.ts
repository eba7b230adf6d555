import { binding } from '../binding.js';
import * as check from '../checks.js';
import { listed, type Tensor } from '../tensor.js';

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
  /** i32 []. If given, a step with a gradient that is NaN or infinite changes nothing but adds 1 here. */
  skipped?: Tensor;
}

/** In the order of the lists that native code takes. */
const roles = ['parameter', 'gradient', 'firstMoment', 'secondMoment'] as const;

/**
 * One AdamW step, in place on parameters and moments (Loshchilov and Hutter, arXiv 1711.05101; the equations of PyTorch's AdamW).
 * Without `skipped`, one gradient that is not finite (an overflow in f16, say) makes parameters NaN for good. A gradient whose op
 * failed changes nothing in any case: parameters and moments keep their values, and the next wait on the device rejects.
 *
 * What is written shares no memory with another operand: ArgumentError. The gradient of a parameter that is used twice (tied weights) is
 * the sum of both gradients, in one state.
 */
export function adamW(states: readonly AdamWState[], options: AdamWOptions): void {
  const op = check.call('adamW', arguments.length, 2);
  const list = check.list(op, 'states', states);
  let at = 0;
  const state = () => `states[${at}]`;
  for (at = 0; at < list.length; at++) check.record(op, state, list[at] as AdamWState, roles);
  const tensors: Tensor[] = [];
  for (const role of roles) for (const state of list) tensors.push(state[role]);
  const known = ['lr', 'beta1', 'beta2', 'eps', 'weightDecay', 'step', 'skipped'] as const;
  const {
    lr,
    beta1 = 0.9,
    beta2 = 0.999,
    eps = 1e-8,
    weightDecay = 0.01,
    step,
    skipped,
  } = check.options(op, options, known);
  const count = list.length;
  const name = (i: number) =>
    i === tensors.length ? 'skipped' : `states[${i % count}].${roles[Math.floor(i / count)]}`;
  const { buffers } = listed(op, skipped === undefined ? tensors : [...tensors, skipped], name);
  const here = () => name(at);
  for (at = 0; at < tensors.length; at++) {
    const tensor = tensors[at] as Tensor;
    check.shape(op, here, tensor, (tensors[at % count] as Tensor).shape, 'the shape of the parameter');
    check.dtype(op, here, tensor, 'f32');
  }
  if (skipped) {
    check.shape(op, 'skipped', skipped, []);
    check.dtype(op, 'skipped', skipped, 'i32');
  }
  check.finite(op, 'lr', lr, { min: 0 });
  check.finite(op, 'beta1', beta1, { min: 0, below: 1 });
  check.finite(op, 'beta2', beta2, { min: 0, below: 1 });
  check.finite(op, 'eps', eps, { min: 0 });
  check.finite(op, 'weightDecay', weightDecay, { min: 0 });
  check.integer(op, 'step', step, { min: 1 });
  const of = (role: number) => buffers.slice(role * count, (role + 1) * count);
  binding.adamW(of(0), of(1), of(2), of(3), buffers[tensors.length] ?? null, lr, beta1, beta2, eps, weightDecay, step);
}
