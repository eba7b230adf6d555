// SasAttention beside float64, forward and every gradient: the cases, and the tests of a part of them.
import { afterAll, describe, expect, it } from 'vitest';
import { summary } from '../helpers/compare.js';
import { emulated, errorsOf, floatTypes, takeResults, timeout } from '../helpers/parity.js';
import {
  disposeModule,
  expectModuleWithinLimits,
  runModule,
  runNaive,
  type SasCase,
  sasName,
  sasProblem,
  sasTruth,
} from './sas_attention.js';

/** [B, Tq, Tk, H, D, H', D', k, causal, options]; `onEmulator`: sizes of the emulated GPU, which takes minutes for the others. */
type Row = [
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  number,
  boolean,
  { scale?: number; inputScale?: number; onEmulator?: Partial<SasCase> }?,
];
const rows: Row[] = [
  [1, 1, 1, 1, 8, 1, 8, 1, true], // B*T = 1, H = H' = 1
  [1, 1, 1, 2, 24, 6, 40, 5, true],
  [2, 2, 2, 2, 24, 6, 40, 3, true],
  [1, 31, 31, 12, 64, 36, 96, 5, true, { onEmulator: { timeQ: 9, timeK: 9 } }], // the reference size
  [1, 64, 64, 4, 40, 20, 24, 5, false, { onEmulator: { timeQ: 33, timeK: 33 } }], // D' < D
  [1, 97, 97, 2, 8, 6, 112, 7, true, { onEmulator: { timeQ: 33, timeK: 33 } }],
  [1, 128, 128, 1, 96, 3, 160, 3, true, { onEmulator: { timeQ: 32, timeK: 32 } }], // one head
  [1, 257, 257, 2, 8, 2, 24, 1, true, { onEmulator: { timeQ: 65, timeK: 65 } }], // r = 1
  [1, 1023, 1023, 1, 8, 2, 8, 3, true, { onEmulator: { timeQ: 191, timeK: 191 } }],
  [2, 31, 31, 3, 5, 6, 8, 7, false], // k > D
  [1, 31, 97, 2, 24, 6, 40, 5, true], // Tq < Tk
  [1, 64, 31, 2, 24, 4, 40, 5, true], // 33 fully masked rows
  [1, 5, 64, 2, 24, 4, 8, 3, false],
  [1, 33, 33, 2, 24, 6, 40, 5, true, { scale: 0.3 }],
  // Saturated: few rows have an error at all (see attention in test/ops), so there are many rows.
  [6, 128, 128, 4, 24, 12, 40, 5, true, { inputScale: 100, onEmulator: { batch: 2, timeQ: 64, timeK: 64 } }],
];

export const sasCases = rows.map(
  ([batch, timeQ, timeK, heads, headDim, simHeads, simHeadDim, kernelSize, causal, options]): [string, SasCase] => {
    const sizes = { batch, timeQ, timeK, heads, headDim, simHeads, simHeadDim, kernelSize, causal };
    const { onEmulator, ...more } = options ?? {};
    const shape = { ...sizes, ...more, ...(emulated && onEmulator) };
    return [sasName(shape), shape];
  },
);

/** Defines the tests of every `of`-th case from `part` on, so that files of equal length run side by side. */
export function sasParityTests({ part, of }: { part: number; of: number }): void {
  afterAll(() => console.log(summary()));
  const cases = sasCases.filter((_, i) => i % of === part);
  describe.each(floatTypes)('SasAttention %s', (dtype) => {
    it.each(cases)('%s', { timeout }, async (name, shape) => {
      const problem = sasProblem(shape, dtype, 500);
      const truth = sasTruth(problem);
      const results = runModule(problem);
      expect(results.outputs.output.dtype).toBe(dtype);
      for (const [key, gradient] of Object.entries(results.gradients)) {
        expect(gradient.dtype, key).toBe(['q', 'k', 'v'].includes(key) ? dtype : 'f32');
      }
      const naive = await takeResults(runNaive(problem));
      expectModuleWithinLimits(
        `SasAttention ${dtype}`,
        name,
        dtype,
        await takeResults(results),
        truth,
        errorsOf(naive, truth),
      );
      disposeModule(problem);
    });
  });
}
