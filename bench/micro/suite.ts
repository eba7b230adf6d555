/** All cases, in the order of the report. */
import { attentionCases, bf16Cases, type Case, expandCases, linearCases, moduleCases, smallCases } from './cases.js';
import { defaultStepCases, smallStepCases } from './train_cases.js';

export interface Selection {
  readonly lengths: readonly number[];
  /** Only cases whose name contains it. */
  readonly filter: string;
}

const BY_LENGTH = [expandCases, attentionCases, linearCases, moduleCases];
/** Of one size, whatever the lengths are. */
const FIXED = [defaultStepCases, smallStepCases, () => bf16Cases(512), () => smallCases(256)];

/** Each group of cases is built, with its inputs, when it is reached. */
export function* casesOf({ lengths, filter }: Selection): Generator<Case> {
  const makers = [...BY_LENGTH.flatMap((make) => lengths.map((length) => () => make(length))), ...FIXED];
  for (const make of makers) {
    for (const item of make()) if (item.name.includes(filter)) yield item;
  }
}
