/** The outcome as a table on the terminal, as JSON, and as Markdown. */
import { execFileSync } from 'node:child_process';
import { mkdir, writeFile } from 'node:fs/promises';
import { cpus } from 'node:os';
import { join } from 'node:path';
import { textTable } from '../../../lib/cli/text_table.js';
import type { DeviceInfo } from '../../../lib/index.js';
import { describe, type Outcome, type Row } from './run.js';

export interface Report extends Outcome {
  readonly date: string;
  readonly commit: string;
  /** True where the checkout had uncommitted changes. */
  readonly modified: boolean;
  readonly node: string;
  readonly processor: string;
  readonly device: DeviceInfo;
}

const HEADER = ['rival', 'case', 'rival ms', 'ours ms', 'ratio', '10% - 90%', 'goal'];
const LEFT = [0, 1];

/** Three significant digits, without an exponent. */
const short = (value: number) => (value >= 100 ? value.toFixed(0) : value.toPrecision(3));

export function cells({ against, contest, rival, ours, ratio, goal }: Row): string[] {
  return [
    against,
    contest,
    short(1000 * rival.median),
    short(1000 * ours.median),
    `${short(ratio.median)}x`,
    `${short(ratio.low)} - ${short(ratio.high)}`,
    goal === null ? '' : `${goal}x ${ratio.median >= goal ? 'met' : 'MISSED'}`,
  ];
}

export const table = (rows: readonly Row[]): string => textTable(HEADER, rows.map(cells), LEFT);

export function markdown(report: Report): string {
  const { device, rows, skipped, versions } = report;
  const line = (columns: readonly string[]) => `| ${columns.join(' | ')} |`;
  const rule = HEADER.map((_, c) => (LEFT.includes(c) ? '---' : '---:'));
  return [
    '# The CPU backend and what a Node user would take instead',
    '',
    `${report.processor}, ${device.isa}, ${device.threads} threads, f32, batch 1, Node ${report.node}, ` +
      `${report.date.slice(0, 10)}, commit ${report.commit.slice(0, 12)}${report.modified ? ' with changes' : ''}.`,
    '',
    'Milliseconds per run: medians of samples taken in turns. Ratio: rival by ours, of each pair of neighbouring samples.',
    'Attention: 12 heads of 64. SAS: 12 to 36 heads, 64 to 96 features, kernel 5. MHA: attention and output projection.',
    'A backward pass gives the gradients of q, k, v and all parameters. Each side takes q, k and v in the layout that suits it:',
    '[T, H, D] in ours, onnxruntime (its fused MultiHeadAttention op) and PyTorch, [H, T, D] in tfjs and jax-js (jit), whose attention',
    'is unfused, as is that of PyTorch before 2.0. Both results of every case were compared before anything was timed.',
    '',
    line(HEADER),
    line(rule),
    ...rows.map((row) => line(cells(row))),
    '',
    ...Object.values(versions).map((version) => `- ${version}`),
    ...skipped.map((entry) => `- ${describe(entry)}`),
    '',
  ].join('\n');
}

const git = (...args: string[]) => execFileSync('git', args, { cwd: import.meta.dirname, encoding: 'utf8' }).trim();

/** The commit of this checkout; the results themselves do not count as changes. */
function checkout(): { commit: string; modified: boolean } {
  try {
    const changes = git('status', '--porcelain', '--', ':/', ':(exclude,top)bench/results');
    return { commit: git('rev-parse', 'HEAD'), modified: changes !== '' };
  } catch {
    return { commit: 'unknown', modified: false };
  }
}

export function makeReport(device: DeviceInfo, outcome: Outcome): Report {
  return {
    date: new Date().toISOString(),
    ...checkout(),
    node: process.version,
    processor: cpus()[0]?.model ?? 'unknown',
    device,
    ...outcome,
  };
}

/** Writes rivals.json and rivals.md into `directory` and returns their paths. */
export async function writeReport(directory: string, report: Report): Promise<string[]> {
  await mkdir(directory, { recursive: true });
  const files = [join(directory, 'rivals.json'), join(directory, 'rivals.md')] as const;
  await writeFile(files[0], `${JSON.stringify(report, null, 2)}\n`);
  await writeFile(files[1], markdown(report));
  return [...files];
}
