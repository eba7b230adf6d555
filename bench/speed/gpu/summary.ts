/** Prints what a run of the bundle found, from the files in its folder: only what was measured. `node summary.mjs DIR [REASON]` */
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import type { Spread } from '../../../lib/measure/timing.js';
import type { Bounds, Row } from './bench_worker.js';
import type { KernelProfile } from './kernel_profile.js';
import type { Origin } from './manifest.js';
import type { Worst } from './parity_worker.js';

interface Missing {
  readonly case: string;
  readonly dtype?: string;
  readonly length?: number;
  readonly contestant?: string;
  readonly reason?: string;
}

interface Parity extends Origin {
  readonly counts: { passed: number; failed: number; skipped: number; notRun: number };
  readonly failures: readonly { file: string; name: string; message: string }[];
  readonly worst: readonly Worst[];
}

interface Bench extends Origin {
  readonly bounds?: Bounds;
  readonly rows: readonly Row[];
  readonly failures: readonly Missing[];
  readonly notRun: readonly Missing[];
}

interface Rivals {
  readonly torch: string;
  readonly cuda: string | null;
  readonly cudnn: number | null;
  readonly bounds: { matmulFlops?: number; copyBytesPerSecond?: number };
  readonly rows: readonly (Omit<Row, 'peakFlops' | 'bytes'> & { contestant: string })[];
  readonly failures: readonly Missing[];
  readonly notRun: readonly Missing[];
}

/** One line of the table. */
interface Line {
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

const OURS = 'fused';
const MAX_FAILURES = 40; // shown; all are in parity.json
const MAX_CLOSE = 10;
const MAX_STEP_KERNELS = 20;
const SHORTEST_KERNEL = 2e-5; // seconds
const [, , folder = '.', whyNoRivals = 'no reason was given'] = process.argv;

function read<Content>(name: string): Content | undefined {
  const file = join(folder, name);
  return existsSync(file) ? (JSON.parse(readFileSync(file, 'utf8')) as Content) : undefined;
}

/** Columns as wide as their widest cell; the first `left` are aligned left. */
function columns(rows: readonly (readonly string[])[], left: number): string {
  const widths = (rows[0] ?? []).map((_, c) => Math.max(...rows.map((row) => row[c]?.length ?? 0)));
  const pad = (cell: string, c: number) => (c < left ? cell.padEnd(widths[c] ?? 0) : cell.padStart(widths[c] ?? 0));
  return rows.map((row) => row.map(pad).join('  ').trimEnd()).join('\n');
}

const number = (value: number | undefined, digits = 1) => (value === undefined ? '' : value.toFixed(digits));
const percent = (part: number | undefined, whole: number | undefined) =>
  part === undefined || whole === undefined ? '' : number((100 * part) / whole);
const secondsPerToken = ({ seconds, batch, length }: Line) => seconds.median / (batch * length);

/** Our own rows; the unfused twin of a case stands beside it as another contestant. */
function ownLines(bench: Bench): Line[] {
  return bench.rows.map((row): Line => {
    const isNaive = row.case.startsWith('naive ');
    return { ...row, case: isNaive ? row.case.slice(6) : row.case, contestant: isNaive ? 'naive' : OURS };
  });
}

function table(bench: Bench | undefined, rivals: Rivals | undefined): string {
  const lines = [
    ...(bench ? ownLines(bench) : []),
    ...(rivals?.rows ?? []).map(
      (row): Line => ({ ...row, ...(bench?.bounds && { peakFlops: bench.bounds.peakFlops }) }),
    ),
  ];
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

function parityText(parity: Parity | undefined): string[] {
  if (!parity) return ['parity: no result (see log.txt)'];
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

const parity = read<Parity>('parity.json');
const bench = read<Bench>('bench.json');
const rivals = read<Rivals>('rivals.json');
const { device, driver, manifest } = bench ?? parity ?? {};
const text = [
  ...(device
    ? [`device: ${device.name}, ${device.driver ?? ''}${driver ? `; ${driver}` : ''}; blas ${device.blas ?? 'unknown'}`]
    : []),
  ...(manifest
    ? [`build:  ${manifest.commit.slice(0, 12)}${manifest.modified ? ' with changes' : ''}, ${manifest.date}`]
    : []),
  ...(rivals
    ? [`rivals: PyTorch ${rivals.torch}, CUDA ${rivals.cuda}, cuDNN ${rivals.cudnn}`]
    : [`rivals: not measured (${whyNoRivals})`]),
  '',
  ...parityText(parity),
  '',
  ...(bench?.failures ?? []).map((missing) => missingText('bench', missing)),
  ...(bench?.notRun ?? []).map((missing) => missingText('bench', missing)),
  ...(rivals?.failures ?? []).map((missing) => missingText('rivals', missing)),
  ...(rivals?.notRun ?? []).map((missing) => missingText('rivals', missing)),
  ...(bench ? [] : ['bench: no result (see log.txt)']),
  '',
  ...boundsText(bench, rivals),
  '',
  table(bench, rivals),
  '',
  ...profileText(read<KernelProfile[]>('profile.json') ?? []),
];
console.log(
  text
    .join('\n')
    .replaceAll(/\n{3,}/g, '\n\n')
    .trimEnd(),
);
