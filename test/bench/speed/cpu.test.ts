// The benchmark's own parts: its checks, its counts of work, what it says of a target, and its program.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { afterAll, describe, expect, it } from 'vitest';
import { renderSvg } from '../../../bench/charts/render.js';
import { roofline } from '../../../bench/charts/roofline.js';
import { PRESETS } from '../../../bench/quality/compare/options.js';
import { modelFacts } from '../../../bench/quality/compare/plan.js';
import { bars, rooflineOf } from '../../../bench/speed/cpu/pictures.js';
import { makeReport, table, targetSummary } from '../../../lib/cli/bench/report.js';
import { getDevice } from '../../../lib/index.js';
import type { CaseFacts } from '../../../lib/measure/cases.js';
import { outcomeText, verify } from '../../../lib/measure/check.js';
import { subjectOn } from '../../../lib/measure/here.js';
import { checkAll, rowsOf } from '../../../lib/measure/measure.js';
import { COUNTED, type Counted, DEFAULT, TINY, WIDE } from '../../../lib/measure/models.js';
import type { IsaRun, Row } from '../../../lib/measure/rows.js';
import { stepWork } from '../../../lib/measure/step_cases.js';
import { casesOf } from '../../../lib/measure/suite.js';
import { missedBy, unitOf } from '../../../lib/measure/units.js';
import { attentionWork, expandWork, linearWork, REFERENCE, sasWork } from '../../../lib/measure/work.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'sas-bench-'));
afterAll(() => rmSync(folder, { recursive: true }));

describe('checks', () => {
  it('find every fused op right', async () => {
    const labels: string[] = [];
    for await (const { label, ...verdict } of checkAll({ lengths: [24], filter: '' }, subjectOn(getDevice()))) {
      labels.push(label);
      expect(verdict.right, `${label}: ${outcomeText(verdict)}`).toBe(true);
    }
    for (const op of ['expand Q', 'expand V', 'attention', 'linear']) {
      for (const pass of ['forward', 'backward']) {
        expect(labels.filter((label) => label.startsWith(op) && label.endsWith(`${pass}, T = 24`))).toHaveLength(1);
      }
    }
    expect(labels).toContain('SasAttention forward + backward, T = 24');
    expect(labels.filter((label) => label.includes('bf16'))).toHaveLength(3);
  });

  it.each([
    ['a wrong value', [1, 2, 3.01]],
    ['a NaN', [1, 2, Number.NaN]],
    ['a missing value', [1, 2]],
  ])('find %s', async (_, wrong) => {
    const right = { output: [1, 2, 3], gradient: [4] };
    const check = (output: number[]) =>
      verify({ actual: async () => ({ gradient: [4], output }), expected: async () => right, limit: 1e-4 });
    expect((await check([1, 2, 3])).right).toBe(true);
    expect(await check(wrong)).toMatchObject({ result: 'output', right: false });
  });
});

it('takes steps of the training example', async () => {
  const device = getDevice();
  const cases = [...casesOf({ lengths: [], filter: 'training step' }, subjectOn(device))];
  expect(cases).toHaveLength(2);
  for (const { contestants } of cases) for (const contestant of contestants) await contestant.run();
  await device.synchronize();
});

it.each([
  ['SAS step / MHA step, tiny', ['MHA', 'SAS']],
  ['tokens/s of training, tiny', ['sas', 'sas-linear', 'sas-features', 'sas-heads', 'mha']],
  ['share of the step', ['step', 'norms', 'GELU', 'cross-entropy', 'optimiser', 'together']],
])('runs all contestants of %s', async (filter, names) => {
  const device = getDevice();
  for (const { contestants } of casesOf({ lengths: [], filter, against: true }, subjectOn(device))) {
    expect(contestants.map(({ name }) => name)).toEqual(names);
    for (const contestant of contestants) await contestant.run();
    await device.synchronize();
  }
  expect([...casesOf({ lengths: [], filter, against: true }, subjectOn(device))]).toHaveLength(1);
});

