/** Runs a program of this repository as a user does, in a process of its own. */
import { spawn } from 'node:child_process';
import { root } from './native_build.js';

/** The exit code, and all that the program wrote, both streams as they came. */
export function runNode(program: string, args: readonly string[]): Promise<{ code: number | null; output: string }> {
  return new Promise((resolve, reject) => {
    const child = spawn(process.execPath, ['--import', 'tsx', program, ...args], { cwd: root });
    let output = '';
    for (const stream of [child.stdout, child.stderr]) stream.on('data', (chunk) => (output += chunk));
    child.on('error', reject);
    child.on('close', (code) => resolve({ code, output }));
  });
}
