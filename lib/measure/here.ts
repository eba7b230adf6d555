/** This package as what is measured. Apart from `Subject`, since it loads the addon. */
import { enqueueStep } from '../gpt/loop.js';
import { disposeRun, startRun } from '../gpt/run.js';
import { type Device, ops, SasAttention, scope, Tensor } from '../index.js';
import type { Subject } from './subject.js';

export const subjectOn = (device: Device): Subject => ({
  ops,
  SasAttention,
  scope,
  Tensor,
  startRun,
  disposeRun,
  enqueueStep,
  device,
});
