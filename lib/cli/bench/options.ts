/** Options that every program of the benchmark has. */
import { UsageError } from '../../failure.js';

export const FLAGS = {
  check: { type: 'boolean', default: false },
  lengths: { type: 'string' },
  filter: { type: 'string', default: '' },
  isa: { type: 'string' },
  help: { type: 'boolean', short: 'h', default: false },
} as const;

/** What is measured, for the programs' help texts. */
export const INTRODUCTION = `Checks each fused op against its unfused twin, then times both and naive MHA in turns (reference heads 12 -> 36, 64 -> 96,
kernel 5), and steps of the training example, also beside MHA's. Prints useful FLOP/s as percent of the FMA peak measured
beside every sample, and what is missing to each target. A missed target is no failure; a wrong result is (exit code 1).`;

const ALL_LENGTHS = '128,512,1024,2048';
const QUICK_LENGTHS = '512';

export const FLAGS_HELP = `  --check          only the checks, no timing
  --lengths LIST   sequence lengths, default ${ALL_LENGTHS}; ${QUICK_LENGTHS} where it is to be quick
  --filter TEXT    only cases whose name contains TEXT
  --isa LIST       instruction sets, the best one first, default the processor's best one and, where it need not be quick,
                   avx2; the others are measured where they are held to the first one, in processes of their own`;

export function parseLengths(lengths: string | undefined, quick: boolean): number[] {
  const list = (lengths ?? (quick ? QUICK_LENGTHS : ALL_LENGTHS)).split(',').map(Number);
  if (list.every((length) => Number.isInteger(length) && length > 0)) return list;
  throw new UsageError(`--lengths ${lengths}: expected positive integers separated by commas`);
}
