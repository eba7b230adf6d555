// `npm run bench -- --against`: who works when, what the report says, and whose source is measured.
import { spawnSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, readFileSync, rmSync, symlinkSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'esbuild';
import { afterAll, describe, expect, it } from 'vitest';
import { type Comparison, compareSides, comparisonText, type PairedRow } from '../../../bench/speed/cpu/against.js';
import type { ReadyCase, Side } from '../../../bench/speed/cpu/side.js';
import { getDevice } from '../../../lib/index.js';

const root = fileURLToPath(new URL('../../..', import.meta.url));
const folder = mkdtempSync(join(tmpdir(), 'sas-against-'));
afterAll(() => rmSync(folder, { recursive: true }));

const contestants = [
  { name: 'fused', work: { flops: 1e9 }, target: 50, speedup: 2 },
  { name: 'naive', work: { flops: 1e9 } },
];

/** Work whose steps are noted when they begin and end; its times are given. */
function scripted(
  name: string,
  log: string[],
  seconds: number[][],
  missing: ReadyCase['missing'] = [null, null],
): Side {
  const cases: ReadyCase[] = [{ name: 'linear', length: 8, unit: 'percent', contestants, missing }];
  const busy = async <T>(what: string, value: T): Promise<T> => {
    log.push(`${name} ${what}`);
    await new Promise((resolve) => setTimeout(resolve, 2));
    log.push(`${name} done`);
    return value;
  };
  const device = { ...getDevice('cpu').info, kind: 'cpu' } as const;
  return {
    open: () => busy('open', { device, streamGigabytesPerSecond: 10 }),
    next: () => busy('next', cases.shift() ?? null),
    turn: (i) => busy(`turn ${i}`, { seconds: seconds[i]?.shift() ?? Number.NaN, peakFlops: 1e12 }),
  };
}

describe('two sides', () => {
  it('take turns, sample by sample, and only one works at any time', async () => {
    const log: string[] = [];
    const times = () => [
      [1, 1],
      [1, 1],
    ];
    await compareSides({ other: scripted('other', log, times()), own: scripted('own', log, times()) }, 2);
    const both = (what: string) => [`other ${what}`, 'other done', `own ${what}`, 'own done'];
    const round = [...both('turn 0'), ...both('turn 1')];
    expect(log).toEqual([...both('open'), ...both('next'), ...round, ...round, ...both('next')]);
  });

  it('are compared by the ratios of neighbouring samples, this one over the other', async () => {
    // The machine gets slower and slower: medians of times far apart, ratios 0.5, 0.5, 0.25.
    const other = scripted('other', [], [[1, 10, 400], []], [null, 'naive has no option']);
    const own = scripted('own', [], [[0.5, 5, 100], [1, 1, 1]]); // biome-ignore format: a list per contestant
    const { rows } = await compareSides({ other, own }, 3);
    expect(rows[0]?.time?.median).toBe(0.5);
    expect(rows[0]?.time?.low).toBeCloseTo(0.3, 12);
    expect(rows[0]).toMatchObject({
      speedup: 2,
      milliseconds: { median: 5000 },
      other: { milliseconds: { median: 10_000 } },
    });
    expect(rows[1]).toMatchObject({ contestant: 'naive', other: null, missing: 'naive has no option' });
    expect(rows[1]).not.toHaveProperty('time');
  });

  it('end where this one cannot run what it should', async () => {
    const own = scripted('own', [], [[], []], ['out of memory', null]);
    const sides = { other: scripted('other', [], [[], []]), own };
    await expect(compareSides(sides, 1)).rejects.toThrow('linear, T = 8: out of memory');
  });
});

it('the report has both values, the ratio with its spread, targets, and what is only here', () => {
  const level = (value: number) => ({ median: value, low: value, high: value });
  const row = (contestant: string, value: number, more: Partial<PairedRow>): PairedRow => ({
    case: 'step',
    length: 128,
    contestant,
    flops: 1e9,
    milliseconds: level(5),
    gflops: level(200),
    unit: 'tokensPerSecond',
    value: level(value),
    other: null,
    ...more,
  });
  const other = (value: number) => row('', value, {});
  const time = { median: 0.8, low: 0.75, high: 0.9 };
  const rows = [
    row('sas', 7000, { other: other(6000), time, speedup: 1.3 }),
    row('mha', 9000, { other: other(7000), time, speedup: 1.1 }),
    row('kept', 60, { unit: 'percent', target: 75, missedBy: 15, missing: "unknown option 'keep'" }),
  ];
  const { info: device } = getDevice('cpu');
  const side = (revision: string, peakGflops: number) => ({ revision, peakGflops, streamGigabytesPerSecond: 20 });
  const comparison = {
    date: '',
    device,
    node: '',
    processor: '',
    other: side('abc', 230),
    own: side('def+', 231),
    rows,
  };
  const text = comparisonText(comparison);
  expect(text).toContain('other (abc): FMA peak 230 GFLOP/s, memory 20.0 GB/s\nthis (def+): FMA peak 231 GFLOP/s');
  expect(text).toMatch(/^case +T +other +this +time +spread +target$/m);
  expect(text).toMatch(
    /^step +128 +sas +6000 tokens\/s +7000 tokens\/s +0\.80 x +0\.75-0\.90 +1\.3 x as fast missed by 0\.05$/m,
  );
  expect(text).toMatch(/^ +mha +7000 tokens\/s +9000 tokens\/s +0\.80 x +0\.75-0\.90 +1\.1 x as fast met$/m);
  expect(text).toMatch(/^ +kept +60\.0 % +75 % missed by 15\.0$/m);
  expect(text).toContain("\n\nnot there: step, kept: unknown option 'keep'\n\n");
  expect(text).toMatch(/1 of 3 targets met$/);
});

const bench = (...args: string[]) =>
  spawnSync(process.execPath, ['--import', 'tsx', 'bench/speed/cpu/main.ts', ...args], {
    cwd: root,
    encoding: 'utf8',
    env: { ...process.env, SAS_DEVICE: 'cpu' },
  });

/** A checkout of its own source files over this one's addon. */
function checkout(name: string, files: Readonly<Record<string, string>>, built = true): string {
  const place = join(folder, name);
  mkdirSync(join(place, 'lib/gpt'), { recursive: true });
  mkdirSync(join(place, 'build/Release'), { recursive: true });
  for (const [file, text] of Object.entries(files)) writeFileSync(join(place, file), text);
  const addon = 'build/Release/sas_attention.node';
  if (built) symlinkSync(join(root, addon), join(place, addon));
  return place;
}

const from = (file: string) => `export * from '${join(root, file)}';\n`;
const SOURCES = {
  'lib/index.ts': from('lib/index.ts'),
  'lib/gpt/run.ts': from('lib/gpt/run.ts'),
  'lib/gpt/loop.ts': from('lib/gpt/loop.ts'),
};

describe('npm run bench -- --against', () => {
  it("loads nothing of this checkout's library into the process that measures the other", async () => {
    const entryPoints = [join(root, 'bench/speed/cpu/side_worker.ts')];
    const options = { bundle: true, platform: 'node', format: 'esm', metafile: true, write: false } as const;
    const { metafile } = await build({ entryPoints, absWorkingDir: root, ...options });
    const files = Object.keys(metafile.inputs);
    expect(files).toContain('lib/measure/step_cases.ts');
    expect(files.filter((file) => /^lib\/(index|binding|tensor|ops\/.*)\.ts$/.test(file))).toEqual([]);
  });

  it("measures the other checkout's own source over its own addon, and leaves out what it does not have", () => {
    // Its linear takes 20 ms more and knows no bf16; its addon is the one beside it.
    const other = checkout('slow', {
      ...SOURCES,
      'lib/index.ts': `${from('lib/index.ts')}
        import { ops as fast } from '${join(root, 'lib/index.ts')}';
        if (process.env.SAS_BINDING !== '${join(folder, 'slow/build/Release/sas_attention.node')}') throw new Error('addon');
        const wait = () => { const end = performance.now() + 20; while (performance.now() < end); };
        const linear = (...args) => { if (args[0].dtype === 'bf16') throw new Error('no bf16'); wait(); return fast.linear(...args); };
        export const ops = { ...fast, linear };`,
    });
    const args = ['--quick', '--lengths', '64', '--filter', 'linear forward', '--out', folder];
    const { status, stdout, stderr } = bench(...args, '--against', other);
    expect({ status, stderr }).toEqual({ status: 0, stderr: '' });
    const [file = ''] = /(?<=written: ).*\.json$/m.exec(stdout) ?? [];
    const { rows }: Comparison = JSON.parse(readFileSync(file, 'utf8'));
    const [forward, , bf16] = rows;
    expect(rows.map((row) => row.contestant)).toEqual(['fused', 'f32', 'bf16']);
    expect(forward?.other?.milliseconds.median).toBeGreaterThan(20);
    expect(forward?.time?.median).toBeLessThan(0.5);
    expect(bf16).toMatchObject({ other: null, missing: 'no bf16' });
    expect(stdout).toContain('not there: linear forward, bf16, bf16: no bf16');
  });

  const { 'lib/gpt/loop.ts': _, ...withoutLoop } = SOURCES;
  const without = (name: string) => `${from('lib/index.ts')}export const ${name} = undefined;\n`;
  it.each([
    ['is not there', [join(folder, 'absent')], /has no lib\/index\.ts, expected a checkout of this project$/],
    [
      'is not built',
      [checkout('unbuilt', SOURCES, false)],
      /unbuilt' is not built: it has no build\/Release\/sas_attention\.node/,
    ],
    [
      'has no training step',
      [checkout('loopless', withoutLoop)],
      /loopless' has another API: there is no lib\/gpt\/loop\.ts$/,
    ],
    [
      'has another API',
      [checkout('other', { ...SOURCES, 'lib/index.ts': without('scope') })],
      /other' has another API: lib\/index\.ts exports no scope$/,
    ],
    ['is to be drawn', [root, '--draw'], /--against and --draw exclude each other$/],
    [
      'is to be measured twice',
      [root, '--isa', 'avx2,baseline'],
      /--isa avx2,baseline: --against measures one instruction set$/,
    ],
  ])('refuses a checkout that %s', (_, [other = '', ...args], message) => {
    const { status, stderr } = bench('--quick', '--lengths', '8', '--filter', 'linear', ...args, '--against', other);
    expect(stderr.trim().split('\n')).toEqual([expect.stringMatching(message)]);
    expect(stderr).toMatch(/^bench: /);
    expect(status).toBe(2);
  });
});
