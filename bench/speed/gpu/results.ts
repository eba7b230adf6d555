/** What a run of the bundle leaves in its folder, for those who read it. */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Spread } from '../../../lib/measure/timing.js';
import type { Bounds, Row } from './bench_worker.js';
import type { Origin } from './manifest.js';
import type { Worst } from './parity_worker.js';

export interface Missing {
  readonly case: string;
  readonly dtype?: string;
  readonly length?: number;
  readonly contestant?: string;
  readonly reason?: string;
}

export interface Loss extends Origin {
  readonly runs: readonly { attention: string; dtype: string; difference: number; limit: number; passed: boolean }[];
}

export interface Parity extends Origin {
  readonly counts: { passed: number; failed: number; skipped: number; notRun: number };
  readonly failures: readonly { file: string; name: string; message: string }[];
  readonly worst: readonly Worst[];
}

export interface Bench extends Origin {
  readonly bounds?: Bounds;
  readonly rows: readonly Row[];
  readonly failures: readonly Missing[];
  readonly notRun: readonly Missing[];
}

export interface Rivals {
  readonly torch: string;
  readonly cuda: string | null;
  readonly cudnn: number | null;
  readonly bounds: { matmulFlops?: number; copyBytesPerSecond?: number };
  readonly rows: readonly (Omit<Row, 'peakFlops' | 'bytes'> & { contestant: string })[];
  readonly failures: readonly Missing[];
  readonly notRun: readonly Missing[];
}

/** One line of the table. */
export interface Line {
  readonly case: string;
  readonly dtype: string;
  readonly length: number;
  readonly batch: number;
  readonly contestant: string;
  readonly seconds: Spread;
  readonly flops: number;
  readonly bytes?: number;
  readonly peakFlops?: number;
}

export const OURS = 'fused';
/** The parts of results that are no lists. */
const RECORDS: ReadonlySet<string> = new Set(['bounds', 'counts']);

/**
 * A result, if it is there, readable and has the lists (and records) that it is about; what is there and does not, as of a run
 * that was cut off, is told to `onFault`.
 */
export function readResult<Content>(
  folder: string,
  name: string,
  parts: readonly (keyof Content & string)[],
  onFault: (reason: string) => void,
): Content | undefined {
  const file = join(folder, name);
  if (!existsSync(file)) return undefined;
  try {
    const content = JSON.parse(readFileSync(file, 'utf8')) as Content;
    const isThere = (part: keyof Content & string) =>
      RECORDS.has(part) ? typeof content[part] === 'object' && content[part] !== null : Array.isArray(content[part]);
    const lacking = parts.filter((part) => !isThere(part));
    if (lacking.length > 0) throw new Error(`it has no ${lacking.join(', ')}`);
    return content;
  } catch (error) {
    onFault(error instanceof Error ? error.message : String(error));
    return undefined;
  }
}

export const BENCH_PARTS = ['rows', 'failures', 'notRun'] as const;
export const RIVALS_PARTS = ['bounds', 'rows', 'failures', 'notRun'] as const;

/** Our own rows; the unfused twin of a case stands beside it as another contestant. */
function ownLines(bench: Bench): Line[] {
  return bench.rows.map((row): Line => {
    const isNaive = row.case.startsWith('naive ');
    return { ...row, case: isNaive ? row.case.slice(6) : row.case, contestant: isNaive ? 'naive' : OURS };
  });
}

/** Everybody's rows. */
export const linesOf = (bench: Bench | undefined, rivals: Rivals | undefined): Line[] => [
  ...(bench ? ownLines(bench) : []),
  ...(rivals?.rows ?? []).map((row): Line => ({ ...row, ...(bench?.bounds && { peakFlops: bench.bounds.peakFlops }) })),
];

export const secondsPerToken = ({ seconds, batch, length }: Line): number => seconds.median / (batch * length);
