// What the loader says when no binary loads: every file it tried with its own reason, and one thing to do.
import { cpSync, existsSync, mkdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { dirname, join } from 'node:path';
import { type BuildOptions, build } from 'esbuild';
import { afterAll, beforeAll, beforeEach, describe, expect, it } from 'vitest';
import { installedIn, prebuiltName, Workshop } from './project.js';

const workshop = new Workshop();
const project = workshop.project('user');
const folder = installedIn(project);
const prebuilt = join(folder, 'prebuilds', prebuiltName);
const built = join(folder, 'build/Release/sas_attention.node');
const rebuild = `node ${join(folder, 'native/install.cjs')} build`;
let binary: Buffer;

beforeAll(() => {
  workshop.unpack(workshop.tarball(), folder);
  const chooser = dirname(createRequire(import.meta.url).resolve('node-gyp-build'));
  cpSync(chooser, join(project, 'node_modules/node-gyp-build'), { recursive: true }); // as npm installs it
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
    expect(lines.find((line) => line.startsWith(`  ${prebuilt}: `))).toMatch('damaged');
    expect(lines.at(-1)).toMatch(`Install the package anew: remove ${folder}/, then run npm install`);
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
    const message = load({ LIBC: 'musl' }, ['--import', musl]);
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
    expect(load({ SAS_BINDING: join(project, 'other.node') })).toMatch(
      /other\.node \(from SAS_BINDING\): .*damaged\nUnset SAS_BINDING/,
    );
    expect(load({ SAS_BINDING: prebuilt })).toBe('loaded');
  });

  it('names a command that exists, quoted for a shell, and builds with it', () => {
    const odd = installedIn(workshop.project("it's odd"));
    cpSync(folder, odd, { recursive: true });
    rmSync(join(odd, 'prebuilds'), { recursive: true });
    const program = `require(${JSON.stringify(odd)})`;
    const { stderr } = workshop.run(process.execPath, ['-e', program], project);
    const [, command = ''] = /CMake 3\.18 or newer: (node .* build)$/m.exec(stderr) ?? [];
    // No compiler here: that it says so, from the right folder, is enough.
    const built = workshop.run('sh', ['-c', command], project, { PATH: workshop.bare });
    expect(built.stderr).toContain('the build from source failed: cmake is not on PATH.');
    expect(built.status).toBe(1);
  });

  it("names Yarn's own node where Yarn installs without node_modules", () => {
    rmSync(prebuilt);
    const pnp = "data:text/javascript,process.versions.pnp = '3'";
    expect(load({}, ['--import', pnp])).toMatch(`CMake 3.18 or newer: yarn ${rebuild}`);
  });

  it('asks for the version of glibc without the names of all peers, and leaves the setting as it was', () => {
    const spy = `data:text/javascript,
      const { report } = process; const { getReport } = report;
      report.getReport = () => { console.log(report.excludeNetwork); return getReport.call(report); };
      process.on('exit', () => console.log(report.excludeNetwork));`;
    expect(load({}, ['--import', spy.replaceAll('\n', '')])).toBe('true\nloaded\nfalse');
  });
});

