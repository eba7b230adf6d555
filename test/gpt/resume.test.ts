/** A checkpoint belongs to the text that it was trained on, whoever takes it up. */
import { createHash } from 'node:crypto';
import { copyFileSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PlannedRun } from '../../bench/quality/compare/plan.js';
import { saveCheckpoint } from '../../lib/gpt/checkpoint.js';
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { disposeRun, startRun } from '../../lib/gpt/run.js';
import { getDevice } from '../../lib/index.js';
import { runNode } from '../helpers/run_node.js';

const folder = mkdtempSync(join(tmpdir(), 'sas-resume-'));
afterAll(() => rmSync(folder, { recursive: true, force: true }));

const text = join(folder, 'text.txt');
const other = join(folder, 'other.txt');
const checkpoint = join(folder, 'checkpoint.safetensors');
const config: TrainConfig = {
  ...DEFAULT_CONFIG,
  ...{ attentions: ['mha'], text, width: 16, layers: 1, heads: 2, seq: 8, batch: 2, steps: 3 },
};

beforeAll(async () => {
  // As long as one another, and different in one byte of the part that only validates.
  const own = 'abcdefghij'.repeat(30);
  writeFileSync(text, own);
  writeFileSync(other, `${'abcdefghij'.repeat(29)}abcdefghiz`);
  const device = getDevice('cpu');
  const run = startRun(config, 'mha', device);
  run.step = 1;
  await saveCheckpoint(checkpoint, run, createHash('sha256').update(own).digest('hex'));
  disposeRun(run);
});

const program = 'bench/quality/train/main.ts';

describe('train --resume', () => {
  it('goes on with the text of the checkpoint', async () => {
    const { code, output } = await runNode(program, ['--resume', checkpoint, '--out', join(folder, 'same')]);
    expect(output).toMatch(/^mha step 3\/3/m);
    expect(code).toBe(0);
  });

  it('refuses another', async () => {
    const { code, output } = await runNode(program, ['--resume', checkpoint, '--text', other]);
    expect(output).toContain(`text '${other}' is not the one that the checkpoint was trained on`);
    expect(code).toBe(2);
  });
});

describe('a run of a comparison', () => {
  const worker = async (path: string) => {
    const own = mkdtempSync(join(folder, 'run-'));
    copyFileSync(checkpoint, join(own, 'checkpoint.safetensors'));
    const run: PlannedRun = { attention: 'mha', seed: 0, config: { ...config, text: path }, folder: own };
    return runNode('bench/quality/compare/worker.ts', [JSON.stringify({ run, device: 'cpu' })]);
  };

  it('goes on with the text of its checkpoint', async () => {
    expect(await worker(text)).toEqual({ code: 0, output: '' });
  });

  it('refuses another', async () => {
    const { code, output } = await worker(other);
    expect(output).toContain('checkpoint.safetensors was trained on another text');
    expect(code).toBe(1);
  });
});
