// Parts of the command line: suggestions, the doctor's own reference, texts.
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, describe, expect, it } from 'vitest';
import { NO_CUDA } from '../../lib/addon_file.js';
import { closest } from '../../lib/cli/arguments.js';
import { diagnosisText } from '../../lib/cli/doctor/text.js';
import { warningsOf } from '../../lib/cli/doctor/warnings.js';
import { textTable } from '../../lib/cli/text_table.js';
import { Random } from '../../lib/gpt/random.js';
import { textAt } from '../../lib/gpt/text.js';
import * as reference from '../../lib/measure/reference.js';
import { type Array64, array64 } from '../reference/array64.js';
import * as truth from '../reference/index.js';

describe('closest', () => {
  it.each([
    ['trian', 'train'],
    ['benc', 'bench'],
    ['doktor', 'doctor'],
    ['trainn', 'train'],
    ['serve', undefined],
    ['', undefined],
  ])('%j is probably %j', (word, meant) => {
    expect(closest(word, ['doctor', 'bench', 'train'])).toBe(meant);
  });
});

describe('the doctor', () => {
  const gpu = { id: 'cuda:0', kind: 'cuda', name: 'NVIDIA H200', memoryBytes: 2 ** 37 } as const;
  const usable = (blas: string) => ({ ...gpu, usable: true, blas });
  const unusable = (reason: string) => ({ ...gpu, usable: false, reason });
  // As native/cuda/cuda_backend.cu has it.
  const oldDriver = (has: string, needs: string) =>
    unusable(
      `the NVIDIA driver supports CUDA ${has}, but this build of sas-attention needs CUDA ${needs}: update the driver`,
    );

  it.each([
    ['a build without CUDA beside a driver', unusable(NO_CUDA), '580.95.05', /driver \(580\.95\.05\).*SAS_CUDA=on/],
    ['a driver for CUDA 12', oldDriver('12.4', '13.0'), '550.54.14', /cuda:0 .* ends at CUDA 12\.4: .* R580 or newer$/],
    ['a driver for CUDA 11', oldDriver('11.8', '12.9'), '520.61.05', /ends at CUDA 11\.8: update it to R525 or newer$/],
    [
      'no cuBLAS',
      usable('built-in (no libcublas.so.13 or .12 found)'),
      '580.95.05',
      /^cuda:0 .* \(no libcublas.* found\)\. .*pip install nvidia-cublas.*SAS_CUBLAS_PATH/,
    ],
  ])('warns of %s', (_, device, driver, words) => {
    expect(warningsOf([device], driver)).toEqual([expect.stringMatching(words)]);
  });

  it.each([
    ['a build without CUDA where there is no driver', unusable(NO_CUDA), null],
    ['a machine without a GPU', unusable('the NVIDIA driver finds no GPU'), '580.95.05'],
    ['cuBLAS', usable('cuBLAS 13.1.0 (/usr/lib/libcublas.so.13)'), '580.95.05'],
    ['cuBLAS that is off', usable('built-in (SAS_CUBLAS_PATH=off)'), '580.95.05'],
  ])('has no warning for %s', (_, device, driver) => {
    expect(warningsOf([device], driver)).toEqual([]);
  });

  it('calls what it measures by its name, and warns before it concludes', () => {
    const selfTest = (device: string) => ({
      device,
      checks: [],
      speeds: [{ name: 'expand Q forward, T = 512', milliseconds: 1, gflops: 100, percentOfPeak: 50 }],
      peakGflops: 200,
      seconds: 2,
      right: true,
    });
    const text = diagnosisText({
      date: '',
      machine: { package: {}, nvidiaDriver: '580.95.05', environment: [] } as never,
      addon: { error: 'not here' },
      devices: [],
      defaultDevice: null,
      selfTests: [selfTest('cpu'), selfTest('cuda:0')],
      problems: [],
      warnings: ['one', 'two'],
    });
    expect(text).toMatch(/^ {2}NVIDIA driver {2}580\.95\.05$/m);
    const [cpu = '', cuda = ''] = text.split('Self-test of ').slice(1);
    expect(cpu).toMatch(/ of the FMA peak$/m);
    expect(cpu).toContain('FMA peak 200 GFLOP/s; ');
    expect(cuda).toMatch(/ of the tensor-core peak$/m);
    expect(cuda).toContain('tensor-core peak 200 GFLOP/s in bf16; ');
    expect(cuda).not.toContain('FMA');
    expect(text).toMatch(/\n\nWarning: one\nWarning: two\n\nEverything works\.$/);
  });
});

