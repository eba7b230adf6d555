/** What is measured. Cases know the library only through this: it may be that of another checkout (`npm run bench -- --against`). */
import type { enqueueStep } from '../gpt/loop.js';
import type { disposeRun, startRun } from '../gpt/run.js';
import type * as library from '../index.js';

/** The library of one checkout, its training step, and one of its devices. */
export interface Subject extends Pick<typeof library, 'ops' | 'SasAttention' | 'scope' | 'Tensor'> {
  readonly startRun: typeof startRun;
  readonly disposeRun: typeof disposeRun;
  readonly enqueueStep: typeof enqueueStep;
  readonly device: library.Device;
}
