// Packs this package as npm would publish it and installs it, offline and for real, in projects of their own.
import { execFileSync, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  realpathSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';

export const root = resolve(import.meta.dirname, '../..');
export const prebuiltName = `${process.platform}-${process.arch}/sas-attention.glibc.node`;

const manifest = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  dependencies: Record<string, string>;
};

export interface Output {
  status: number | null;
  stdout: string;
  stderr: string;
}

function onPath(command: string): string {
  const folder = (process.env.PATH ?? '').split(':').find((entry) => existsSync(join(entry, command)));
  if (folder === undefined) throw new Error(`${command} is not on PATH`);
  return join(folder, command);
}

const npmCli = () => realpathSync(onPath('npm'));

/** A folder for everything one test file makes. */
export class Workshop {
  readonly folder = mkdtempSync(join(tmpdir(), 'sas-attention-package-'));
  /** A PATH of node and a shell: no compiler, no CMake. */
  readonly bare = join(this.folder, 'bin');

  constructor() {
    mkdirSync(this.bare);
    symlinkSync(process.execPath, join(this.bare, 'node'));
    symlinkSync(onPath('sh'), join(this.bare, 'sh'));
  }

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }

  run(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): Output {
    // What an outer npm or vitest exports would decide how the inner one behaves.
    const inherited = Object.entries(process.env).filter(([name]) => !/^(npm_|SAS_|NODE_|VITEST)/.test(name));
    const options = {
      cwd,
      env: { ...Object.fromEntries(inherited), ...env },
      encoding: 'utf8' as const,
      timeout: 600_000,
    };
    const { status, stdout, stderr, error } = spawnSync(command, args, { ...options, maxBuffer: 1 << 28 });
    if (error) throw error;
    return { status, stdout, stderr };
  }

  /** As `run`, for what must succeed; returns stdout. */
  must(command: string, args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): string {
    const { status, stdout, stderr } = this.run(command, args, cwd, env);
    if (status !== 0) throw new Error(`${command} ${args.join(' ')}: exit code ${status}\n${stdout}${stderr}`);
    return stdout;
  }

  npm(args: readonly string[], cwd: string, env: NodeJS.ProcessEnv = {}): Output {
    return this.run(process.execPath, [npmCli(), ...args], cwd, env);
  }

  /** `npm pack` of a folder; returns the tarball. */
  pack(folder: string): string {
    const pack = ['pack', folder, '--json', '--ignore-scripts', '--pack-destination', this.folder];
    const stdout = this.must(process.execPath, [npmCli(), ...pack], this.folder);
    return join(this.folder, (JSON.parse(stdout) as [{ filename: string }])[0].filename);
  }

  unpack(tarball: string, folder: string): string {
    mkdirSync(folder, { recursive: true });
    execFileSync('tar', ['xzf', tarball, '--strip-components=1', '-C', folder]);
    return folder;
  }

  /**
   * The tarball. Without prebuilds/ in this checkout, its addon, stripped, stands in for the prebuilt binary.
   * `prebuilt` false: without any.
   */
  tarball(prebuilt = true): string {
    const published = this.pack(root);
    if (prebuilt && existsSync(join(root, 'prebuilds', prebuiltName))) return published;
    const staged = this.unpack(published, join(this.folder, `staged-${prebuilt}`));
    rmSync(join(staged, 'prebuilds'), { recursive: true, force: true });
    if (prebuilt) {
      const file = join(staged, 'prebuilds', prebuiltName);
      mkdirSync(resolve(file, '..'), { recursive: true });
      cpSync(join(root, 'build/Release/sas_attention.node'), file);
      execFileSync('strip', [file]);
    }
    const tarball = this.pack(staged);
    rmSync(staged, { recursive: true });
    return tarball;
  }

  /** An empty project. */
  project(name: string): string {
    const project = join(this.folder, name);
    mkdirSync(project);
    writeFileSync(join(project, 'package.json'), '{"name":"user","private":true}\n');
    return project;
  }

  /**
   * Really `npm install`s the tarball. Its dependencies are given as tarballs too, and npm's cache is empty: `--offline` then
   * proves that nothing else is fetched.
   */
  install(project: string, tarball: string, options: readonly string[] = [], env: NodeJS.ProcessEnv = {}): Output {
    const cache = join(this.folder, 'empty-cache');
    const flags = ['--offline', '--cache', cache, '--no-audit', '--no-fund', '--foreground-scripts', ...options];
    return this.npm(['install', ...flags, tarball, ...this.dependencies()], project, { PATH: this.bare, ...env });
  }

  private packed: string[] | undefined;

  private dependencies(): string[] {
    this.packed ??= Object.keys(manifest.dependencies).map((name) => this.pack(join(root, 'node_modules', name)));
    return this.packed;
  }
}

export const installedIn = (project: string): string => join(project, 'node_modules/sas-attention');

/** Paths of all files below `folder`. */
export const filesBelow = (folder: string): string[] =>
  readdirSync(folder, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name).slice(folder.length + 1));
