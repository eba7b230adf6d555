/** A diagnosis in words. */
import type { DeviceInfo } from '../../index.js';
import { paint } from '../terminal.js';
import { textTable } from '../text_table.js';
import type { Addon } from './addon.js';
import type { Diagnosis, Outcome } from './diagnosis.js';
import type { Machine } from './machine.js';

const indent = (text: string) => text.replace(/^(?=.)/gm, '  ');

const section = (title: string, body: string) => `${paint('bold', title)}\n${indent(body)}`;

/** Names, padded, before what is said of them. */
function entries(pairs: readonly (readonly [string, string])[]): string {
  const width = Math.max(...pairs.map(([name]) => name.length));
  return pairs.map(([name, text]) => `${name.padEnd(width)}  ${text}`).join('\n');
}

const gibibytes = (bytes: number) => `${(bytes / 2 ** 30).toFixed(1)} GiB`;

const word = (right: boolean) => (right ? paint('green', 'ok') : paint('red', 'WRONG'));

function machineText({ package: own, ...m }: Machine): string {
  const library = m.glibc ? `, glibc ${m.glibc}` : m.platform === 'linux' ? ', no glibc (musl?)' : '';
  return entries([
    ['package', `${own.version} in ${own.folder}`],
    ['Node', `${m.node}, N-API ${m.napi}`],
    ['system', `${m.platform} ${m.arch}${library}`],
    ['processor', `${m.processor}, ${m.processors} for this process`],
    ['memory', `${gibibytes(m.memoryBytes)}, ${gibibytes(m.freeBytes)} free`],
    ...(m.nvidiaDriver ? [['NVIDIA driver', m.nvidiaDriver] as const] : []),
  ]);
}

function addonText(addon: Addon): string {
  if ('error' in addon) return `${paint('red', 'not loaded')}\n${addon.error}`;
  const { file, origin, bytes, modified } = addon;
  return `${file}\n${origin}, ${(bytes / 1e6).toFixed(1)} MB, ${modified.slice(0, 10)}`;
}

function deviceText(info: DeviceInfo, isDefault: boolean): string {
  const facts = info.usable
    ? [
        info.name,
        ...(info.isa ? [info.isa] : []),
        ...(info.threads ? [`${info.threads} threads`] : []),
        ...(info.computeCapability ? [`compute capability ${info.computeCapability.join('.')}`] : []),
        gibibytes(info.memoryBytes),
        ...(info.driver ? [`driver ${info.driver}`] : []),
        ...(info.blas ? [`matrix products: ${info.blas}`] : []),
      ]
    : [`${paint('yellow', 'cannot be used')}: ${info.reason ?? 'no reason given'}`];
  return `${facts.join(', ')}${isDefault ? ' (default)' : ''}`;
}

/** What `measurePeakFlops` measures. */
const PEAKS = {
  cpu: { name: 'FMA peak', unit: 'GFLOP/s' },
  cuda: { name: 'tensor-core peak', unit: 'GFLOP/s in bf16' },
} as const;

function outcomeText(outcome: Outcome): string {
  if ('error' in outcome) return `${paint('red', 'FAILED')}: ${outcome.error}`;
  const { device, checks, speeds, peakGflops, seconds } = outcome;
  const peak = PEAKS[device === 'cpu' ? 'cpu' : 'cuda'];
  const digits = (error: number | undefined) => error?.toExponential(1) ?? '';
  const precision = textTable(
    ['relative error against', 'fused', 'naive', 'limit', ''],
    checks.map(({ name, error, naiveError, limit, right }) => [
      name,
      digits(error),
      digits(naiveError),
      limit.toExponential(0),
      word(right),
    ]),
    [0, 4],
  );
  const speed = textTable(
    ['speed', 'ms', 'GFLOP/s', `of the ${peak.name}`],
    speeds.map(({ name, milliseconds, gflops, percentOfPeak }) => [
      name,
      milliseconds.toPrecision(3),
      gflops.toFixed(0),
      `${percentOfPeak.toFixed(0)} %`,
    ]),
    [0],
  );
  const measured = `${peak.name} ${peakGflops.toFixed(0)} ${peak.unit}`;
  return `${precision}\n\n${speed}\n${measured}; the self-test took ${seconds.toFixed(1)} s`;
}

export function diagnosisText(diagnosis: Diagnosis): string {
  const { machine, addon, devices, defaultDevice, selfTests, problems, warnings } = diagnosis;
  const set = machine.environment.map(({ name, value, meaning }) => [`${name}=${value}`, meaning] as const);
  const conclusion =
    problems.length === 0
      ? paint('green', 'Everything works.')
      : problems.map((problem) => `${paint('red', 'Problem')}: ${problem}`).join('\n');
  return [
    section('Machine', machineText(machine)),
    section('Environment variables', set.length > 0 ? entries(set) : 'none of those that matter here is set'),
    section('Addon', addonText(addon)),
    ...(devices.length > 0
      ? [section('Devices', entries(devices.map((info) => [info.id, deviceText(info, info.id === defaultDevice)])))]
      : []),
    ...selfTests.map((outcome) => section(`Self-test of ${outcome.device}`, outcomeText(outcome))),
    ...(warnings.length > 0 ? [warnings.map((warning) => `${paint('yellow', 'Warning')}: ${warning}`).join('\n')] : []),
    conclusion,
  ].join('\n\n');
}
