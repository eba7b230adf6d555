/** A whole report from made-up runs of three seeds, one of them missing, given in no order. */
import { mkdtempSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { parseCompare } from '../../../../bench/quality/compare/options.js';
import { plannedRuns } from '../../../../bench/quality/compare/plan.js';
import { findings, reportTable, writeReport } from '../../../../bench/quality/compare/report.js';
import { type Comparison, compare, type RunResult } from '../../../../bench/quality/compare/results.js';
import type { DeviceInfo } from '../../../../lib/index.js';

const folder = mkdtempSync(join(tmpdir(), 'sas-report-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

/** Every number differs from every other, so that none can stand in another's column. */
const FACTS = [
  { attention: 'mha', hidden: 419, parameters: 405_129, cachedElements: 576 },
  { attention: 'gqa', hidden: 467, parameters: 404_985, cachedElements: 288 },
  { attention: 'sas', hidden: 384, parameters: 404_856, cachedElements: 2016 },
] as const;

/** Validation losses at steps 100, 200, 300; speed; peak memory. Seed 1 of mha is missing. */
const RUNS: Record<string, { losses: [number, number, number]; speed: number; peak: number }> = {
  'mha-0': { losses: [3, 2, 1.5], speed: 24_000, peak: 50e6 },
  'mha-2': { losses: [3.4, 2.2, 1.7], speed: 26_000, peak: 53e6 },
  'gqa-0': { losses: [3.1, 2.1, 1.65], speed: 31_000, peak: 40e6 },
  'gqa-1': { losses: [3.2, 2.2, 1.66], speed: 32_000, peak: 41e6 },
  'gqa-2': { losses: [3.3, 2.3, 1.67], speed: 33_000, peak: 42e6 },
  'sas-0': { losses: [2.8, 1.7, 1.4], speed: 10_000, peak: 71e6 },
  'sas-1': { losses: [2.9, 1.8, 1.1], speed: 11_000, peak: 72e6 },
  'sas-2': { losses: [3, 1.9, 1.3], speed: 12_000, peak: 70e6 },
};

const options = parseCompare(['--attention', 'mha,gqa,sas', '--seeds', '3', '--steps', '300']);
if (!options) throw new Error('no help was asked for');
const { experiment } = options;
const planned = plannedRuns(experiment, FACTS, '');
const results = planned.flatMap((run): RunResult[] => {
  const made = RUNS[run.folder];
  if (!made) return [];
  const validation = made.losses.map((loss, i) => ({ step: 100 * (i + 1), loss }));
  const summary = {
    parameters: 1,
    steps: 300,
    trainLoss: 9.9,
    validationLoss: made.losses[2],
    perplexity: 99,
    tokensPerSecond: made.speed,
    peakMemoryBytes: made.peak,
  };
  return [{ run, validation, summary }];
});
// The last seeds first: what belongs together is told by the seed, not by the place.
const comparisons = compare(FACTS, [...results].reverse());
const device = { id: 'cpu', name: 'A processor', isa: 'avx2' } as DeviceInfo;

const TABLE = [
  ['mha', '405,129', '419', '1.6000 ± 0.1414', '4.978 ± 0.702', '300', '25,000', '53', '1,152'],
  ['gqa', '404,985', '467', '1.6600 ± 0.0100', '5.259 ± 0.053', 'not reached', '32,000', '42', '576'],
  ['sas', '404,856', '384', '1.2667 ± 0.1528', '3.576 ± 0.532', '238', '11,000', '72', '4,032'],
];

const FINDINGS = [
  'By final validation loss, best first: sas, mha, gqa.',
  // The seeds that both have: 2 and 0, -0.4 and -0.1. Deviation 0.2121, over the root of 2.
  "sas less mha: -0.2500 ± 0.1500 (standard error), per seed -0.4000, -0.1000; sas has mha's final loss after 79% of the steps, in 1.80 times the time.",
  // -0.37, -0.56, -0.25: deviation 0.1563, over the root of 3.
  'sas less gqa: -0.3933 ± 0.0902 (standard error), per seed -0.3700, -0.5600, -0.2500.',
];

describe('a report of three seeds, one missing', () => {
  let text = '';
  let lines: Record<string, unknown>[] = [];
  beforeAll(async () => {
    const facts = { experiment, device, jobs: 2, comparisons, date: '2026-11-27', commit: 'abc' };
    await writeReport(folder, { ...facts, missing: planned.length - results.length });
    text = readFileSync(join(folder, 'report.md'), 'utf8');
    lines = readFileSync(join(folder, 'runs.jsonl'), 'utf8')
      .trim()
      .split('\n')
      .map((line) => JSON.parse(line));
  });

  it('has every number in its column', () => {
    const rows = text.split('\n').filter((line) => line.startsWith('| '));
    const cells = rows.map((row) => row.slice(2, -2).split(' | '));
    expect(cells[0]).toEqual([
      'attention',
      'parameters',
      'feed-forward',
      'validation loss',
      'perplexity',
      "steps to mha's loss",
      'tokens/s',
      'peak MB',
      'KV bytes/token',
    ]);
    expect(cells.slice(2)).toEqual(TABLE);
    const printed = reportTable(comparisons).split('\n').slice(-TABLE.length);
    expect(printed.map((line) => line.trim().split(/ {2,}/))).toEqual(TABLE);
  });

  it('pairs runs by their seed and gives the standard error of the mean', () => {
    expect(findings(comparisons)).toEqual(FINDINGS);
    expect(text.split('\n').filter((line) => line.startsWith('- '))).toEqual(FINDINGS.map((line) => `- ${line}`));
  });

  it('says that a run is missing, and how the others were made', () => {
    expect(text).toContain('\n**1 run is missing.**\n');
    expect(text).toContain(
      '3 layers of 96, 4 heads, rotary positions, T = 128, batch 8,\n300 steps, peak learning rate',
    );
    expect(text).toContain('SAS: 12 simulated heads, 32 simulated features, kernel 5.');
    expect(text).toContain('\n3 seeds each:');
    expect(text).toContain('A processor, avx2, cpu, 2 runs at a time, 2026-11-27, commit abc.');
  });

  it('keeps every validation and summary', () => {
    expect(lines).toHaveLength(results.length * 4);
    for (const { run, summary } of results) {
      const own = lines.filter((line) => line.attention === run.attention && line.seed === run.seed);
      const losses = RUNS[run.folder]?.losses ?? [];
      const { attention, seed } = run;
      expect(own).toEqual([
        ...losses.map((loss, i) => ({ attention, seed, step: 100 * (i + 1), validationLoss: loss })),
        { attention, seed, summary },
      ]);
    }
  });

  it('draws the mean and the range of each attention', () => {
    const sas = comparisons.find(({ attention }: Comparison) => attention === 'sas');
    expect(sas?.curve.map(({ step, low, high }) => [step, low, high])).toEqual([
      [100, 2.8, 3],
      [200, 1.7, 1.9],
      [300, 1.1, 1.4],
    ]);
    expect(sas?.curve.map(({ loss }) => Math.round(loss * 1000))).toEqual([2900, 1800, 1267]);
  });
});
