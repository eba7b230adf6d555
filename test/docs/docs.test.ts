// The documentation holds: its programs compile, run and print what it says; its links, commands and quoted messages exist.
import { execFileSync, spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, readdirSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { anchorsOf, commandsOf, firstColumnCode, inRepository, linksOf, samplesOf } from './markdown.js';
import { isOf, nativeMessages, typescriptMessages } from './messages.js';

const root = resolve(import.meta.dirname, '../..');
const read = (path: string) => readFileSync(join(root, path), 'utf8');
const pages = readdirSync(join(root, 'docs'))
  .filter((name) => name.endsWith('.md'))
  .map((name) => `docs/${name}`);
const textOf = Object.fromEntries(['README.md', ...pages].map((page) => [page, read(page)]));
const scripts = Object.keys((JSON.parse(read('package.json')) as { scripts: object }).scripts);

const sourceFiles = (folders: readonly string[]) =>
  folders
    .flatMap((folder) =>
      readdirSync(join(root, folder), { recursive: true, encoding: 'utf8' }).map((name) => join(folder, name)),
    )
    .filter((path) => /\.(ts|cc|h|cu|cuh)$/.test(path));
/** The source of the library and of the addon, in which messages and variables are looked for. */
const sources = sourceFiles(['lib', 'native']).map((path) => ({ path, text: read(path) }));
const source = sources.map(({ text }) => text).join('\n');

describe('programs', () => {
  // The compiler takes the declarations that users get (dist); what runs is this checkout's source: tsconfig.json says so to tsx.
  const folder = join(root, 'build/docs-samples');
  const samples = Object.keys(textOf).flatMap((page) =>
    samplesOf(textOf[page]).map((sample, i) => ({
      ...sample,
      name: `${page}:${sample.program.line}`,
      file: join(folder, `${basename(page, '.md')}-${i}.ts`),
    })),
  );

  beforeAll(() => {
    rmSync(folder, { recursive: true, force: true });
    mkdirSync(folder, { recursive: true });
    for (const { file, program } of samples) writeFileSync(file, program.text);
    writeFileSync(
      join(folder, 'tsconfig.json'),
      JSON.stringify({ extends: '../../tsconfig.json', compilerOptions: { paths: {} }, include: ['*.ts'] }),
    );
    const compiler = join(root, 'node_modules/typescript/bin/tsc');
    const { stdout, status } = spawnSync(process.execPath, [compiler, '-p', folder], { encoding: 'utf8' });
    if (status !== 0) throw new Error(`the programs do not compile:\n${stdout}`);
  });

  it('are many, and most say what they print', () => {
    expect(samples.length).toBeGreaterThan(10);
    expect(samples.filter(({ prints }) => prints !== undefined).length).toBeGreaterThan(samples.length / 2);
  });

  it.each(samples)('$name runs', ({ file, prints }) => {
    const env = { ...process.env, NODE_OPTIONS: '', SAS_DEVICE: 'cpu' };
    const printed = execFileSync(process.execPath, ['--import', 'tsx', file], {
      cwd: root,
      encoding: 'utf8',
      env,
      stdio: ['ignore', 'pipe', 'pipe'],
    });
    if (prints !== undefined) expect(printed).toBe(prints);
  });
});

describe.each(Object.keys(textOf))('%s', (page) => {
  it('links to what exists', () => {
    for (const link of linksOf(textOf[page])) {
      const here = inRepository(link);
      if (/^https?:/.test(link) && here === undefined) continue;
      const [path, anchor] = (here ?? link).split('#');
      const target = here !== undefined ? path : path === '' ? page : join(dirname(page), path);
      expect(existsSync(join(root, target)), `${link} (${target})`).toBe(true);
      if (anchor !== undefined) expect(anchorsOf(textOf[target] ?? read(target)), link).toContain(anchor);
    }
  });

  it('names scripts, test files and projects that exist', () => {
    for (const command of commandsOf(textOf[page])) {
      const script = /^(?:\w+=\S+ )*npm (?:run (\S+)|(test))/.exec(command);
      if (script) expect(scripts, command).toContain(script[1] ?? script[2]);
      const [, path] = /vitest run (\w\S*)/.exec(command) ?? [];
      if (path) expect(existsSync(join(root, path)), command).toBe(true);
      const [, project] = /--project (\S+)/.exec(command) ?? [];
      if (project) expect(project).toMatch(/^(main|cuda|cuda-emulated|cpu-(avx512bf16|avx512|avx2|baseline))$/);
    }
  });

  it('names files that exist', () => {
    const paths = textOf[page].match(/`(lib|native|test|bench|docs)\/[\w./-]+`/g) ?? [];
    for (const path of paths) expect(existsSync(join(root, path.slice(1, -1))), path).toBe(true);
  });
});

describe('errors', () => {
  it('has a section for every code', () => {
    const codes = new Set(read('lib/errors.ts').match(/(?<=\| ')SAS_[A-Z_]+/g));
    expect(codes.size).toBeGreaterThan(5);
    const anchors = anchorsOf(textOf['docs/errors.md']);
    for (const code of codes) expect(anchors).toContain(code.toLowerCase());
  });

  const messages = sources.flatMap(({ path, text }) =>
    path.endsWith('.ts') ? typescriptMessages(text) : nativeMessages(text),
  );

  it('quotes messages as the source words them, each from one message', () => {
    const quoted = firstColumnCode(textOf['docs/errors.md']).filter(
      (code) => !code.startsWith('SAS_') || code.includes(' '),
    );
    expect(quoted.length).toBeGreaterThan(40);
    expect(messages.length).toBeGreaterThan(200);
    expect(quoted.filter((quote) => !messages.some((message) => isOf(quote, message)))).toEqual([]);
  });

  it('would notice a quote whose parts are from several messages', () => {
    expect(
      messages.some((message) => isOf('token ... at position ... is outside the vocabulary of ...', message)),
    ).toBe(true);
    expect(messages.some((message) => isOf('token ... at position ... is outside the ... classes', message))).toBe(
      false,
    );
    expect(messages.some((message) => isOf('..., expected an odd multiple of ...', message))).toBe(false);
  });
});

it('lists every environment variable that is read', () => {
  const names = source.match(/(?<=(?:getenv|Environment|[Vv]ariable)\(["']|process\.env\.)SAS_\w+/g) ?? [];
  const listed = firstColumnCode(textOf['docs/getting-started.md']);
  expect(new Set(names).size).toBeGreaterThan(5);
  for (const name of names) if (!['SAS_POISON', 'SAS_SYSTEM_ROOT'].includes(name)) expect(listed).toContain(name); // SAS_POISON is of the tests
});

it('lists the product files that an op touches', () => {
  const page = textOf['docs/contributing.md'];
  const table = page.slice(page.indexOf('## Adding an op'), page.indexOf('Rules for kernels'));
  const listed = linksOf(table).map((link) => inRepository(link) ?? join('docs', link));
  const product = [
    ...sourceFiles(['native', 'lib/ops']),
    'binding.d.ts',
    'CMakeLists.txt',
    'package.json',
    'README.md',
  ];
  const touched = product.filter((path) => /\b[cC]oncat(Backward|Params)?\b/.test(read(path)));
  expect(listed.filter((path) => !path.startsWith('test/')).sort()).toEqual(touched.sort());
  expect(touched.length).toBeLessThanOrEqual(9);
});

it('makes the API reference without a warning', () => {
  const typedoc = join(root, 'node_modules/typedoc/bin/typedoc');
  const { status, stdout, stderr } = spawnSync(process.execPath, [typedoc, '--emit', 'none'], {
    cwd: root,
    encoding: 'utf8',
  });
  expect(`${stdout}${stderr}`.match(/\[(warning|error)\].*/g) ?? []).toEqual([]);
  expect(status).toBe(0);
});

it('is cited by its version', () => {
  const { version } = JSON.parse(read('package.json')) as { version: string };
  expect(read('CITATION.cff')).toContain(`\nversion: ${version}\n`);
});
