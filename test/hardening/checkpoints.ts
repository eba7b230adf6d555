/**
 * npm run test:checkpoints -- [kills]: a process that saves all the time is killed (SIGKILL) at random moments, that many
 * times. The file must be whole each time, the last one that was reported saved or the one after; read by an independent reader.
 */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { root } from '../helpers/native_build.js';
import { toBf16Bits } from '../helpers/random.js';
import { Draw } from './draw.js';
import { readSafetensors } from './safetensors_reader.js';

export interface Kills {
  kills: number;
  /** Kills that left a temporary file: they came in the middle of a save. */
  midSave: number;
  /** Files that hold the generation that was being saved, not the one reported before. */
  newer: number;
}

export async function killWhileSaving(kills: number, seed: number): Promise<Kills> {
  const folder = mkdtempSync(join(tmpdir(), 'sas-kill-'));
  const path = join(folder, 'model.safetensors');
  const draw = new Draw(seed);
  const counts: Kills = { kills: 0, midSave: 0, newer: 0 };
  try {
    for (let first = 1; counts.kills < kills; counts.kills++) {
      const reported = await saveUntilKilled(path, first, draw.below(120));
      const found = wholeGeneration(path);
      if (found !== reported && found !== reported + 1) {
        throw new Error(`kill ${counts.kills}: the file holds generation ${found}, reported was ${reported}`);
      }
      counts.newer += Number(found === reported + 1);
      const leftovers = readdirSync(folder).filter((name) => name.endsWith('.tmp'));
      counts.midSave += Number(leftovers.length > 0);
      for (const name of leftovers) rmSync(join(folder, name));
      first = found + 1;
    }
  } finally {
    rmSync(folder, { recursive: true });
  }
  return counts;
}

/** Resolves with the last generation that the process reported as saved. */
function saveUntilKilled(path: string, first: number, delay: number): Promise<number> {
  return new Promise((resolve, reject) => {
    const program = join(import.meta.dirname, 'checkpoint_program.ts');
    const child = spawn(process.execPath, ['--import', 'tsx', program, path, String(first)], { cwd: root });
    let output = '';
    let errors = '';
    child.stderr.on('data', (data) => {
      errors += data;
    });
    child.stdout.on('data', (data) => {
      if (output === '') setTimeout(() => child.kill('SIGKILL'), delay);
      output += data;
    });
    child.on('close', (code, signal) => {
      if (signal !== 'SIGKILL') reject(new Error(`the saving process ended with ${code}, ${signal}: ${errors}`));
      // A line that is cut off was written, so that generation is safe as well.
      else resolve(Number(output.trim().split('\n').at(-1)));
    });
  });
}

/** The generation in the file; throws unless every element of every tensor belongs to it. */
function wholeGeneration(path: string): number {
  const { metadata, tensors } = readSafetensors(path);
  const generation = Number(metadata.generation);
  if (tensors.size !== 6) throw new Error(`the file holds ${tensors.size} tensors`);
  for (let i = 0; i < 6; i++) {
    const expected = i % 2 ? generation + i : toBf16Bits(generation + i);
    if (!tensors.get(`layer.${i}`)?.values.every((value) => value === expected)) {
      throw new Error(`layer.${i} does not belong to generation ${generation}`);
    }
  }
  return generation;
}

if (process.argv[1] === import.meta.filename) {
  const [kills = 200, seed = Date.now() % 2 ** 32] = process.argv.slice(2).map(Number);
  const started = performance.now();
  const counts = await killWhileSaving(kills, seed);
  console.log(
    `seed ${seed}: killed ${counts.kills} times while saving, ${counts.midSave} of them in the middle of a file; ` +
      `the file was whole each time (${counts.newer} times the newer one), ${((performance.now() - started) / 1000).toFixed(0)} s`,
  );
}
