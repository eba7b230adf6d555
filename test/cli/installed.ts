// The package as `npm install` of its tarball leaves it, with the addon of this checkout as the prebuilt binary, and its
// command line in processes of its own.
import { execFileSync, spawn } from 'node:child_process';
import { chmodSync, cpSync, mkdirSync, mkdtempSync, rmSync, symlinkSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

const root = resolve(import.meta.dirname, '../..');

export interface Output {
  code: number | null;
  stdout: string;
  stderr: string;
}

export interface Installed {
  /** The user's project. */
  project: string;
  /** node_modules/sas-attention in it. */
  folder: string;
  remove(): void;
}

export function install(): Installed {
  const project = mkdtempSync(join(tmpdir(), 'sas-attention-cli-'));
  const folder = join(project, 'node_modules/sas-attention');
  const run = (command: string, args: readonly string[], cwd: string) =>
    execFileSync(command, args, { cwd, encoding: 'utf8' });
  const pack = ['pack', '--json', '--ignore-scripts', '--pack-destination', project];
  const [{ filename }] = JSON.parse(run('npm', pack, root)) as [{ filename: string }];
  mkdirSync(folder, { recursive: true });
  run('tar', ['xzf', join(project, filename), '--strip-components=1', '-C', folder], project);
  const prebuilds = join(folder, 'prebuilds', `${process.platform}-${process.arch}`);
  rmSync(prebuilds, { recursive: true, force: true });
  mkdirSync(prebuilds, { recursive: true });
  cpSync(join(root, 'build/Release/sas_attention.node'), join(prebuilds, 'sas-attention.glibc.node'));
  mkdirSync(join(project, 'node_modules/.bin'));
  symlinkSync('../sas-attention/dist/cli/main.js', join(project, 'node_modules/.bin/sas-attention'));
  chmodSync(join(folder, 'dist/cli/main.js'), 0o755);
  return { project, folder, remove: () => rmSync(project, { recursive: true }) };
}

export interface RunOptions {
  env?: NodeJS.ProcessEnv;
  /** Called with what has been printed so far; true: the reader goes away, as `| head` does. */
  stopReading?(stdout: string): boolean;
}

/** `npx sas-attention ARGS` in the project, without npx's second. */
export function cli({ project }: Installed, args: readonly string[], options: RunOptions = {}): Promise<Output> {
  return new Promise((done, reject) => {
    const { SAS_BINDING: _, SAS_DEVICE: __, ...inherited } = process.env;
    const child = spawn(join(project, 'node_modules/.bin/sas-attention'), args, {
      cwd: project,
      env: { ...inherited, ...options.env },
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    const output: Output = { code: null, stdout: '', stderr: '' };
    child.stdout.on('data', (chunk: Buffer) => {
      output.stdout += chunk;
      if (options.stopReading?.(output.stdout)) child.stdout.destroy();
    });
    child.stderr.on('data', (chunk: Buffer) => {
      output.stderr += chunk;
    });
    child.on('error', reject);
    child.on('close', (code) => done({ ...output, code }));
  });
}
