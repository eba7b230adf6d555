/** `npm run bench`: the benchmark of `npx sas-attention bench`, kept as JSON and drawn. */
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseFlags } from '../../../lib/cli/arguments.js';
import { FLAGS, FLAGS_HELP, INTRODUCTION, parseLengths } from '../../../lib/cli/bench/options.js';
import type { Report } from '../../../lib/cli/bench/report.js';
import { check, deviceText, measureAll, openDevice, reportText, timingOf } from '../../../lib/cli/bench/session.js';
import { runProgram } from '../../../lib/cli/run_program.js';
import { LiveLine } from '../../../lib/cli/terminal.js';
import { UsageError } from '../../../lib/failure.js';
import type { DeviceInfo } from '../../../lib/index.js';
import { isUnit } from '../../../lib/measure/units.js';
import { renderSvg } from '../../charts/render.js';
import { drawGpuResults } from '../gpu/draw.js';
import { type Comparison, compareSides, comparisonText, requireRows } from './against.js';
import { builtCheckout, type Checkout, revisionOf } from './checkout.js';
import { bars, rooflineOf } from './pictures.js';
import { SideProcess } from './side.js';

const HELP = `Usage: npm run bench -- [options]

${INTRODUCTION}

  --quick          T = 512, the best instruction set, fewer samples: under a minute
${FLAGS_HELP}
  --out DIR        where NAME.json, NAME.svg and NAME-roofline.svg go, default bench/results
  --name NAME      default cpu-avx512 or the like, from the device
  --draw           measure nothing: draw the pictures of DIR/NAME.json anew; without --name those of every result in
                   DIR, and what runs on GPUs left in DIR/gpu (docs/gpu.md)
  --against DIR    this checkout and another one, built, sample by sample in turns; also tokens/s of training. Written is only
                   NAME.json, default against-cpu-avx512 or the like
  --help

The number of threads is set by SAS_THREADS.`;

const OWN_FLAGS = {
  ...FLAGS,
  quick: { type: 'boolean', default: false },
  out: { type: 'string', default: 'bench/results' },
  name: { type: 'string' },
  draw: { type: 'boolean', default: false },
  against: { type: 'string' },
} as const;
type Flags = ReturnType<typeof parseFlags<typeof OWN_FLAGS>>;

/** Only the bf16 rows tell avx512bf16 from avx512: one name for both. */
const nameOf = (info: DeviceInfo) => `${info.kind}-${info.isa?.replace(/bf16$/, '') ?? 'device'}`;

async function draw(base: string, report: Report): Promise<string[]> {
  const roofline = rooflineOf(report);
  const pictures = [
    { file: `${base}.svg`, spec: bars(report) },
    ...(roofline ? [{ file: `${base}-roofline.svg`, spec: roofline }] : []),
  ];
  for (const { file, spec } of pictures) await writeFile(file, await renderSvg(spec));
  return pictures.map(({ file }) => file);
}

async function readReport(file: string): Promise<Report> {
  const text = await readFile(file, 'utf8').catch((error: Error) => {
    throw new UsageError(`--draw: ${error.message}`);
  });
  const report = JSON.parse(text) as Partial<Report>;
  const units = report.runs?.flatMap(({ rows }) => rows.map(({ unit }) => unit)) ?? [];
  if (!report.runs || !units.every(isUnit))
    throw new UsageError(`--draw: ${file} is of another version of this program`);
  return report as Report;
}

/** Without a name, all that there is. */
async function drawAnew(out: string, name: string | undefined): Promise<string[]> {
  const files = existsSync(out) ? readdirSync(out) : [];
  const found = files.flatMap((file) => /^(cpu-.*|cuda-device)\.json$/.exec(file)?.[1] ?? []);
  const written: string[] = [];
  for (const base of (name === undefined ? found : [name]).map((one) => join(out, one)))
    written.push(...(await draw(base, await readReport(`${base}.json`))));
  if (name === undefined) written.push(...(await drawGpuResults(join(out, 'gpu'))));
  if (written.length === 0) throw new UsageError(`--draw: there are no results in ${out}`);
  return written;
}

/** `--against`. */
async function compare(path: string, flags: Flags): Promise<void> {
  const { quick, filter, out } = flags;
  const other = builtCheckout(path);
  const own = builtCheckout(fileURLToPath(new URL('../../..', import.meta.url)));
  const clash = (['check', 'draw'] as const).find((flag) => flags[flag]);
  if (clash) throw new UsageError(`--against and --${clash} exclude each other`);
  if (flags.isa?.includes(',')) throw new UsageError(`--isa ${flags.isa}: --against measures one instruction set`);
  const timing = timingOf({ quick });
  const selection = { lengths: parseLengths(flags.lengths, quick), filter, quick, against: true };
  const started: SideProcess[] = [];
  const start = (name: string, checkout: Checkout): SideProcess => {
    const side = new SideProcess(name, checkout, { selection, timing }, flags.isa);
    started.push(side);
    return side;
  };
  const line = new LiveLine();
  try {
    const sides = { other: start('the other checkout', other), own: start('this checkout', own) };
    const measured = await compareSides(sides, timing.samples, (label) => line.show(label));
    line.clear();
    requireRows(measured, filter);
    const comparison: Comparison = {
      ...measured,
      other: { revision: revisionOf(other), ...measured.other },
      own: { revision: revisionOf(own), ...measured.own },
    };
    console.log(deviceText({ info: measured.device }));
    console.log(comparisonText(comparison));
    const file = join(out, `${flags.name ?? `against-${nameOf(measured.device)}`}.json`);
    await mkdir(out, { recursive: true });
    await writeFile(file, `${JSON.stringify(comparison, null, 2)}\n`);
    console.log(`written: ${file}`);
  } finally {
    for (const side of started) side.close();
  }
}

async function main(): Promise<void> {
  const flags = parseFlags(process.argv.slice(2), OWN_FLAGS);
  if (flags.help) {
    console.log(HELP);
    return;
  }
  if (flags.against !== undefined) return compare(flags.against, flags);
  const { quick, filter, out } = flags;
  if (flags.draw) {
    console.log(`written: ${(await drawAnew(out, flags.name)).join(', ')}`);
    return;
  }
  const settings = { quick, filter, lengths: parseLengths(flags.lengths, quick), isas: flags.isa?.split(',') };
  const device = openDevice(settings);
  if (flags.check) return check(settings, device);

  const base = join(out, flags.name ?? nameOf(device.info));
  console.log(deviceText(device));
  const report = await measureAll(settings, device);
  console.log(reportText(report));
  await mkdir(out, { recursive: true });
  await writeFile(`${base}.json`, `${JSON.stringify(report, null, 2)}\n`);
  console.log(`written: ${[`${base}.json`, ...(await draw(base, report))].join(', ')}`);
}

await runProgram('bench', main);
