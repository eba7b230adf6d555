// Runs the training example as a user does: its command line in a process of its own.

import { spawn } from 'node:child_process';
import { mkdtempSync, readFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('../..', import.meta.url));

export interface CliResult {
  code: number | null;
  stdout: string;
  stderr: string;
}

/** `interruptAt`: sends SIGINT once the output contains this text. */
export function trainCli(args: readonly string[], { interruptAt }: { interruptAt?: string } = {}): Promise<CliResult> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', 'bench/quality/train/main.ts', ...args], { cwd: root });
    const result: CliResult = { code: null, stdout: '', stderr: '' };
    let interrupted = false;
    child.stdout.on('data', (chunk: Buffer) => {
      result.stdout += chunk;
      if (interruptAt !== undefined && !interrupted && result.stdout.includes(interruptAt)) {
        interrupted = true;
        child.kill('SIGINT');
      }
    });
    child.stderr.on('data', (chunk: Buffer) => {
      result.stderr += chunk;
    });
    child.on('error', reject);
    child.on('close', (code) => resolve({ ...result, code }));
  });
}

export const temporaryFolder = () => mkdtempSync(join(tmpdir(), 'sas-train-'));

/** The lines of metrics.jsonl without what depends on the clock and on the process. */
export function losses(out: string): Record<string, unknown>[] {
  const lines = readFileSync(join(out, 'metrics.jsonl'), 'utf8').trim().split('\n');
  return lines.flatMap((line) => {
    const { tokensPerSecond: _, summary, ...rest } = JSON.parse(line) as Record<string, unknown>;
    return summary === undefined ? [rest] : [];
  });
}
