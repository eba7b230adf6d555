/** All that is timed on a GPU, in groups. Each group runs in a process of its own; the order is that of importance. */
import {
  attentionCases,
  expandCases,
  type Float,
  type GpuCase,
  lengthOf,
  linearCases,
  moduleCases,
  NAIVE_PART,
  REFERENCE_WIDTH,
} from './gpu_cases.js';
import { hostCases, stepCases, trainingOpCases } from './training_cases.js';

export interface Group {
  readonly cases: readonly GpuCase[];
  readonly dtypes: readonly Float[];
  /** Variables of the process. */
  readonly environment?: Readonly<Record<string, string>>;
}

const C = REFERENCE_WIDTH;
const all: readonly Float[] = ['bf16', 'f16', 'f32'];

/** `tokens` is the size of a batch. */
export const groupsOf = (tokens: number): Readonly<Record<string, Group>> => {
  const lengths = (...all: number[]) => [...new Set(all.map((length) => lengthOf(tokens, length)))];
  const linear = [...linearCases(C, C, tokens), ...linearCases(C, 4 * C, tokens)];
  return {
    attention: {
      cases: lengths(512, 1024, 2048, 4096, 8192).flatMap((length) => attentionCases('fused', length, tokens)),
      dtypes: ['bf16'],
    },
    expand: { cases: expandCases('fused', tokens), dtypes: all },
    SasAttention: { cases: lengths(512, 2048).flatMap((length) => moduleCases(length, tokens)), dtypes: all },
    steps: { cases: stepCases(tokens), dtypes: ['bf16'] },
    linear: { cases: linear, dtypes: all },
    'training ops': { cases: trainingOpCases(tokens), dtypes: ['bf16'] },
    'linear, built-in': {
      cases: linear.map((item) => ({ ...item, name: `built-in ${item.name}` })),
      dtypes: ['bf16', 'f32'],
      environment: { SAS_CUBLAS_PATH: 'off' },
    },
    'attention, other types': { cases: attentionCases('fused', lengthOf(tokens), tokens), dtypes: ['f16', 'f32'] },
    host: { cases: hostCases(), dtypes: ['f32'] },
    'short steps': { cases: stepCases(tokens, 2), dtypes: [] }, // for profilers
    naive: {
      cases: [
        ...attentionCases('naive', lengthOf(tokens * NAIVE_PART), tokens * NAIVE_PART),
        ...expandCases('naive', tokens * NAIVE_PART),
      ],
      dtypes: ['bf16'],
    },
  };
};
