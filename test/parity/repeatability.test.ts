// Same inputs, same device, same build: bit-identical outputs and gradients, whatever the number of CPU threads.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import { attentionProblem } from '../helpers/attention_cases.js';
import { digests } from '../helpers/digest.js';
import { timeout } from '../helpers/parity.js';

const script = fileURLToPath(new URL('../helpers/digest.ts', import.meta.url));

async function digestsWith(threads: number): Promise<Record<string, string>> {
  const env = { ...process.env, SAS_THREADS: String(threads) };
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script], { env });
  return JSON.parse(stdout) as Record<string, string>;
}

describe('repeatability', () => {
  it('20 runs in one process give the same bits', { timeout }, async () => {
    const first = await digests();
    expect(Object.keys(first).length).toBeGreaterThan(30);
    for (let run = 1; run < 20; run++) expect(await digests(), `run ${run}`).toEqual(first);
  });

  it('1, 2, 3 and 4 threads give the same bits', { timeout }, async () => {
    const first = await digestsWith(1);
    expect(Object.keys(first).length).toBeGreaterThan(30);
    for (const threads of [2, 3, 4]) expect(await digestsWith(threads), `${threads} threads`).toEqual(first);
  });

  it.each(['f32', 'bf16'] as const)(
    '250 runs of attentionBackward give the same bits (%s)',
    { timeout },
    async (dtype) => {
      const [timeQ, timeK] = [97, 97];
      const shape = { batch: 2, timeQ, timeK, heads: 6, keyHeads: 2, width: 24, valueWidth: 40, causal: true };
      const problem = attentionProblem(shape, dtype, 5);
      const [q, k, v] = [problem.q.tensor, problem.k.tensor, problem.v.tensor];
      const { output, logSumExp } = ops.attention(q, k, v);
      const hashes = new Set<string>();
      for (let run = 0; run < 250; run++) {
        const gradients = ops.attentionBackward(problem.gradOutput.tensor, { q, k, v, output, logSumExp });
        const hash = createHash('sha256');
        for (const gradient of Object.values(gradients)) {
          const bits = await gradient.raw();
          hash.update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
          gradient.dispose();
        }
        hashes.add(hash.digest('hex'));
      }
      expect(hashes.size).toBe(1);
    },
  );
});
