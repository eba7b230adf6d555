/**
 * Prints what a run of the bundle found, from whichever of its files are in its folder, and what is missing: node summary.mjs DIR.
 * The exit code is that of the run (see run.sh).
 */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import type { KernelProfile } from './kernel_profile.js';
import type { Worst } from './parity_worker.js';
import {
  BENCH_PARTS,
  type Bench,
  type Line,
  type Loss,
  linesOf,
  type Missing,
  OURS,
  type Parity,
  RIVALS_PARTS,
  type Rivals,
  readResult,
  secondsPerToken,
} from './results.js';
import { type Step, stepsOf, type Verdict, verdictOf } from './steps.js';

const MAX_FAILURES = 40; // shown; all are in parity.json
const MAX_CLOSE = 10;
const MAX_STEP_KERNELS = 20;
const SHORTEST_KERNEL = 2e-5; // seconds
const EXIT_CODES: Readonly<Record<Verdict, number>> = { passed: 0, failed: 1, incomplete: 4 };
const VERDICTS: Readonly<Record<Verdict, string>> = {
  passed: 'every check ran to its end and passed',
  failed: 'A CHECK FAILED',
  incomplete: 'no check failed, but NOT EVERY CHECK RAN TO ITS END',
};
/** Columns as wide as their widest cell; the first `left` are aligned left. */
function columns(rows: readonly (readonly string[])[], left: number): string {
  const widths = (rows[0] ?? []).map((_, c) => Math.max(...rows.map((row) => row[c]?.length ?? 0)));
  const pad = (cell: string, c: number) => (c < left ? cell.padEnd(widths[c] ?? 0) : cell.padStart(widths[c] ?? 0));
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}

const number = (value: number | undefined, digits = 1) => (value === undefined ? '' : value.toFixed(digits));
const percent = (part: number | undefined, whole: number | undefined) =>
  part === undefined || whole === undefined ? '' : number((100 * part) / whole);

function table(bench: Bench | undefined, rivals: Rivals | undefined): string {
  const lines = linesOf(bench, rivals);
  if (lines.length === 0) return '';
  const keyOf = ({ case: name, dtype, length }: Line) => `${name} ${dtype} ${length}`;
  const groups = new Map<string, Line[]>();
  for (const line of lines) groups.set(keyOf(line), [...(groups.get(keyOf(line)) ?? []), line]);
  const copy = rivals?.bounds.copyBytesPerSecond ?? bench?.bounds?.streamBytesPerSecond;
  const header = [
    'case',
    '',
    'dtype',
    'T',
    'B',
    'ms',
    'spread',
    'TFLOP/s',
    '% peak',
    '% matmul',
    'GB/s',
    '% copy',
    'x fused',
  ];
  const rows = [...groups.values()].flatMap((group) => {
    const ours = group.find(({ contestant }) => contestant === OURS);
    return group.map((line) => {
      const { seconds, flops, bytes } = line;
      const rate = flops > 0 ? flops / seconds.median : undefined; // none are counted where memory is the bound
      const bandwidth = bytes === undefined ? undefined : bytes / seconds.median;
      return [
        line.case,
        line.contestant,
        line.dtype,
        String(line.length),
        String(line.batch),
        number(1e3 * seconds.median, 3),
        `${number(1e3 * seconds.low, 3)}-${number(1e3 * seconds.high, 3)}`,
        number(rate && rate / 1e12),
        percent(rate, line.peakFlops),
        percent(rate, rivals?.bounds.matmulFlops),
        number(bandwidth && bandwidth / 1e9, 0),
        percent(bandwidth, copy),
        ours && line !== ours ? number(secondsPerToken(line) / secondsPerToken(ours), 2) : '',
      ];
    });
  });
  return columns([header, ...rows], 3);
}

