// Shapes of layerNorm and rmsNorm.
import { activation, type Case, type Input, type Named, normalParameter, wideTypes } from './op.js';

export interface NormOptions {
  eps?: number;
}

type MakeNorm = (
  rows: readonly number[],
  width: number,
  values?: { scale?: number; shift?: number },
  options?: NormOptions,
) => Case<NormOptions>;

/** x [..., C], weight [C] away from 0, `more` parameters [C], gradOutput like x. */
export const normOf =
  (more: (width: number) => Named<Input>): MakeNorm =>
  (rows, width, { scale = 1, shift = 0 } = {}, options = {}) => ({
    label: `[${rows}] C=${width} x${scale} + ${shift}${options.eps === undefined ? '' : ` eps=${options.eps}`}`,
    options,
    inputs: {
      x: activation([...rows, width], scale, shift),
      weight: normalParameter([width], 0.3, 1),
      ...more(width),
      gradOutput: activation([...rows, width]),
    },
  });

export const normCases = (norm: MakeNorm): Case<NormOptions>[] => [
  norm([1], 3),
  norm([1], 8),
  norm([2, 31], 24),
  norm([64], 40, { scale: 100 }),
  norm([97], 96),
  norm([257], 160, { shift: 8 }), // what a one-pass variance does not survive
  norm([97], 768, { shift: 100, scale: 0.01 }), // what a mean rounded to f32 does not survive
  norm([64], 96, { shift: 300, scale: 0.05 }),
  norm([2], 1023, { shift: -300, scale: 0.05 }),
  norm([3], 9001, { shift: 100, scale: 0.01 }),
  { ...norm([31], 40, { scale: 1e20 }), dtypes: wideTypes }, // squares overflow
  { ...norm([3], 1023, { scale: 1e35 }), dtypes: wideTypes },
  { ...norm([31], 40, { scale: 1e-30 }, { eps: 0 }), dtypes: wideTypes }, // squares vanish
  { ...norm([3], 1023, { scale: 1e-20 }, { eps: 1e-38 }), dtypes: wideTypes },
  norm([3], 1023),
  norm([1023], 7),
  norm([5], 24, { scale: 0.1 }, { eps: 0.1 }),
];
