// What the loader says when no binary loads: every file it tried with its own reason, and one thing to do.
import { cpSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { build } from 'esbuild';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { installedIn, prebuiltName, Workshop } from './project.js';

const workshop = new Workshop();
const project = workshop.project('user');
const folder = installedIn(project);
const prebuilt = join(folder, 'prebuilds', prebuiltName);
const built = join(folder, 'build/Release/sas_attention.node');
const rebuild = 'npm rebuild sas-attention --ignore-scripts=false';
let binary: Buffer;

beforeAll(() => {
  workshop.unpack(workshop.tarball(), folder);
  binary = readFileSync(prebuilt);
});
afterAll(() => workshop.remove());
beforeEach(() => {
  rmSync(join(folder, 'build'), { recursive: true, force: true });
  write(prebuilt, binary);
});

function write(file: string, content: Buffer | string): void {
  mkdirSync(dirname(file), { recursive: true });
  writeFileSync(file, content);
}

/** The addon with one of its version names replaced by a newer one; the dynamic linker compares names. */
function asking(from: string, to: string): Buffer {
  const patched = Buffer.from(binary);
  const at = patched.indexOf(`\0${from}\0`);
  expect(at).toBeGreaterThan(0);
  patched.write(to, at + 1, 'latin1');
  return patched;
}

/** What `require('sas-attention')` throws, or "loaded". */
function load(env: NodeJS.ProcessEnv = {}, args: readonly string[] = []): string {
  const program = `try { require('sas-attention'); console.log('loaded'); } catch (error) {
    console.log([error.name, error.code, error.message].join('\\n')); }`;
  return workshop.must(process.execPath, [...args, '-e', program], project, env).trim();
}

describe('the loader', () => {
  it('loads the prebuilt binary, and past a broken build', () => {
    expect(load()).toBe('loaded');
    write(built, 'not a library');
    expect(load()).toBe('loaded');
  });

  it('prefers what was built on this machine', () => {
    write(built, binary);
    write(prebuilt, 'not a library');
    expect(load()).toBe('loaded');
  });

  it('names each place where there is nothing', () => {
    rmSync(join(folder, 'prebuilds'), { recursive: true });
    const [name, code, first, ...rest] = load().split('\n');
    expect([name, code]).toEqual(['SasError', 'SAS_INTERNAL']);
    expect(first).toContain(`cannot be loaded (${process.platform}-${process.arch}, Node ${process.versions.node})`);
    expect(rest.slice(0, 2)).toEqual([`  ${built}: no such file`, `  ${prebuilt}: no such file`]);
    expect(rest.slice(2)).toEqual([expect.stringContaining(rebuild)]);
  });

  it.each([
    ['text', () => Buffer.from('version https://git-lfs.github.com/spec/v1')],
    ['nothing', () => Buffer.alloc(0)],
    ['the first part of the file', () => binary.subarray(0, 5000)],
  ])('says that a file is damaged: %s', (_, content) => {
    write(prebuilt, content());
    const lines = load().split('\n');
    expect(lines[4]).toMatch(/^ {2}.*\.node: .*damaged/);
    expect(lines.at(-1)).toBe('Install the package anew: remove node_modules/sas-attention, then run npm install.');
  });

  it('says that a file is for another processor, and which binaries there are', () => {
    const other = process.arch === 'arm64' ? { machine: 62, name: 'x64' } : { machine: 183, name: 'arm64' };
    const foreign = Buffer.from(binary);
    foreign.writeUInt16LE(other.machine, 18);
    write(prebuilt, foreign);
    const message = load();
    expect(message).toContain(`${prebuilt}: is for ${other.name} processors; this process runs on ${process.arch}\n`);
    expect(message).toContain(`The package has binaries for: ${prebuiltName}`);
    expect(message.split('\n').at(-1)).toContain(rebuild);
  });

  it('says which glibc or libstdc++ a file needs', () => {
    write(prebuilt, asking('GLIBC_2.34', 'GLIBC_2.94'));
    const message = load();
    expect(message).toMatch(/needs glibc 2\.94 or newer; this system has 2\.\d+\n/);
    expect(message.split('\n').at(-1)).toContain(rebuild);
    write(prebuilt, asking('GLIBCXX_3.4.29', 'GLIBCXX_3.4.99'));
    expect(load()).toContain("needs a newer libstdc++ (GLIBCXX_3.4.99) than this system's");
  });

  it('looks for a binary of its own C library where that is musl', () => {
    const musl = 'data:text/javascript,process.report.getReport = () => ({ header: {} })';
    const message = load({}, ['--import', musl]);
    expect(message).toContain('sas-attention.musl.node: no such file');
    expect(message).toContain(`The package has binaries for: ${prebuiltName}`);
  });

  it('tries only the file that SAS_BINDING names', () => {
    const missing = load({ SAS_BINDING: join(project, 'nowhere.node') });
    expect(missing).toContain(
      `${join(project, 'nowhere.node')} (from SAS_BINDING): no such file\nUnset SAS_BINDING, or`,
    );
    expect(missing).not.toContain('prebuilds');
    write(join(project, 'other.node'), 'not a library');
    expect(load({ SAS_BINDING: 'other.node' })).toMatch(
      /other\.node \(from SAS_BINDING\): .*damaged\nUnset SAS_BINDING/,
    );
    expect(load({ SAS_BINDING: prebuilt })).toBe('loaded');
  });

  it.each(['esm', 'cjs'] as const)('tells who bundled it (%s) to leave it out of the bundle', async (format) => {
    const bundle = join(workshop.folder, format, 'dist', format === 'esm' ? 'app.mjs' : 'app.cjs');
    await build({
      entryPoints: [join(folder, 'dist/index.js')],
      bundle: true,
      platform: 'node',
      format,
      outfile: bundle,
      logLevel: 'error',
      logOverride: { 'empty-import-meta': 'silent' },
    });
    const run = workshop.run(process.execPath, [bundle], dirname(bundle));
    expect(run.status).toBe(1);
    expect(run.stderr).toContain('mark sas-attention as external in your bundler.');
    // The way out for who must bundle: a copy of the binary beside it.
    cpSync(prebuilt, join(dirname(bundle), 'sas.node'));
    expect(workshop.run(process.execPath, [bundle], dirname(bundle), { SAS_BINDING: 'sas.node' })).toMatchObject({
      status: 0,
    });
  });
});