/** What each column is held against, each measured in this run. */
function boundsText(bench: Bench | undefined, rivals: Rivals | undefined): string[] {
  const { peakFlops, streamBytesPerSecond } = bench?.bounds ?? {};
  const { matmulFlops, copyBytesPerSecond } = rivals?.bounds ?? {};
  const tera = (value: number) => `${number(value / 1e12)} TFLOP/s`;
  const giga = (value: number) => `${number(value / 1e9, 0)} GB/s`;
  const copy = copyBytesPerSecond === undefined ? 'stream' : 'copy';
  return [
    ...(peakFlops === undefined
      ? []
      : [`peak    ${tera(peakFlops)}: bf16 products on registers (% peak: beside each case)`]),
    ...(matmulFlops === undefined ? [] : [`matmul  ${tera(matmulFlops)}: torch.matmul, bf16, 8192 x 8192 x 8192`]),
    ...(copyBytesPerSecond === undefined
      ? []
      : [`copy    ${giga(copyBytesPerSecond)}: torch copy on the device, read + written`]),
    ...(streamBytesPerSecond === undefined
      ? []
      : [`stream  ${giga(streamBytesPerSecond)}: ops.add in f32, read + written`]),
    ...(bench || rivals
      ? [
          `% copy is of ${copy}; x fused is time per token, as a multiple of ours; spread is the 10th to 90th percentile`,
        ]
      : []),
  ];
}

/** How each step ended, and what that comes to. */
function stepsText(steps: readonly Step[], verdict: Verdict): string[] {
  if (steps.length === 0) return [];
  const rows = steps.map(({ name, ending, seconds, reason }) => [
    `  ${name}`,
    (seconds === undefined ? '' : `${seconds} s`).padStart(5),
    reason ? `${ending} (${reason})` : ending,
  ]);
  return [`checks: ${VERDICTS[verdict]}`, columns(rows, 3)];
}

function lossText(loss: Loss): string[] {
  const runs = loss.runs.map(
    ({ attention, dtype, difference, passed }) =>
      `${attention} ${dtype} ${Number(difference).toExponential(1)}${passed ? '' : ' FAIL'}`,
  );
  return [`loss: at most so far from the CPU's: ${runs.join(', ')}`];
}

function parityText(parity: Parity): string[] {
  const { passed, failed, skipped, notRun } = parity.counts;
  const ratio = ({ error, limit }: Worst) => Number(error) / Number(limit);
  const closest = [...parity.worst].sort((a, b) => ratio(b) - ratio(a)).slice(0, MAX_CLOSE);
  const worst = closest.map(({ group, checks, error, limit, label }) => [
    `  ${group}`,
    `${checks} checks`,
    `${((100 * Number(error)) / Number(limit)).toFixed(0)}% of the limit`,
    label.slice(label.indexOf(':') + 2),
  ]);
  return [
    `parity: ${passed} passed, ${failed} failed, ${skipped} skipped, ${notRun} not run`,
    ...(worst.length > 0 ? ['closest to its limit, by op and dtype:', columns(worst, 4)] : []),
    ...parity.failures
      .slice(0, MAX_FAILURES)
      .map(({ file, name, message }) => `FAIL ${file} > ${name}: ${message.split('\n')[0]}`),
    ...(failed > MAX_FAILURES ? [`and ${failed - MAX_FAILURES} more failed (see parity.json)`] : []),
  ];
}

const missingText = (who: string, { case: name, dtype = '', length, contestant = '', reason }: Missing) =>
  [`${who}: not measured:`, name, contestant, dtype, length ? `T=${length}` : '', reason ? `(${reason})` : '(no time)']
    .filter((part) => part !== '')
    .join(' ');

/** Where the time of one training step goes, then why each kernel takes its time. */
function profileText(launches: readonly KernelProfile[]): string[] {
  const micro = (seconds: number) => number(1e6 * seconds);
  const isStep = ({ run }: KernelProfile) => run.includes(' step');
  const step = new Map<string, { seconds: number; count: number }>();
  for (const { kernel, seconds } of launches.filter(isStep)) {
    const before = step.get(kernel) ?? { seconds: 0, count: 0 };
    step.set(kernel, { seconds: before.seconds + seconds, count: before.count + 1 });
  }
  const whole = [...step.values()].reduce((sum, { seconds }) => sum + seconds, 0);
  const steps = [...step]
    .sort(([, a], [, b]) => b.seconds - a.seconds)
    .slice(0, MAX_STEP_KERNELS)
    .map(([kernel, { seconds, count }]) => [kernel, String(count), micro(seconds), percent(seconds, whole)]);
  const single = launches
    .filter((launch) => !isStep(launch) && launch.seconds >= SHORTEST_KERNEL)
    .map((launch) => [
      launch.kernel,
      micro(launch.seconds),
      number(launch.tensorPercent),
      number(launch.dramPercent),
      number(launch.l2Percent),
      number(launch.warpsPercent),
      number(launch.issued, 2),
      number(launch.registers, 0),
      number(launch.sharedBytes && launch.sharedBytes / 1024, 0),
      Object.entries(launch.stalls ?? {})
        .map(([reason, cycles]) => `${reason} ${cycles.toFixed(1)}`)
        .join(', '),
    ]);
  const title = launches.find(isStep)?.run;
  const header = ['kernel', 'us', '% tensor', '% dram', '% L2', '% warps', 'issued', 'regs', 'KiB', 'stalls'];
  return [
    ...(steps.length > 0 ? [`${title}, by kernel:`, columns([['kernel', 'n', 'us', '%'], ...steps], 1), ''] : []),
    ...(single.length > 0 ? ['single launches, 8192 tokens:', columns([header, ...single], 1)] : []),
  ];
}