describe("the doctor's reference agrees with that of the tests", () => {
  const random = Random.seeded(3, 'reference');
  const draw = (...shape: number[]): Array64 => {
    const size = shape.reduce((a, b) => a * b, 1);
    return array64(
      Array.from({ length: size }, () => random.normal()),
      shape,
    );
  };
  const values = (arrays: object) =>
    Object.fromEntries(Object.entries(arrays).map(([name, { data }]: [string, Array64]) => [name, data]));
  const difference = (a: ArrayLike<number> = [], b: ArrayLike<number> = []) =>
    a.length === b.length
      ? Math.max(...Array.from(a, (value, i) => Math.abs(value - (b[i] ?? Number.NaN))))
      : Number.NaN;
  const agree = (actual: reference.Inputs, expected: reference.Inputs, tolerance: number) => {
    expect(Object.keys(actual).sort()).toEqual(Object.keys(expected).sort());
    for (const name of Object.keys(expected)) expect(difference(actual[name], expected[name])).toBeLessThan(tolerance);
  };

  it('of expand', () => {
    const [T, H, D, S, E, k] = [4, 2, 5, 4, 7, 3];
    const weights = {
      headWeight: draw(S, H, k),
      headBias: draw(S),
      headResidualWeight: draw(S, S, k),
      headResidualBias: draw(S),
      featureWeight: draw(E, D),
      featureBias: draw(E),
      featureResidualWeight: draw(E, E),
      featureResidualBias: draw(E),
    };
    const [x, gradOutput] = [draw(1, T, H, D), draw(1, T, S, E)];
    const inputs = values({ x, ...weights });
    const forward = reference.expand(H, D);
    agree({ output: forward(inputs) }, values({ output: truth.expand(x, weights) }), 1e-12);
    const { gradX, gradWeights } = truth.expandBackward(gradOutput, x, weights);
    const expected = values({ x: gradX, ...gradWeights });
    agree(reference.gradients(forward, inputs, gradOutput.data), expected, 1e-6);
  });

  it('of attention', () => {
    const [T, heads, width, valueWidth] = [7, 2, 5, 3];
    const [q, k, v] = [draw(1, T, heads, width), draw(1, T, heads, width), draw(1, T, heads, valueWidth)];
    const gradOutput = draw(1, T, heads, valueWidth);
    const inputs = values({ q, k, v });
    const forward = reference.attention(heads, width, valueWidth);
    agree({ output: forward(inputs) }, values({ output: truth.attention(q, k, v).output }), 1e-13);
    const { gradQ, gradK, gradV } = truth.attentionBackward(gradOutput, q, k, v);
    const expected = values({ q: gradQ, k: gradK, v: gradV });
    agree(reference.gradients(forward, inputs, gradOutput.data), expected, 1e-8);
  });
});

it('a table is as wide with colours as without', () => {
  const plain = textTable(['', 'n'], [['ok', '1']], [0]);
  const coloured = textTable(['', 'n'], [['\u001b[32mok\u001b[39m', '1']], [0]);
  expect(coloured.replace('\u001b[32mok\u001b[39m', 'ok')).toBe(plain);
});

describe('a folder as text', () => {
  const folder = mkdtempSync(join(tmpdir(), 'sas-text-'));
  afterAll(() => rmSync(folder, { recursive: true }));

  it('is its text files in the order of their paths', async () => {
    mkdirSync(join(folder, 'b'));
    const files = { 'c.txt': 'last', 'a.txt': 'first', 'b/z.md': 'between', '.hidden': 'no', 'd.bin': 'n\u0000o' };
    for (const [name, content] of Object.entries(files)) writeFileSync(join(folder, name), content);
    expect(Buffer.from(await textAt(folder).read()).toString()).toBe('first\n\nbetween\n\nlast');
  });
});