it('leaves what takes long out of a quick run, unless it is named, and tokens/s of a run alone', () => {
  const names = (selection: { filter: string; quick: boolean }) =>
    [...casesOf({ lengths: [], ...selection }, subjectOn(getDevice()))].map(({ name }) => name);
  const wide = 'SAS step / MHA step, model 384 wide';
  expect(names({ filter: '', quick: false })).toContain(wide);
  expect(names({ filter: '', quick: true })).not.toContain(wide);
  expect(names({ filter: '384', quick: true })).toEqual([wide]);
  expect(names({ filter: 'tokens/s', quick: false })).toEqual([]);
});

describe('measured models', () => {
  it('the tiny one is what the comparison trains', () => {
    const { seeds: _, ...config } = PRESETS.tiny;
    const facts = modelFacts({ preset: 'tiny', attentions: [...COUNTED], seeds: 1, config }, getDevice('cpu'));
    for (const { attention, hidden } of facts) {
      const own = { ...config, attentions: [attention], hidden };
      const { text: __, ...measured } = TINY.configOf(attention as Counted);
      const { text: ___, ...trained } = own;
      expect(measured).toEqual({ ...trained, seed: 0 });
    }
  });

  it('have the FLOPs of a SAS step over those of an MHA step that the goals speak of', () => {
    const ratios = [TINY, DEFAULT, WIDE].map(
      ({ configOf }) => stepWork(configOf('sas')).flops / stepWork(configOf('mha'), 'mha').flops,
    );
    expect(ratios.map((ratio) => ratio.toFixed(2))).toEqual(['2.01', '2.06', '1.68']);
    const [tiny, , wide] = [...casesOf({ lengths: [], filter: 'SAS step' }, subjectOn(getDevice()))];
    expect(tiny?.contestants[1]?.target).toBe(1.81);
    expect(wide?.contestants[1]?.target).toBe(1.68);
  });
});

describe('work', () => {
  it('is what the paper counts at the reference size, T = 512', () => {
    const expansions = [true, true, false].map((features) => expandWork(512, REFERENCE, features));
    expect(expansions.reduce((sum, { forward }) => sum + forward.flops, 0) / 1e9).toBeCloseTo(2.83, 2);
    const shape = { batch: 1, length: 512, heads: 36, width: 96, valueWidth: 64 };
    expect(attentionWork(shape).forward.flops / 1e9).toBeCloseTo(1.51, 2);
    expect(linearWork(512, 768, 768).forward.flops / 1e9).toBeCloseTo(0.6, 2);
    const { forward, backward } = sasWork(1, 512, REFERENCE);
    expect(forward.flops / 1e9).toBeCloseTo(2.83 + 1.51 + 0.6, 1);
    expect(backward.flops / 1e9).toBeCloseTo(2 * (2.83 + 0.6) + 2.5 * 1.51, 1);
  });

  it('of the ablations leaves out what they do', () => {
    const sizes = { heads: 2, headDim: 8, simHeads: 4, simHeadDim: 12, kernelSize: 3 };
    const both = sasWork(1, 16, sizes).forward.flops;
    const attending = attentionWork({ batch: 1, length: 16, heads: 4, width: 12, valueWidth: 8 }).forward.flops;
    const projecting = linearWork(16, 16, 16).forward.flops;
    const headMaps = 16 * 2 * 8 * 3 * (2 * 4 + 4 * 4);
    const featureMaps = 16 * 2 * 4 * (8 * 12 + 12 * 12);
    expect(both).toBe(3 * headMaps + 2 * featureMaps + attending + projecting);
    expect(sasWork(1, 16, sizes, 4, 'heads').forward.flops).toBe(3 * headMaps + attending + projecting);
    expect(sasWork(1, 16, sizes, 4, 'features').forward.flops).toBe(2 * featureMaps + attending + projecting);
  });

  it('counts each tensor once', () => {
    // x [2, 3], W [5, 3], b [5] -> [2, 5]; gradients of all three from [2, 5].
    expect(linearWork(2, 3, 5).forward.bytes).toBe(4 * (6 + 15 + 5 + 10));
    expect(linearWork(2, 3, 5).backward.bytes).toBe(4 * (10 + 6 + 15 + 6 + 15 + 5));
    expect(linearWork(2, 3, 5, 2).forward.bytes).toBe(2 * (6 + 10) + 4 * (15 + 5));
  });
});

