/** `npm run bundle:gpu`: one folder that checks and times the CUDA backend on a machine that has nothing but a driver. */
import { execFileSync, spawnSync } from 'node:child_process';
import { createHash } from 'node:crypto';
import {
  chmodSync,
  copyFileSync,
  createReadStream,
  createWriteStream,
  existsSync,
  lstatSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  statSync,
  writeFileSync,
} from 'node:fs';
import { createRequire } from 'node:module';
import { availableParallelism, tmpdir } from 'node:os';
import { basename, join, resolve } from 'node:path';
import { pipeline } from 'node:stream/promises';
import { parseArgs } from 'node:util';
import { constants, createGzip } from 'node:zlib';
import type { Manifest } from './manifest.js';
import { writeScripts } from './scripts.js';

const HELP = `Usage: npm run bundle:gpu -- [options]

Builds the addon with the CUDA backend and writes a folder for any x86-64 Linux machine with an NVIDIA driver. There, with
no network, Node or npm:  run.sh OUTDIR [smoke|quick|full]

  --out DIR               where the folder is written (replaced if there), default build/gpu-bundle
  --architectures LIST    what nvcc compiles for, as CMAKE_CUDA_ARCHITECTURES, default 80;90a-real;120-real
  --skip-build            take the addon that build/cuda holds
  --binding FILE          take this addon
  --without-node          leave Node out; run.sh then takes the node on PATH
  --help`;

/** Bytes of the folder and of the files that git tracks, together: they are sent to such a machine as one. */
const LIMIT = 58e6;
const root = resolve(import.meta.dirname, '../../..');
const require = createRequire(import.meta.url);

const PROGRAMS = [
  'check_device',
  'parity',
  'parity_worker',
  'gpu_bench',
  'bench_worker',
  'loss_check',
  'profile',
  'kernel_profile',
  'summary',
];

function run(command: string, args: readonly string[]): void {
  const { status, error } = spawnSync(command, args, { cwd: root, stdio: 'inherit' });
  if (status !== 0) throw new Error(`${basename(command)} ${args[0] ?? ''} failed${error ? `: ${error.message}` : ''}`);
}

const textOf = (command: string, args: readonly string[]) =>
  execFileSync(command, args, { cwd: root, encoding: 'utf8' }).trim();

function buildAddon(architectures: string | undefined): string {
  const cmakeJs = join(require.resolve('cmake-js/package.json'), '../bin/cmake-js');
  const options = ['--CDSAS_CUDA=on', ...(architectures ? [`--CDSAS_CUDA_ARCHITECTURES=${architectures}`] : [])];
  const target = ['--target', 'sas_attention', '--parallel', String(availableParallelism())];
  run(process.execPath, [cmakeJs, 'build', '--out', 'build/cuda', ...target, ...options]);
  return join(root, 'build/cuda/Release/sas_attention.node');
}

/** What build/cuda was configured for. */
function cmakeCache(name: string): string | undefined {
  const cache = join(root, 'build/cuda/CMakeCache.txt');
  if (!existsSync(cache)) return undefined;
  return new RegExp(`^${name}:\\w+=(.*)$`, 'm').exec(readFileSync(cache, 'utf8'))?.[1];
}

function nvccVersion(): string | undefined {
  const compiler = cmakeCache('SAS_NVCC');
  return compiler === undefined ? undefined : /V[\d.]+/.exec(textOf(compiler, ['--version']))?.[0];
}

/**
 * This Node, stripped. As .gz, since gunzip is on every machine; as .xz (a third smaller, but xz or python3 must be there)
 * only where the folder would otherwise be too large.
 */
async function addNode(out: string, limit: number): Promise<void> {
  const scratch = mkdtempSync(join(tmpdir(), 'gpu-bundle-'));
  const node = join(scratch, 'node');
  try {
    copyFileSync(process.execPath, node);
    run('strip', ['--strip-unneeded', node]);
    const gzip = createGzip({ level: constants.Z_BEST_COMPRESSION });
    await pipeline(createReadStream(node), gzip, createWriteStream(join(out, 'node.gz')));
    if (sizeOf(out) <= limit) return;
    rmSync(join(out, 'node.gz'));
    run('xz', ['-9', '--keep', '--threads=0', node]);
    copyFileSync(`${node}.xz`, join(out, 'node.xz'));
  } finally {
    rmSync(scratch, { recursive: true });
  }
}