const missed = (who: string, result: Pick<Bench, 'failures' | 'notRun'> | undefined): string[] =>
  [...(result?.failures ?? []), ...(result?.notRun ?? [])].map((item) => missingText(who, item));

/** What a file holds may be of another version: that costs one section. */
function textOf(section: () => readonly string[]): string {
  try {
    return section().join('\n').trim();
  } catch (error) {
    return `a part of this summary cannot be made: ${error instanceof Error ? error.message : String(error)}`;
  }
}

/** Of the files that a run left in `folder`, whichever those are. */
export function summarize(folder: string): { readonly text: string; readonly exitCode: number } {
  const unreadable: string[] = [];
  const read = <Content>(name: string, parts: readonly (keyof Content & string)[]) =>
    readResult<Content>(folder, name, parts, (fault) => unreadable.push(`${name} cannot be read: ${fault}`));
  const loss = read<Loss>('loss.json', ['runs']);
  const parity = read<Parity>('parity.json', ['counts', 'failures', 'worst']);
  const bench = read<Bench>('bench.json', BENCH_PARTS);
  const rivals = read<Rivals>('rivals.json', RIVALS_PARTS);
  const profile = read<readonly KernelProfile[]>('profile.json', []) ?? [];
  const logFile = join(folder, 'log.txt');
  const log = existsSync(logFile) ? readFileSync(logFile, 'utf8') : '';
  const steps = stepsOf(log);
  const verdict = verdictOf(
    steps,
    (parity?.counts.failed ?? 0) > 0 || (loss?.runs ?? []).some(({ passed }) => !passed),
  );
  /** Why there is no result of a step. */
  const missing = (name: string, result = 'no result'): string => {
    const step = steps.find((candidate) => candidate.name === name);
    return step && step.ending !== 'ok'
      ? `${name}: ${result} (${step.reason ?? step.ending})`
      : `${name}: no result (see log.txt)`;
  };
  const { device, driver, manifest } = bench ?? parity ?? loss ?? {};
  const blas = loss?.device?.blas ?? 'unknown'; // it is known to the process that opens the device

  const sections: readonly (() => readonly string[])[] = [
    () => [
      ...(device ? [`device: ${device.name}, ${device.driver ?? ''}${driver ? `; ${driver}` : ''}; blas ${blas}`] : []),
      ...(manifest
        ? [`build:  ${manifest.commit.slice(0, 12)}${manifest.modified ? ' with changes' : ''}, ${manifest.date}`]
        : []),
      rivals
        ? `rivals: PyTorch ${rivals.torch}, CUDA ${rivals.cuda}, cuDNN ${rivals.cudnn}`
        : missing('rivals', 'not measured'),
    ],
    () => log.match(/^rehearsal: .*/m) ?? [],
    () => stepsText(steps, verdict),
    () => unreadable,
    () => (loss ? lossText(loss) : [missing('loss')]),
    () => (parity ? parityText(parity) : [missing('parity')]),
    () => [
      ...missed('bench', bench),
      ...missed('rivals', rivals),
      ...(bench ? [] : [missing('bench', 'not measured')]),
    ],
    () => boundsText(bench, rivals),
    () => [table(bench, rivals)],
    () => (profile.length > 0 ? profileText(profile) : [missing('profile', 'not measured')]),
  ];
  const text = sections
    .map(textOf)
    .filter((part) => part !== '')
    .join('\n\n');
  return { text, exitCode: EXIT_CODES[verdict] };
}

if (process.argv[1] === fileURLToPath(import.meta.url)) {
  const { text, exitCode } = summarize(process.argv[2] ?? '.');
  console.log(text);
  process.exitCode = exitCode;
}