// CWE-427: a program must not execute what lies where it was started.
describe('a hostile folder', () => {
  const hostile = join(workshop.folder, 'hostile');
  const names = ['build/Release/sas_attention.node', 'build/Debug/sas_attention.node', `prebuilds/${prebuiltName}`];

  beforeAll(() => {
    for (const name of names) write(join(hostile, name), binary);
    const planted = `require('fs').writeFileSync(${JSON.stringify(join(hostile, 'executed'))}, '')`;
    for (const name of ['node-gyp-build', 'node-addon-api', 'sas-attention']) {
      write(join(hostile, 'node_modules', name, 'index.js'), planted);
    }
    write(join(hostile, 'package.json'), '{"name":"sas-attention"}');
  });

  /** What the program says that is run there, and which files it loads or only looks at, by Node's own account. */
  function runThere(program: readonly string[], env: NodeJS.ProcessEnv = {}) {
    const output = workshop.run(process.execPath, program, hostile, env);
    expect(existsSync(join(hostile, 'executed'))).toBe(false);
    expect(output.stdout).not.toContain(hostile);
    return output;
  }

  const loaded = `console.log(Object.keys(require('module')._cache).filter((name) => name.endsWith('.node')).join());`;

  it.each([
    [{}],
    [{ SAS_ATTENTION_PREBUILD: '.' }],
    [{ SAS_ATTENTION_PREBUILD: hostile, PREBUILDS_ONLY: '1' }],
    [{ npm_config_arch: '../..', npm_config_platform: 'linux', LIBC: 'glibc' }],
    [{ NODE_PATH: join(hostile, 'node_modules') }],
    [{ INIT_CWD: hostile, npm_config_local_prefix: hostile }],
  ])('is nothing to the installed package: %o', (env) => {
    const program = `require(${JSON.stringify(folder)}); ${loaded}`;
    expect(runThere(['-e', program], env)).toMatchObject({ status: 0, stdout: `${prebuilt}\n` });
  });

  it('does not answer to a SAS_BINDING that depends on it', () => {
    for (const name of ['build/Release/sas_attention.node', './build/Release/sas_attention.node']) {
      const { status, stderr } = runThere(['-e', `require(${JSON.stringify(folder)})`], { SAS_BINDING: name });
      expect(status).toBe(1);
      expect(stderr).toContain(`  ${name} (from SAS_BINDING): not an absolute path\nUnset SAS_BINDING, or`);
    }
  });

  describe.each(['esm', 'cjs'] as const)('and a bundle (%s)', (format) => {
    const app = join(workshop.folder, format);
    const bundle = join(app, 'dist', format === 'esm' ? 'app.mjs' : 'app.cjs');
    const bundled = (options: BuildOptions = {}) =>
      build({
        stdin: { contents: "import 'sas-attention'; console.log('loaded');", resolveDir: project },
        ...{ bundle: true, platform: 'node', format, outfile: bundle, logLevel: 'error' },
        logOverride: { 'empty-import-meta': 'silent' },
        ...options,
      });

    it('is told to leave it out of the bundle or to name its binary, and loads nothing', async () => {
      await bundled();
      // Around the bundle is no package of ours either.
      for (const name of names) write(join(app, name), binary);
      const { status, stderr } = runThere([bundle]);
      expect(status).toBe(1);
      expect(stderr).toContain(
        'mark sas-attention as external in your bundler, or let SAS_BINDING name a copy of the .node file by its absolute path.',
      );
      expect(stderr).not.toContain('no such file');
    });

    it('loads the copy that SAS_BINDING names', async () => {
      await bundled();
      const copy = join(dirname(bundle), 'sas.node');
      cpSync(prebuilt, copy);
      expect(runThere([bundle], { SAS_BINDING: copy })).toMatchObject({ status: 0, stdout: 'loaded\n' });
    });

    it('loads the copy that its own banner names', async () => {
      cpSync(prebuilt, join(dirname(bundle), 'sas_attention.node'));
      const here = format === 'esm' ? 'import.meta.dirname' : '__dirname';
      await bundled({ banner: { js: `process.env.SAS_BINDING ??= ${here} + '/sas_attention.node';` } });
      expect(runThere([bundle])).toMatchObject({ status: 0, stdout: 'loaded\n' });
    });

    it('that leaves it out loads the package', async () => {
      await bundled({ external: ['sas-attention'], outfile: join(project, `app.${format === 'esm' ? 'mjs' : 'cjs'}`) });
      const program = join(project, `app.${format === 'esm' ? 'mjs' : 'cjs'}`);
      expect(runThere([program])).toMatchObject({ status: 0, stdout: 'loaded\n' });
    });
  });
});