function filesIn(directory: string): string[] {
  return readdirSync(directory, { recursive: true, withFileTypes: true })
    .filter((entry) => entry.isFile())
    .map((entry) => join(entry.parentPath, entry.name));
}
/** The checkout's own files, as far as they are there. */
function trackedSize(): number {
  const files = textOf('git', ['ls-files', '-z']).split('\0').filter(Boolean);
  return files.reduce((sum, file) => sum + (lstatSync(join(root, file), { throwIfNoEntry: false })?.size ?? 0), 0);
}
const sizeOf = (directory: string) => filesIn(directory).reduce((sum, file) => sum + statSync(file).size, 0);

async function main(): Promise<void> {
  const { values } = parseArgs({
    options: {
      out: { type: 'string', default: 'build/gpu-bundle' },
      architectures: { type: 'string' },
      'skip-build': { type: 'boolean', default: false },
      binding: { type: 'string' },
      'without-node': { type: 'boolean', default: false },
      help: { type: 'boolean', default: false },
    },
  });
  if (values.help) {
    console.log(HELP);
    return;
  }
  if (process.platform !== 'linux' || process.arch !== 'x64') {
    throw new Error(
      `the bundle is for x86-64 Linux and holds this machine's Node, which is for ${process.platform}-${process.arch}`,
    );
  }
  const built = join(root, 'build/cuda/Release/sas_attention.node');
  const addon = values.binding
    ? resolve(values.binding)
    : values['skip-build']
      ? built
      : buildAddon(values.architectures);
  if (!existsSync(addon)) throw new Error(`there is no addon at ${addon}`);

  const out = resolve(values.out);
  if (existsSync(out) && !existsSync(join(out, 'run.sh')) && readdirSync(out).length > 0) {
    throw new Error(`${out} is there and is not a bundle: remove it, or name another folder`);
  }
  rmSync(out, { recursive: true, force: true });
  mkdirSync(join(out, 'peers'), { recursive: true });
  copyFileSync(join(root, 'bench/speed/gpu/run.sh'), join(out, 'run.sh')); // first: it marks the folder as a bundle

  await writeScripts(
    join(out, 'js'),
    PROGRAMS.map((name) => `bench/speed/gpu/${name}.ts`),
  );
  for (const name of ['sas_torch.py', 'rivals.py'])
    copyFileSync(join(root, 'bench/speed/rivals/python', name), join(out, 'peers', name));
  for (const [from, to] of [
    [addon, 'sas_attention.node'],
    [join(root, 'LICENSE'), 'LICENSE'],
  ] as const) {
    copyFileSync(from, join(out, to));
  }
  chmodSync(join(out, 'run.sh'), 0o755);
  run('strip', ['--strip-unneeded', join(out, 'sas_attention.node')]);

  const isOwnBuild = addon === built;
  const binary = readFileSync(join(out, 'sas_attention.node'));
  const manifest: Manifest = {
    commit: textOf('git', ['rev-parse', 'HEAD']),
    modified: textOf('git', ['status', '--porcelain', '--untracked-files=no']) !== '',
    date: new Date().toISOString(),
    version: (JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as { version: string }).version,
    node: process.version,
    addon: {
      bytes: binary.length,
      sha256: createHash('sha256').update(binary).digest('hex'),
      ...(isOwnBuild && {
        architectures: values.architectures ?? cmakeCache('SAS_CUDA_ARCHITECTURES') ?? 'the default of CMakeLists.txt',
        nvcc: nvccVersion(),
      }),
    },
  };
  writeFileSync(join(out, 'manifest.json'), `${JSON.stringify(manifest, null, 2)}\n`);
  const tracked = trackedSize();
  if (!values['without-node']) await addNode(out, LIMIT - tracked);

  const megabytes = (bytes: number) => `${(bytes / 1e6).toFixed(1).padStart(6)} MB`;
  for (const name of readdirSync(out)) {
    const path = join(out, name);
    console.log(`${megabytes(statSync(path).isDirectory() ? sizeOf(path) : statSync(path).size)}  ${name}`);
  }
  const total = sizeOf(out) + tracked;
  console.log(`${megabytes(tracked)}  of files that git tracks`);
  console.log(`${megabytes(total)}  in all; the bundle is ${out}`);
  if (total > LIMIT) {
    throw new Error(`the bundle and the tracked files have ${megabytes(total).trim()}, more than ${LIMIT / 1e6} MB`);
  }
}

try {
  await main();
} catch (error) {
  console.error(`bundle:gpu: ${error instanceof Error ? error.message : String(error)}`);
  process.exitCode = 1;
}
