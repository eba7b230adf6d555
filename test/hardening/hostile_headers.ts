/**
 * npm run test:headers: safetensors headers of the largest size the format allows that hold nothing but structure, and what
 * refusing them costs. Each is read in a process of its own; memory is the growth of its peak.
 */
import { execFileSync } from 'node:child_process';
import { closeSync, mkdtempSync, openSync, rmSync, writeSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadSafetensors } from '../../lib/index.js';

const BYTES = 99_999_992;
const repeat = (before: string, unit: string, after: string): string => {
  const count = Math.floor((BYTES - before.length - after.length) / unit.length);
  return before + unit.repeat(count) + after;
};
const half = Math.floor(BYTES / 2) - 8;

const headers: Record<string, () => string> = {
  blanks: () => repeat('{', ' ', '}'),
  'nested arrays': () => `{"a":${'['.repeat(half)}${']'.repeat(half)}}`,
  'nested objects': () => `${'{"a":'.repeat(half / 3)}1${'}'.repeat(half / 3)}`,
  numbers: () => repeat('{"a":{"shape":[', '0,', '0]}}'),
  'empty objects': () => repeat('{"a":[', '{},', '0]}'),
  'empty tensors': () => repeat('{', '"n":{},', '"a":{}}'),
  // As much structure as passes, and then is parsed.
  'numbers, fewer': () => `{"a":{"shape":[${'0,'.repeat(1_999_000)}0]}}`,
  'objects, fewer': () => `{"a":[${'{},'.repeat(999_000)}0]}`,
  'tensors, fewer': () => `{${Array.from({ length: 999_000 }, (_, i) => `"${i}":{}`).join(',')}}`,
};

export interface Cost {
  outcome: string;
  mebibytes: number;
  seconds: number;
}

/** In this process: how it ends, how far the peak of resident memory rises, and how long it takes. */
async function read(path: string): Promise<Cost> {
  const before = process.resourceUsage().maxRSS;
  const begin = performance.now();
  const outcome = await loadSafetensors(path).then(
    ({ size }) => `${size} tensors`,
    (error: Error) => `${error.name}: ${error.message.replace(/^.*file: /, '')}`,
  );
  const seconds = (performance.now() - begin) / 1000;
  return { outcome, mebibytes: (process.resourceUsage().maxRSS - before) / 1024, seconds };
}

if (process.argv[1] === import.meta.filename) {
  if (process.argv[2]) {
    console.log(JSON.stringify(await read(process.argv[2])));
  } else {
    const folder = mkdtempSync(join(tmpdir(), 'sas-headers-'));
    const path = join(folder, 'hostile.safetensors');
    for (const [name, make] of Object.entries(headers)) {
      const header = Buffer.from(make());
      const length = Buffer.alloc(8);
      length.writeBigUInt64LE(BigInt(header.length));
      const file = openSync(path, 'w');
      for (const part of [length, header]) writeSync(file, part);
      closeSync(file);
      const output = execFileSync(process.execPath, ['--import', 'tsx', import.meta.filename, path], {
        encoding: 'utf8',
      });
      const { outcome, mebibytes, seconds } = JSON.parse(output) as Cost;
      console.log(
        `${name.padEnd(16)} ${mebibytes.toFixed(0).padStart(5)} MiB ${seconds.toFixed(2).padStart(6)} s  ${outcome}`,
      );
    }
    rmSync(folder, { recursive: true });
  }
}