const level = (value: number) => ({ median: value, low: value, high: value });
const row = (name: string, unit: Row['unit'], value: number, target?: number): Row => ({
  case: name,
  length: 512,
  contestant: 'fused',
  flops: 1e9,
  bytes: 1e7,
  milliseconds: level(5),
  gflops: level(200),
  unit,
  value: level(value),
  ...(target !== undefined && { target, missedBy: missedBy(value, target, unitOf(unit)) }),
});

describe('reports', () => {
  const rows = [row('linear', 'percent', 86, 88), row('bf16', 'ratio', 1.5, 1.4), row('add', 'microseconds', 17, 15)];
  const runOf = (isa: string, own: Row[]): IsaRun => ({
    isa,
    peakGflops: 230,
    streamGigabytesPerSecond: 20,
    rows: own,
  });
  const { info } = getDevice('cpu');
  const report = makeReport(info, [runOf('avx512', rows), runOf('avx2', [row('linear', 'percent', 80, 88)])]);

  it('say what is missing to a target, in its own unit', () => {
    const lines = table(report.runs).split('\n').slice(2);
    expect(lines[0]).toMatch(/86\.0 % {2}88 % missed by 2\.0 .* 80\.0 % missed by 1\.0$/);
    expect(lines[1]).toMatch(/1\.50 x {2}1\.4 x met$/);
    expect(lines[2]).toMatch(/17\.0 us {2}15 us missed by 2\.0$/);
    expect(targetSummary(report.runs)).toBe('1 of 4 targets met');
  });

  it('say how times relate, beside the FLOPs, and how fast bytes move', () => {
    const facts = (unit: Row['unit'], first: object, second: object): CaseFacts => ({
      name: 'step',
      unit,
      contestants: [
        { name: 'one', work: { flops: 2e9, ...first } },
        { name: 'two', work: { flops: 3e9, ...second }, target: 1.35 },
      ],
    });
    const turns = [0.01, 0.014].map((seconds) => [{ seconds, peakFlops: 1e12 }]);
    const lines = (item: CaseFacts) => {
      const [, , ...text] = table([runOf('avx512', rowsOf(item, turns, 'cpu'))]).split('\n');
      return text;
    };
    const ratio = lines(facts('times', {}, {}));
    expect(ratio[0]).toMatch(/ 1\.00 x *$/);
    expect(ratio[1]).toMatch(/ 1\.40 x {2}1\.35 x missed by 0\.05 \(1\.50 x the FLOPs\)$/);
    expect(lines(facts('tokensPerSecond', { tokens: 700 }, { tokens: 700 }))[1]).toMatch(/ 50000 tokens\/s /);
    // 14 MB in 14 ms, of 20 GB/s.
    const share = lines(facts('share', {}, { flops: 0, bytes: 14e6 }));
    expect(share[0]).toMatch(/ 200\.0 +100\.0 % *$/);
    expect(share[1]).toMatch(/ 1\.40 x +140\.0 % +1\.35 % missed by 138\.7 +1\.0 \(5 %\)$/);
  });

  it('have a colour and a place in the legend for every contestant', async () => {
    const kept = { ...row('linear', 'percent', 70), contestant: 'fused, kept' };
    const spec = bars(makeReport(info, [runOf('avx512', [...rows, kept]), runOf('avx2', [kept])]));
    const chart = await renderSvg(spec);
    for (const series of ['fused', 'fused, kept', 'fused, kept, avx2']) expect(chart).toContain(`>${series}</text>`);
  });

  it('are drawn', async () => {
    const chart = await renderSvg(bars(report));
    for (const text of ['linear', 'bf16', 'add', 'fused, avx2', 'percent of the FMA peak'])
      expect(chart).toContain(text);
    const spec = rooflineOf(report);
    expect(spec && (await renderSvg(spec))).toContain('linear, T = 512: 86.0 %');
    expect(rooflineOf({ ...report, runs: [runOf('avx512', rows.slice(1))] })).toBeNull();
  });
});

