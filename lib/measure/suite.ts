/** All cases, in the order of the report. */
import {
  attentionCases,
  bf16Cases,
  type Case,
  exampleAttentionCases,
  expandCases,
  linearCases,
  moduleCases,
  smallCases,
} from './cases.js';
import { stepShareCases } from './share_cases.js';
import { defaultStepCases, smallStepCases, stepRatioCases, throughputCases } from './step_cases.js';
import type { Subject } from './subject.js';

export interface Selection {
  readonly lengths: readonly number[];
  /** Only cases whose name contains it. */
  readonly filter: string;
  /** Leaves out what takes long, unless `filter` names something. */
  readonly quick?: boolean;
  /** For a comparison with another checkout, which has cases of its own. */
  readonly against?: boolean;
}

const BY_LENGTH = [expandCases, attentionCases, linearCases, moduleCases];
/** Of one size, whatever the lengths are. */
const FIXED = [
  exampleAttentionCases,
  defaultStepCases,
  smallStepCases,
  stepRatioCases,
  stepShareCases,
  (subject: Subject) => bf16Cases(512, subject),
  (subject: Subject) => smallCases(256, subject),
];
const AGAINST = [throughputCases];

/** Each group of cases is built, with its inputs, when it is reached; a case is freed when the next one is asked for. */
export function* casesOf({ lengths, filter, quick, against }: Selection, subject: Subject): Generator<Case> {
  const byLength = BY_LENGTH.flatMap((make) => lengths.map((length) => (of: Subject) => make(length, of)));
  for (const make of [...byLength, ...FIXED, ...(against ? AGAINST : [])]) {
    for (const item of make(subject)) {
      if (item.name.includes(filter) && !(quick && item.slow && filter === '')) yield item;
      item.dispose?.();
    }
  }
}
