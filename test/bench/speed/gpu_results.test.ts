// What is drawn from the runs on GPUs that bench/results/gpu holds.
import { mkdirSync, mkdtempSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, it, vi } from 'vitest';
import { drawGpuResults, page, readDevices } from '../../../bench/speed/gpu/draw.js';

const folder = mkdtempSync(join(tmpdir(), 'sas-gpu-results-'));
afterAll(() => rmSync(folder, { recursive: true }));

const row = (name: string, milliseconds: number, more: object = {}) => ({
  case: name,
  dtype: 'bf16',
  batch: 64,
  length: 512,
  seconds: { median: milliseconds / 1e3, low: 0, high: 1 },
  flops: 1e12,
  peakFlops: 1e15,
  ...more,
});
function write(run: string, name: string, content: object | string): void {
  mkdirSync(join(folder, run), { recursive: true });
  writeFileSync(join(folder, run, name), typeof content === 'string' ? content : JSON.stringify(content));
}
const bench = (date: string, rows: object[], device = 'NVIDIA Test 9000') => ({
  date,
  device: { name: device },
  rows,
  failures: [],
  notRun: [],
});
const rivals = (rows: object[]) => ({
  torch: '2.99',
  cuda: '13.0',
  cudnn: 9,
  bounds: {},
  rows,
  failures: [],
  notRun: [],
});

describe('results on GPUs', () => {
  it('the newest of each case, beside the fastest rival that does the same work', async () => {
    const older = [row('attention forward', 3), row('linear 768->768 forward', 2), row('naive attention forward', 9)];
    write('test-9000-1', 'bench.json', bench('2026-01-01T00:00:00Z', older));
    const sdpa = (name: string, milliseconds: number) =>
      row('attention forward', milliseconds, { contestant: `SDPA ${name}` });
    write('test-9000-1', 'rivals.json', rivals([sdpa('a 96/64', 5), sdpa('b 96/64', 4), sdpa('c 64/64', 1)]));
    write('test-9000-2', 'bench.json', bench('2026-02-01T00:00:00Z', [row('attention forward', 2)]));
    write('test-9000-2', 'rivals.json', '{"torch": "2.');
    write('other-1', 'bench.json', bench('2026-01-01T00:00:00Z', [row('gelu forward', 1)], 'NVIDIA Other'));
    write('empty-1', 'log.txt', 'nothing');

    const warn = vi.spyOn(console, 'warn').mockImplementation(() => undefined);
    const devices = readDevices(folder);
    expect(warn.mock.calls).toEqual([[expect.stringMatching(/^test-9000-2\/rivals\.json: /)]]);
    expect(devices.map(({ name, runs }) => [name, runs])).toEqual([
      ['NVIDIA Other', ['other-1']],
      ['NVIDIA Test 9000', ['test-9000-2', 'test-9000-1']],
    ]);
    const table = page(devices)
      .split('\n')
      .filter((line) => line.includes('| bf16 |'));
    expect(table).toEqual([
      '| gelu forward | bf16 | 512 | 64 | 1.000 | 1000.0 |  |  | [2026-01-01](other-1/summary.txt) |',
      '| attention forward | bf16 | 512 | 64 | 2.000 | 500.0 | SDPA b 96/64 | 2.00 | [2026-02-01](test-9000-2/summary.txt) |',
      '| linear 768->768 forward | bf16 | 512 | 64 | 2.000 | 500.0 |  |  | [2026-01-01](test-9000-1/summary.txt) |',
    ]);

    const written = await drawGpuResults(folder);
    warn.mockRestore();
    expect(written.map((file) => file.slice(folder.length + 1))).toEqual(['README.md', 'other.svg', 'test-9000.svg']);
    const picture = readFileSync(join(folder, 'test-9000.svg'), 'utf8');
    for (const text of ['PyTorch 2.99', 'attention forward', 'the fastest in PyTorch', '4.00'])
      expect(picture).toContain(text);
  });

  it('are nothing where there are none', async () => {
    expect(await drawGpuResults(join(folder, 'absent'))).toEqual([]);
  });

  it('stand on the page as they are in the repository (else: npm run bench -- --draw)', () => {
    const results = resolve(import.meta.dirname, '../../../bench/results/gpu');
    expect(readFileSync(join(results, 'README.md'), 'utf8')).toBe(page(readDevices(results)));
    expect(readdirSync(results).filter((name) => name.endsWith('.svg'))).toHaveLength(readDevices(results).length);
  });
});
