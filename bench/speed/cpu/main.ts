/** `npm run bench`: the benchmark of `npx sas-attention bench`, kept as JSON and drawn. */
import { existsSync, readdirSync } from 'node:fs';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { parseFlags } from '../../../lib/cli/arguments.js';
import { FLAGS, FLAGS_HELP, INTRODUCTION, parseLengths } from '../../../lib/cli/bench/options.js';
import type { Report } from '../../../lib/cli/bench/report.js';
import { check, deviceText, measureAll, openDevice, reportText } from '../../../lib/cli/bench/session.js';
import { runProgram } from '../../../lib/cli/run_program.js';
import { UsageError } from '../../../lib/failure.js';
import type { Device } from '../../../lib/index.js';
import { renderSvg } from '../../charts/render.js';
import { drawGpuResults } from '../gpu/draw.js';
import { bars, rooflineOf } from './pictures.js';

const HELP = `Usage: npm run bench -- [options]

${INTRODUCTION}

  --quick          T = 512, the best instruction set, fewer samples: under a minute
${FLAGS_HELP}
  --out DIR        where NAME.json, NAME.svg and NAME-roofline.svg go, default bench/results
  --name NAME      default cpu-avx512 or the like, from the device
  --draw           measure nothing: draw the pictures of DIR/NAME.json anew; without --name those of every result in
                   DIR, and what runs on GPUs left in DIR/gpu (docs/gpu.md)
  --help

The number of threads is set by SAS_THREADS.`;

const OWN_FLAGS = {
  ...FLAGS,
  quick: { type: 'boolean', default: false },
  out: { type: 'string', default: 'bench/results' },
  name: { type: 'string' },
  draw: { type: 'boolean', default: false },
} as const;

/** Only the bf16 rows tell avx512bf16 from avx512: one name for both. */
const nameOf = ({ info }: Device) => `${info.kind}-${info.isa?.replace(/bf16$/, '') ?? 'device'}`;

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
  if (!report.runs) throw new UsageError(`--draw: ${file} is of another version of this program`);
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

async function main(): Promise<void> {
  const flags = parseFlags(process.argv.slice(2), OWN_FLAGS);
  if (flags.help) {
    console.log(HELP);
    return;
  }
  const { quick, filter, out } = flags;
  if (flags.draw) {
    console.log(`written: ${(await drawAnew(out, flags.name)).join(', ')}`);
    return;
  }
  const settings = { quick, filter, lengths: parseLengths(flags.lengths, quick), isas: flags.isa?.split(',') };
  const device = openDevice(settings);
  if (flags.check) return check(settings, device);

  const base = join(out, flags.name ?? nameOf(device));
  console.log(deviceText(device));
  const report = await measureAll(settings, device);
  console.log(reportText(report));
  await mkdir(out, { recursive: true });
  await writeFile(`${base}.json`, `${JSON.stringify(report, null, 2)}\n`);
  console.log(`written: ${[`${base}.json`, ...(await draw(base, report))].join(', ')}`);
}

await runProgram('bench', main);