it('a roofline with many points has every label inside its frame', () => {
  const points = Array.from({ length: 21 }, (_, i) => ({
    label: `attention backward, default model, T = ${i}: 50.0 %`,
    family: 'op',
    intensity: 16 * 1.15 ** i,
    gflops: 50,
    otherGflops: 0.5,
  }));
  const kinds = { point: 'fused', other: 'naive' };
  const spec = roofline(points, { title: '', subtitle: '', peakGflops: 76, gigabytesPerSecond: 17, kinds });
  type Layer = { data?: { values: { labelGflops?: number }[] }; encoding?: { y?: { scale?: { domain: number[] } } } };
  const layers = (spec as unknown as { layer: Layer[] }).layer;
  const heights = layers.flatMap(({ data }) => data?.values.flatMap(({ labelGflops }) => labelGflops ?? []) ?? []);
  const [lowest = Number.NaN] = layers.flatMap(({ encoding }) => encoding?.y?.scale?.domain ?? []);
  expect(heights.length).toBeGreaterThanOrEqual(21);
  expect(Math.min(...heights)).toBeGreaterThan(lowest);
});

describe('npm run bench', () => {
  const bench = (...args: string[]) =>
    spawnSync(process.execPath, ['--import', 'tsx', 'bench/speed/cpu/main.ts', ...args], {
      cwd: root,
      encoding: 'utf8',
      env: { ...process.env, SAS_DEVICE: 'cpu' },
    });

  it('writes what it measured, with other instruction sets beside the first, and draws it anew', () => {
    const args = ['--quick', '--filter', 'linear forward', '--isa', 'baseline,baseline', '--out', folder];
    const { status, stdout, stderr } = bench(...args);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    expect(stdout).toMatch(
      /^linear forward +512 +fused .* 90 % (met|missed by [\d.]+) +[\d.]+ % (met|missed by [\d.]+)$/m,
    );
    const { runs } = JSON.parse(readFileSync(join(folder, 'cpu-baseline.json'), 'utf8'));
    expect(runs[0].rows[0]).toMatchObject({ case: 'linear forward', unit: 'percent', target: 90 });
    expect(runs[1].rows[0].target).toBeCloseTo(runs[0].rows[0].value.median - 5);
    const again = bench('--draw', '--isa', 'baseline', '--out', folder);
    expect(again.stdout).toContain(join(folder, 'cpu-baseline-roofline.svg'));
  });

  it('refuses to draw rows of a kind that it does not know', () => {
    const rows = [{ ...row('linear', 'percent', 86), unit: 'furlongs' }];
    writeFileSync(join(folder, 'strange.json'), JSON.stringify({ runs: [{ rows }] }));
    const { status, stderr } = bench('--draw', '--name', 'strange', '--out', folder);
    expect(stderr).toMatch(/^bench: --draw: .*strange\.json is of another version of this program\n$/);
    expect(status).toBe(2);
  });

  it.each([
    [['--lengths', '8,x'], 'bench: --lengths 8,x: expected positive integers separated by commas'],
    [['--isa', 'sse9'], "SAS_ISA is 'sse9', expected one of "],
    [['--draw', '--name', 'absent'], 'bench: --draw: ENOENT: no such file'],
    [['--quick', '--lengths', '1', '--filter', 'nothing'], 'bench: no case matches --filter nothing'],
  ])('refuses %j', (args, message) => {
    const { status, stderr } = bench(...args);
    expect(stderr.trim().split('\n')).toEqual([expect.stringContaining(message)]);
    expect(status).toBe(2);
  });
});
