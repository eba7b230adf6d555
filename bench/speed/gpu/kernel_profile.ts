/**
 * What ncu wrote (CSV, page raw, several runs one after another), cut down to what says why a kernel takes as long as it
 * does: node kernel_profile.mjs PROFILE.csv OUT.json
 */
import { readFileSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
import { writeResult } from './jobs.js';

/** One launch. Percentages are of the device's peak over the launch. */
export interface KernelProfile {
  /** The first case of its process, as profile.ts printed it. */
  readonly run: string;
  readonly kernel: string;
  readonly seconds: number;
  /** The rest is absent where only times were taken. */
  readonly blocks?: number;
  readonly threads?: number;
  readonly registers?: number;
  readonly sharedBytes?: number;
  readonly tensorPercent?: number;
  readonly dramPercent?: number;
  readonly l2Percent?: number;
  readonly l1Percent?: number;
  /** Of the warps that a multiprocessor can hold. */
  readonly warpsPercent?: number;
  /** Instructions per cycle and scheduler. */
  readonly issued?: number;
  readonly instructions?: number;
  /** Cycles per issued instruction that a warp waits, by reason, the longest first. */
  readonly stalls?: Readonly<Record<string, number>>;
}

const METRICS = {
  blocks: 'launch__grid_size',
  threads: 'launch__block_size',
  registers: 'launch__registers_per_thread',
  tensorPercent: 'sm__pipe_tensor_cycles_active.avg.pct_of_peak_sustained_active',
  dramPercent: 'gpu__dram_throughput.avg.pct_of_peak_sustained_elapsed',
  l2Percent: 'lts__throughput.avg.pct_of_peak_sustained_elapsed',
  l1Percent: 'l1tex__throughput.avg.pct_of_peak_sustained_active',
  warpsPercent: 'sm__warps_active.avg.pct_of_peak_sustained_active',
  issued: 'smsp__issue_active.avg.per_cycle_active',
  instructions: 'smsp__inst_executed.sum',
} as const;
const TIME = 'gpu__time_duration.sum';
const SHARED = 'launch__shared_mem_per_block_dynamic';
const STALL = /^smsp__average_warps_issue_stalled_(\w+)_per_issue_active\.ratio$/;
/** Prefixes of units as ncu writes them. */
const SCALES: Readonly<Record<string, number>> = { n: 1e-9, u: 1e-6, m: 1e-3, s: 1, B: 1, K: 1e3, M: 1e6 };

const numberOf = (text: string | undefined) => (text ? Number(text.replaceAll(',', '')) : Number.NaN);
/** In the base unit: seconds, bytes. */
const scaled = (text: string | undefined, unit = '') => numberOf(text) * (SCALES[unit.trim()[0] ?? ''] ?? 1);

/** Fields of a line of CSV with every field in quotes. */
const fieldsOf = (line: string): string[] =>
  line.startsWith('"') ? line.slice(1, line.lastIndexOf('"')).split('","') : [];

/** `sas::(anonymous namespace)::Kernel<__nv_bfloat16, 1>(Parameters)` without namespaces and parameters. */
export const shortName = (kernel: string): string =>
  kernel
    .replace(/^void /, '')
    .replace(/\((?:anonymous|unnamed) namespace\)::|<?unnamed>::/g, '')
    .replace(/\(.*$/, '')
    .replace(/\b\w+::/g, '');

export function parseProfile(text: string): KernelProfile[] {
  let header: string[] = [];
  let units: Record<string, string> = {};
  let name = '';
  const found: KernelProfile[] = [];
  for (const line of text.split('\n')) {
    if (line.startsWith('==PROF== Connected')) name = '';
    if (line.startsWith('== ')) name ||= line.slice(3).trim(); // printed before all of its launches
    const fields = fieldsOf(line);
    if (fields.length < 10) continue;
    if (fields[0] === 'ID') {
      header = fields;
      continue;
    }
    const row = Object.fromEntries(header.map((key, i) => [key, fields[i] ?? '']));
    if (row.ID === '') {
      units = row;
      continue;
    }
    const values = Object.entries(METRICS)
      .map(([key, metric]) => [key, numberOf(row[metric])] as const)
      .filter(([, value]) => Number.isFinite(value));
    const stalls = Object.entries(row)
      .flatMap(([key, value]) => {
        const reason = STALL.exec(key)?.[1];
        return reason && reason !== 'selected' ? [[reason, numberOf(value)] as const] : [];
      })
      .sort(([, a], [, b]) => b - a)
      .slice(0, 4);
    const sharedBytes = scaled(row[SHARED], units[SHARED]);
    found.push({
      run: name,
      kernel: shortName(row['Kernel Name'] ?? ''),
      seconds: scaled(row[TIME], units[TIME]),
      ...Object.fromEntries(values),
      ...(Number.isFinite(sharedBytes) && { sharedBytes }),
      ...(stalls.length > 0 && { stalls: Object.fromEntries(stalls) }),
    });
  }
  return found;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const [, , from = 'profile.csv', to = 'profile.json'] = process.argv;
  writeResult(to, parseProfile(readFileSync(from, 'utf8')));
}
