/** Checks and times one contest: both sides must agree, then take turns. */
import { setTimeout as sleep } from 'node:timers/promises';
import { norm, relativeError } from '../../../lib/measure/relative_error.js';
import { type Spread, spread } from '../../../lib/measure/timing.js';
import type { Results, Side } from './contest.js';

/** Largest relative errors that pass: ||rival - ours|| / ||ours|| per tensor, f32 on both sides. */
export const LIMITS = { output: 1e-4, gradient: 1e-3 } as const;

/** Worst relative error of the output and, with a backward pass, of the gradients. */
export interface Errors {
  readonly output: number;
  readonly gradient: number | null;
}

export function errorsOf(rival: Results, ours: Results): Errors {
  const errors = Object.entries(ours).map(([name, reference]) => {
    const actual = rival[name] ?? new Float32Array();
    // Softmax ignores what all keys share: this gradient is 0, and its size that of the terms that cancel.
    const scaleFrom = name === 'sas_k.3.process.bias' ? ours['sas_k.2.bias'] : undefined;
    return { name, error: relativeError(actual, reference, scaleFrom && norm(scaleFrom)) };
  });
  // Math.max keeps a NaN.
  const worst = (kept: typeof errors) => Math.max(...kept.map(({ error }) => error));
  const gradients = errors.filter(({ name }) => name !== 'output');
  return {
    output: worst(errors.filter(({ name }) => name === 'output')),
    gradient: gradients.length > 0 ? worst(gradients) : null,
  };
}

/** In words, or undefined where both sides agree. */
export function disagreement({ output, gradient }: Errors): string | undefined {
  if (!(output <= LIMITS.output)) return `its output is wrong: relative error ${output.toExponential(1)}`;
  if (gradient !== null && !(gradient <= LIMITS.gradient)) {
    return `its gradients are wrong: relative error ${gradient.toExponential(1)}`;
  }
  return undefined;
}

export interface Effort {
  /** Samples per side, and of a run that takes more than 0.2 s. */
  readonly samples: number;
  readonly slowSamples: number;
  /** Shortest sample in seconds; faster work is repeated inside one sample. */
  readonly minSeconds: number;
  /** Seconds before each sample in which the other side's threads stop looking for work and sleep. */
  readonly pause: number;
}

export interface Measured {
  /** Seconds per run. */
  readonly rival: Spread;
  readonly ours: Spread;
  /** Rival by ours, of each pair of neighbours in time. */
  readonly ratio: Spread;
  readonly samples: number;
}

/** rival, ours, rival, ours, ...: a machine whose speed drifts is fair to both. */
export async function measure(rival: Side, ours: Side, effort: Effort): Promise<Measured> {
  const sides = [rival, ours] as const;
  const rested = async (side: Side, repeats: number) => {
    await sleep(1000 * effort.pause);
    return side.sample(repeats);
  };
  const plans: { side: Side; once: number; repeats: number }[] = [];
  for (const side of sides) {
    await rested(side, 2); // first use: memory is mapped, code is compiled
    const once = await rested(side, 1);
    plans.push({ side, once, repeats: Math.max(1, Math.ceil(effort.minSeconds / once)) });
  }
  const samples = plans.some(({ once }) => once > 0.2) ? effort.slowSamples : effort.samples;
  const pairs: [rival: number, ours: number][] = [];
  for (let i = 0; i < samples; ++i) {
    const pair: number[] = [];
    for (const { side, repeats } of plans) pair.push(await rested(side, repeats));
    pairs.push(pair as [number, number]);
  }
  return {
    rival: spread(pairs.map(([seconds]) => seconds)),
    ours: spread(pairs.map(([, seconds]) => seconds)),
    ratio: spread(pairs.map(([theirs, own]) => theirs / own)),
    samples,
  };
}
