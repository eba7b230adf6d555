/** `npm run bench`: the fused ops against targets, the unfused pipeline and naive MHA. */
import { fork } from 'node:child_process';
import { mkdir, readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { parseArgs } from 'node:util';
import { type Device, getDevice, SasError } from 'sas-attention';
import { renderSvg } from '../chart/render.js';
import { verdictText } from './check.js';
import { checkAll, measure, WrongResult } from './measure.js';
import { bars, rooflineOf } from './pictures.js';
import { type IsaRun, makeReport, type Report, table, targetSummary } from './report.js';

const HELP = `Usage: npm run bench -- [options]

Checks each fused op against its unfused twin, then times both and naive MHA in turns (reference heads 12 -> 36, 64 -> 96,
kernel 5), and the training example's step. Prints useful FLOP/s as percent of the FMA peak measured beside every
sample, and what is missing to each target. A missed target is no failure; a wrong result is (exit code 1).

  --quick          T = 512, the best instruction set, fewer samples: under a minute
  --check          only the checks, no timing
  --lengths LIST   sequence lengths, default 128,512,1024,2048
  --filter TEXT    only cases whose name contains TEXT
  --isa LIST       instruction sets, the best one first, default the processor's best one and avx2; the others are
                   measured where they are held to the first one, in processes of their own
  --out DIR        where NAME.json, NAME.svg and NAME-roofline.svg go, default bench/results
  --name NAME      default cpu-avx512 or the like, from the device
  --draw           measure nothing: draw the pictures of DIR/NAME.json anew
  --help

The number of threads is set by SAS_THREADS.`;

class UsageError extends Error {}

function parse() {
  try {
    return parseArgs({
      options: {
        quick: { type: 'boolean', default: false },
        check: { type: 'boolean', default: false },
        lengths: { type: 'string' },
        filter: { type: 'string', default: '' },
        isa: { type: 'string' },
        out: { type: 'string', default: 'bench/results' },
        name: { type: 'string' },
        draw: { type: 'boolean', default: false },
        /** Set for the processes of lesser instruction sets: they send their result to this one. */
        worker: { type: 'boolean', default: false },
        help: { type: 'boolean', default: false },
      },
    }).values;
  } catch (error) {
    throw new UsageError(error instanceof Error ? error.message : String(error));
  }
}
type Options = ReturnType<typeof parse>;

function lengthsOf({ lengths, quick }: Options): number[] {
  const list = (lengths ?? (quick ? '512' : '128,512,1024,2048')).split(',').map(Number);
  if (list.every((length) => Number.isInteger(length) && length > 0)) return list;
  throw new UsageError(`--lengths ${lengths}: expected positive integers separated by commas`);
}

/** The device with the first instruction set of --isa, which has to be chosen before it is opened. */
function openDevice({ isa }: Options): Device {
  const [first] = isa?.split(',') ?? [];
  if (first !== undefined) process.env.SAS_ISA = first;
  return getDevice();
}

/** Every processor with AVX-512 has AVX2 too. In f32, avx512bf16 is avx512. SAS_ISA narrows the choice. */
function lesserIsas({ isa, quick }: Options, device: Device): string[] {
  if (isa !== undefined) return isa.split(',').slice(1);
  return device.info.isa?.startsWith('avx512') && !quick ? ['avx2'] : [];
}

/** Only the bf16 rows tell avx512bf16 from avx512: one name for both. */
const nameOf = ({ info }: Device) => `${info.kind}-${info.isa?.replace(/bf16$/, '') ?? 'device'}`;

/** Runs this program anew with that instruction set. */
function measureElsewhere(isa: string, { quick, lengths, filter }: Options): Promise<IsaRun> {
  const args = ['--worker', '--isa', isa, '--filter', filter];
  if (quick) args.push('--quick');
  if (lengths !== undefined) args.push('--lengths', lengths);
  return new Promise((resolve, reject) => {
    let run: IsaRun | undefined;
    const child = fork(fileURLToPath(import.meta.url), args);
    child.on('message', (message) => {
      run = message as IsaRun;
    });
    child.on('error', reject);
    child.on('exit', (code) => (run ? resolve(run) : reject(new Error(`${isa}: the process ended with code ${code}`))));
  });
}

/** One line of a terminal that is written over; '' clears it. */
function status(text: string): void {
  if (process.stdout.isTTY) process.stdout.write(`\r${text.padEnd(78)}${text === '' ? '\r' : ''}`);
}

function measureHere(options: Options, device: Device, lesser: boolean): Promise<IsaRun> {
  const timing = options.quick ? { samples: 5, minSeconds: 0.04 } : { samples: 11, minSeconds: 0.1 };
  const selection = { lengths: lengthsOf(options), filter: options.filter };
  return measure(device, { ...timing, ...selection, lesser, onCase: status });
}

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

/** Measures, prints and writes. */
async function bench(options: Options, device: Device, base: string): Promise<void> {
  const { info } = device;
  console.log(`${info.name}: ${info.isa ?? info.kind}, ${info.threads ?? 1} threads`);
  const runs = [await measureHere(options, device, false)];
  if (runs[0]?.rows.length === 0) throw new UsageError(`no case matches --filter ${options.filter}`);
  for (const isa of lesserIsas(options, device)) {
    status(`the same with ${isa}`);
    runs.push(await measureElsewhere(isa, options));
  }
  status('');

  const report = makeReport(info, runs);
  for (const { isa, peakGflops, streamGigabytesPerSecond } of report.runs) {
    console.log(
      `${isa}: FMA peak ${peakGflops.toFixed(0)} GFLOP/s, memory ${streamGigabytesPerSecond.toFixed(1)} GB/s`,
    );
  }
  console.log(`\n${table(report.runs)}\n\n${targetSummary(report.runs)}`);
  await mkdir(options.out, { recursive: true });
  await writeFile(`${base}.json`, `${JSON.stringify(report, null, 2)}\n`);
  console.log(`written: ${[`${base}.json`, ...(await draw(base, report))].join(', ')}`);
}

/** The checks alone; a wrong result throws only after all have been made. */
async function check(options: Options): Promise<void> {
  const wrong: string[] = [];
  for await (const { label, ...verdict } of checkAll({ lengths: lengthsOf(options), filter: options.filter })) {
    console.log(`${label}: ${verdictText(verdict)}`);
    if (!verdict.right) wrong.push(label);
  }
  if (wrong.length > 0) throw new WrongResult(`wrong: ${wrong.join('; ')}`);
}

async function main(): Promise<void> {
  const options = parse();
  if (options.help) {
    console.log(HELP);
    return;
  }
  const device = openDevice(options);
  const base = join(options.out, options.name ?? nameOf(device));
  if (options.worker) {
    process.send?.(await measureHere(options, device, true));
  } else if (options.check) {
    await check(options);
  } else if (options.draw) {
    console.log(`written: ${(await draw(base, await readReport(`${base}.json`))).join(', ')}`);
  } else {
    await bench(options, device, base);
  }
}

try {
  await main();
} catch (error) {
  const usage = error instanceof UsageError || (error instanceof SasError && error.code === 'SAS_DEVICE');
  if (!usage && !(error instanceof WrongResult)) throw error;
  console.error(`bench: ${error.message}`);
  process.exitCode = usage ? 2 : 1;
}
