// Same inputs, same device, same build: bit-identical outputs and gradients, whatever the number of CPU threads or the order
// in which the emulated device runs its warps and blocks.
import { execFile } from 'node:child_process';
import { createHash } from 'node:crypto';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { ops } from '../../lib/index.js';
import { attentionProblem } from '../helpers/attention_cases.js';
import { digests } from '../helpers/digest.js';
import { device, emulated, timeout } from '../helpers/parity.js';

const script = fileURLToPath(new URL('../helpers/digest.ts', import.meta.url));

interface Printed {
  threads?: number;
  hashes: Record<string, string[]>;
}

const runs = emulated
  ? { process: 2, backward: 10, variants: [1, 2] }
  : { process: 20, backward: 250, variants: [1, 2, 3, 4] };

/** In a process of its own with that many threads, or with that order of execution. */
async function digestsWith(variant: number): Promise<Record<string, string[]>> {
  const env = { ...process.env, [emulated ? 'SAS_EMULATOR_SEED' : 'SAS_THREADS']: String(variant) };
  const { stdout } = await promisify(execFile)(process.execPath, ['--import', 'tsx', script], { env });
  const printed = JSON.parse(stdout) as Printed;
  if (device.info.kind === 'cpu') expect(printed.threads).toBe(variant);
  return printed.hashes;
}

describe('repeatability', () => {
  it(`${runs.process} runs in one process give the same bits`, { timeout }, async () => {
    const seen = await digests(runs.process);
    expect(Object.keys(seen).length).toBeGreaterThan(40);
    expect(Object.entries(seen).filter(([, hashes]) => hashes.length !== 1)).toEqual([]);
  });

  it(`${emulated ? 'seeds' : 'threads'} ${runs.variants.join(', ')} give the same bits`, { timeout }, async () => {
    const [first, ...others] = await Promise.all(runs.variants.map(digestsWith));
    expect(Object.keys(first).length).toBeGreaterThan(40);
    for (const [i, other] of others.entries()) expect(other, `variant ${runs.variants[i + 1]}`).toEqual(first);
  });

  it.each(['f32', 'bf16'] as const)(
    `${runs.backward} runs of attentionBackward give the same bits (%s)`,
    { timeout },
    async (dtype) => {
      const [timeQ, timeK] = [97, 97];
      const shape = { batch: 2, timeQ, timeK, heads: 6, keyHeads: 2, width: 24, valueWidth: 40, causal: true };
      const problem = attentionProblem(shape, dtype, 5);
      const [q, k, v] = [problem.q.tensor, problem.k.tensor, problem.v.tensor];
      const { output, logSumExp } = ops.attention(q, k, v);
      const hashes = new Set<string>();
      for (let run = 0; run < runs.backward; run++) {
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
