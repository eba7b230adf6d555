/** All cases, in the order of the report. */
import type { Device } from '../index.js';
import { attentionCases, bf16Cases, type Case, expandCases, linearCases, moduleCases, smallCases } from './cases.js';
import { defaultStepCases, smallStepCases } from './step_cases.js';

export interface Selection {
  readonly lengths: readonly number[];
  /** Only cases whose name contains it. */
  readonly filter: string;
}

const BY_LENGTH = [expandCases, attentionCases, linearCases, moduleCases];
/** Of one size, whatever the lengths are. */
const FIXED = [
  defaultStepCases,
  smallStepCases,
  (device: Device) => bf16Cases(512, device),
  (device: Device) => smallCases(256, device),
];

/** Each group of cases is built, with its inputs, when it is reached. */
export function* casesOf({ lengths, filter }: Selection, device: Device): Generator<Case> {
  const makers = [...BY_LENGTH.flatMap((make) => lengths.map((length) => (on: Device) => make(length, on))), ...FIXED];
  for (const make of makers) {
    for (const item of make(device)) if (item.name.includes(filter)) yield item;
  }
}
