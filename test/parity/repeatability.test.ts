// Same inputs, same device, same build: bit-identical outputs and gradients, whatever the number of CPU threads.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import { attentionProblem } from '../helpers/attention_cases.js';
import { digests } from '../helpers/digest.js';
import { device, timeout } from '../helpers/parity.js';

const script = fileURLToPath(new URL('../helpers/digest.ts', import.meta.url));

interface Printed {
  threads?: number;
  hashes: Record<string, string[]>;
}

async function digestsWith(threads: number): Promise<Record<string, string[]>> {
  const env = { ...process.env, SAS_THREADS: String(threads) };
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script], { env });
  const printed = JSON.parse(stdout) as Printed;
  if (device.info.kind === 'cpu') expect(printed.threads).toBe(threads);
  return printed.hashes;
}

describe('repeatability', () => {
  it('20 runs in one process give the same bits', { timeout }, async () => {
    const seen = await digests(20);
    expect(Object.keys(seen).length).toBeGreaterThan(40);
    expect(Object.entries(seen).filter(([, hashes]) => hashes.length !== 1)).toEqual([]);
  });

  it('1, 2, 3 and 4 threads give the same bits', { timeout }, async () => {
    const [first, ...others] = await Promise.all([1, 2, 3, 4].map(digestsWith));
    expect(Object.keys(first).length).toBeGreaterThan(40);
    for (const [i, other] of others.entries()) expect(other, `${i + 2} threads`).toEqual(first);
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
