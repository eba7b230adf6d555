/** What was measured on GPUs, from the folders in bench/results/gpu: a picture of each device beside PyTorch, and a page of tables. */
import { existsSync, readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import type { TopLevelSpec } from 'vega-lite';
import { type Bar, barChart, type Panel } from '../../charts/bar_chart.js';
import { renderSvg } from '../../charts/render.js';
import {
  BENCH_PARTS,
  type Bench,
  type Line,
  linesOf,
  OURS,
  RIVALS_PARTS,
  type Rivals,
  readResult,
  secondsPerToken,
} from './results.js';

/** A line and the run that it is of. */
interface Measured extends Line {
  readonly run: string;
  /** ISO 8601. */
  readonly date: string;
}

export interface DeviceResults {
  /** As the driver names it. */
  readonly name: string;
  /** Folders of the runs, the newest first. */
  readonly runs: readonly string[];
  /** Of each case and contestant the newest measurement: a run may have measured only a part. */
  readonly lines: readonly Measured[];
  readonly rivals?: string;
}

const [OWN, BEST] = ['sas-attention', 'the fastest in PyTorch'];
/** FlashAttention in other widths than the paper's is not the same work. */
const isSameWork = ({ contestant }: Line) => !/naive|\d+\/\d+$/.test(contestant) || contestant.endsWith(' 96/64');
/** All are shown for one batch: 64 sequences of 512 tokens. */
const TOKENS = 32768;
const milliseconds = (line: Line) => 1e3 * TOKENS * secondsPerToken(line);

const PANELS: readonly { title: string; cases: RegExp; group(line: Line): string }[] = [
  { title: 'attention forward', cases: /^attention forward$/, group: ({ length }) => `T = ${length}` },
  { title: 'attention backward', cases: /^attention backward$/, group: ({ length }) => `T = ${length}` },
  { title: 'SasAttention', cases: /^SasAttention /, group: (line) => `${line.case.slice(13)}, T = ${line.length}` },
  { title: 'expand', cases: /^expand /, group: (line) => line.case.slice(7) },
  { title: 'linear', cases: /^linear /, group: (line) => line.case.slice(7) },
  { title: 'bound by memory', cases: /^(layerNorm|gelu|crossEntropy|embedding) /, group: (line) => line.case },
];

/** Every device that has results in `folder`. */
export function readDevices(folder: string): DeviceResults[] {
  const runs = (existsSync(folder) ? readdirSync(folder) : [])
    .flatMap((run) => {
      const read = <Content>(name: string, parts: readonly (keyof Content & string)[]) =>
        readResult<Content>(join(folder, run), name, parts, (fault) => console.warn(`${run}/${name}: ${fault}`));
      const bench = read<Bench>('bench.json', BENCH_PARTS);
      const rivals = read<Rivals>('rivals.json', RIVALS_PARTS);
      return bench?.device ? [{ run, device: bench.device.name, date: bench.date, bench, rivals }] : [];
    })
    .sort((a, b) => b.date.localeCompare(a.date));
  return [...new Set(runs.map(({ device }) => device))].sort().map((name): DeviceResults => {
    const own = runs.filter(({ device }) => device === name);
    const lines = new Map<string, Measured>();
    const measured = own.map(({ run, date, bench, rivals }) =>
      linesOf(bench, rivals).map((line): Measured => ({ ...line, run, date })),
    );
    // In the order of the fullest run.
    for (const line of measured.sort((a, b) => b.length - a.length).flat()) {
      const key = [line.case, line.dtype, line.length, line.contestant].join(' ');
      if (line.date > (lines.get(key)?.date ?? '')) lines.set(key, line);
    }
    const rivals = own.find((run) => run.rivals)?.rivals;
    return {
      name,
      runs: own.map(({ run }) => run),
      lines: [...lines.values()],
      ...(rivals && { rivals: `PyTorch ${rivals.torch}, CUDA ${rivals.cuda}, cuDNN ${rivals.cudnn}` }),
    };
  });
}

/** The fastest other contestant for the work of `line`. */
function rivalOf(line: Line, lines: readonly Measured[]): Measured | undefined {
  return lines
    .filter((other) => other.case === line.case && other.dtype === line.dtype && other.length === line.length)
    .filter((other) => other.contestant !== OURS && other.contestant !== 'naive' && isSameWork(other))
    .sort((a, b) => secondsPerToken(a) - secondsPerToken(b))[0];
}

const ownLines = ({ lines }: DeviceResults) => lines.filter(({ contestant }) => contestant === OURS);

export function picture(results: DeviceResults): TopLevelSpec {
  const { name, lines, runs, rivals = 'no rivals' } = results;
  const barOf = (line: Line, group: string, series: string): Bar => ({ group, series, value: milliseconds(line) });
  const panels = PANELS.map(({ title, cases, group }): Panel => {
    const shown = ownLines(results).filter((line) => line.dtype === 'bf16' && cases.test(line.case));
    return {
      title,
      axis: 'ms',
      digits: 2,
      bars: shown.flatMap((line) => {
        const rival = rivalOf(line, lines);
        return [barOf(line, group(line), OWN), ...(rival ? [barOf(rival, group(line), BEST)] : [])];
      }),
    };
  }).filter(({ bars }) => bars.length > 0);
  return barChart(panels, {
    title: `Milliseconds for ${TOKENS.toLocaleString('en-US')} tokens, bf16, at the paper's sizes; less is better`,
    subtitle: [`${name}; ${rivals}`, `medians; the newest of each case from ${runs.join(', ')}`],
    series: [OWN, BEST],
  });
}

const row = (cells: readonly string[]) => `| ${cells.join(' | ')} |`;

function tableOf(results: DeviceResults): string[] {
  const header = ['case', 'dtype', 'T', 'B', 'ms', 'TFLOP/s', 'the fastest in PyTorch', 'its time / ours', 'run'];
  const rows = ownLines(results).map((line) => {
    const { seconds, flops } = line;
    const rival = rivalOf(line, results.lines);
    return [
      line.case,
      line.dtype,
      String(line.length),
      String(line.batch),
      (1e3 * seconds.median).toFixed(3),
      flops > 0 ? (flops / seconds.median / 1e12).toFixed(1) : '',
      rival?.contestant ?? '',
      rival ? (secondsPerToken(rival) / secondsPerToken(line)).toFixed(2) : '',
      `[${line.date.slice(0, 10)}](${line.run}/summary.txt)`,
    ];
  });
  return [row(header), row(header.map(() => '---')), ...rows.map(row)];
}

const fileOf = ({ name }: DeviceResults) =>
  `${name
    .replace(/^NVIDIA /, '')
    .toLowerCase()
    .replaceAll(/\W+/g, '-')}.svg`;

export const page = (devices: readonly DeviceResults[]): string =>
  [
    '# Results on GPUs',
    '',
    'Made by `npm run bench -- --draw` from the folders beside this page, each what one run of the bundle wrote',
    '([how to run it](../../../docs/gpu.md#measure)). Times are of one run at batch B; those of PyTorch are compared per token.',
    ...devices.flatMap((results) => [
      '',
      `## ${results.name}`,
      '',
      `![Milliseconds beside PyTorch](${fileOf(results)})`,
      '',
      ...(results.rivals ? [`${results.rivals}.`, ''] : []),
      ...tableOf(results),
    ]),
    '',
  ].join('\n');

/** Draws what `folder` holds; returns the files that it wrote. */
export async function drawGpuResults(folder: string): Promise<string[]> {
  const devices = readDevices(folder);
  if (devices.length === 0) return [];
  const written = [join(folder, 'README.md')];
  writeFileSync(join(folder, 'README.md'), page(devices));
  for (const results of devices) {
    const file = join(folder, fileOf(results));
    writeFileSync(file, await renderSvg(picture(results)));
    written.push(file);
  }
  return written;
}
