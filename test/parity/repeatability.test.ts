// Same inputs, same device, same build: bit-identical outputs and gradients, whatever the number of CPU threads or the order
// in which the emulated device runs its warps and blocks.
import { execFile } from 'node:child_process';
import { fileURLToPath } from 'node:url';
import { promisify } from 'node:util';
import { describe, expect, it } from 'vitest';
import { digests } from '../helpers/digest.js';
import { device, emulated, timeout } from '../helpers/parity.js';

const script = fileURLToPath(new URL('../helpers/digest.ts', import.meta.url));

interface Printed {
  threads?: number;
  hashes: Record<string, string[]>;
}

const runs = emulated ? { process: 2, variants: [1, 2] } : { process: 20, variants: [1, 2, 3, 4] };

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
});
