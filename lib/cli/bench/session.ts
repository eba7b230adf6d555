/** A measurement from its settings to its report; other instruction sets in processes of their own. */
import { fork } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { UsageError } from '../../failure.js';
import { type Device, type DeviceId, getDevice } from '../../index.js';
import { outcomeText } from '../../measure/check.js';
import { subjectOn } from '../../measure/here.js';
import { checkAll, measure, WrongResult } from '../../measure/measure.js';
import type { IsaRun } from '../../measure/rows.js';
import type { Selection } from '../../measure/suite.js';
import type { TimingOptions } from '../../measure/timing.js';
import { LiveLine } from '../terminal.js';
import { makeReport, type Report, table, targetSummary } from './report.js';

export interface BenchSettings extends Selection {
  /** Fewer and shorter samples. */
  readonly quick: boolean;
  /** The first one is for the device itself, the others are held to it; default: the best one and, unless quick, avx2. */
  readonly isas?: readonly string[];
  readonly device?: DeviceId;
}

/** The device with the first instruction set, which has to be chosen before it is opened. */
export function openDevice({ isas, device }: Pick<BenchSettings, 'isas' | 'device'>): Device {
  const [first] = isas ?? [];
  if (first !== undefined) process.env.SAS_ISA = first;
  return getDevice(device);
}

/** Every processor with AVX-512 has AVX2 too. In f32, avx512bf16 is avx512. SAS_ISA narrows the choice. */
function lesserIsas({ isas, quick }: BenchSettings, { info }: Device): readonly string[] {
  if (isas !== undefined) return isas.slice(1);
  return info.isa?.startsWith('avx512') && !quick ? ['avx2'] : [];
}

const line = new LiveLine();

export const timingOf = ({ quick }: Pick<BenchSettings, 'quick'>): TimingOptions =>
  quick ? { samples: 5, minSeconds: 0.04 } : { samples: 11, minSeconds: 0.1 };

function measureHere(settings: BenchSettings, device: Device, lesser: boolean): Promise<IsaRun> {
  return measure(subjectOn(device), {
    ...timingOf(settings),
    ...settings,
    lesser,
    onCase: (label) => line.show(label),
  });
}

/** What a process for a lesser instruction set does. */
export function measureLesser(settings: BenchSettings): Promise<IsaRun> {
  return measureHere(settings, openDevice(settings), true);
}

function measureElsewhere(settings: BenchSettings): Promise<IsaRun> {
  const worker = new URL(`./worker${extname(import.meta.url)}`, import.meta.url);
  return new Promise((resolve, reject) => {
    let run: IsaRun | undefined;
    const child = fork(fileURLToPath(worker), [JSON.stringify(settings)]);
    child.on('message', (message) => {
      run = message as IsaRun;
    });
    child.on('error', reject);
    child.on('exit', (code) =>
      run ? resolve(run) : reject(new Error(`${settings.isas}: the process ended with code ${code}`)),
    );
  });
}

/** Checks and times everything. Throws WrongResult. */
export async function measureAll(settings: BenchSettings, device: Device): Promise<Report> {
  const runs = [await measureHere(settings, device, false)];
  if (runs[0]?.rows.length === 0) throw new UsageError(`no case matches --filter ${settings.filter}`);
  for (const isa of lesserIsas(settings, device)) {
    line.show(`the same with ${isa}`);
    const run = await measureElsewhere({ ...settings, isas: [isa] });
    if (run.rows.length > 0) runs.push(run); // nothing here may have a target to be held to
  }
  line.clear();
  return makeReport(device.info, runs);
}

export const deviceText = ({ info }: Pick<Device, 'info'>): string =>
  `${info.name}: ${info.isa ?? info.kind}, ${info.threads ?? 1} threads`;

const LEGEND = `ms: median of a run; spread: 10th to 90th percentile; time: relative to the first row of a case; result: useful FLOP/s as
percent of the FMA peak measured beside each sample, unless another unit is given. naive: the unfused ops; naive MHA: plain
attention with the 12 heads that SAS expands to 36. Targets are for a quiet machine.`;

export function reportText({ runs }: Report): string {
  const peaks = runs.map(
    ({ isa, peakGflops, streamGigabytesPerSecond }) =>
      `${isa}: FMA peak ${peakGflops.toFixed(0)} GFLOP/s, memory ${streamGigabytesPerSecond.toFixed(1)} GB/s`,
  );
  return `${peaks.join('\n')}\n\n${table(runs)}\n\n${LEGEND}\n\n${targetSummary(runs)}`;
}

/** The checks alone; a wrong result throws only after all have been made. */
export async function check(settings: BenchSettings, device: Device): Promise<void> {
  const wrong: string[] = [];
  for await (const { label, ...outcome } of checkAll(settings, subjectOn(device))) {
    console.log(`${label}: ${outcomeText(outcome)}`);
    if (!outcome.right) wrong.push(label);
  }
  if (wrong.length > 0) throw new WrongResult(`wrong: ${wrong.join('; ')}`);
}
