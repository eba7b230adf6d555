/**
 * The bundle for GPU machines on the emulated device, with stand-ins for the tools of such a machine: the same scripts and files as
 * there, at tiny sizes (SAS_REHEARSAL in run.sh). gpu_bundle.test.ts rehearses `smoke`, `npm run test:rehearsal` all of it.
 */
import { type ChildProcess, spawn, spawnSync } from 'node:child_process';
import {
  cpSync,
  existsSync,
  mkdirSync,
  mkdtempSync,
  readdirSync,
  readFileSync,
  rmSync,
  symlinkSync,
  writeFileSync,
} from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { type Step, stepsOf } from '../../../bench/speed/gpu/steps.js';
import { buildEmulated, emulatedAddon, root, sanitizerEnvironment, sanitizers } from '../../helpers/native_build.js';

export type Mode = 'smoke' | 'quick' | 'full';

export interface Outcome {
  readonly status: number | null;
  /** Names of the files that came back. */
  readonly files: readonly string[];
  readonly summary: string;
  readonly log: string;
  /** As the log has them: `NAME: ENDING (REASON)`. */
  readonly endings: readonly string[];
}

/** Programs in the places of what a GPU machine has; each is bash. */
export const STAND_INS = {
  /** Runs what it is to look at, and finds nothing. */
  sanitizer: `
    echo "$@" >>"$STAND_IN_LOG"
    while [ "\${1#--}" != "$1" ]; do shift 2; done
    "$@" && echo "========= ERROR SUMMARY: 0 errors"`,
  /** Hangs, fails, prints, in the order of the groups. */
  fickleSanitizer: `
    case "$*" in
      *" expand "*) sleep 600 ;;
      *" attention "*) echo "========= Invalid __global__ read of size 4 bytes"; exit 1 ;;
      *) echo "========= ERROR SUMMARY: 0 errors" ;;
    esac`,
  /** Prints what ncu prints of one launch. */
  ncu: `
    case "$*" in
      "-i "*) echo '"Line","Samples"' ;;
      *--csv*)
        echo '==PROF== Connected to process 1'
        echo '== gelu forward bf16 T=16 B=1'
        echo '"ID","Process ID","Process Name","Host Name","Kernel Name","Context","Stream","Block Size","Grid Size","gpu__time_duration.sum","launch__registers_per_thread"'
        echo '"","","","","","","","","","us","register/thread"'
        echo '"0","1","node","here","void sas::MapKernel<float>(Parameters)","1","7","(256, 1, 1)","(3, 1, 1)","42.5","32"' ;;
    esac`,
  /** Not allowed to count: what a driver answers that keeps its counters to root. */
  forbiddenNcu: `
    echo '==ERROR== ERR_NVGPUCTRPERM - The user does not have permission to access NVIDIA GPU Performance Counters'
    exit 1`,
  /** Python with a PyTorch that has measured one thing. */
  torch: `
    while [ "$1" != --out ]; do shift; done
    cat >"$2.part" <<'END'
{"torch": "2.0 (a stand-in)", "cuda": "13.0", "cudnn": 9, "bounds": {"matmulFlops": 1e12, "copyBytesPerSecond": 1e12}, "failures": [],
 "rows": [{"case": "gelu forward", "dtype": "bf16", "length": 16, "batch": 1, "contestant": "PyTorch", "flops": 0,
           "seconds": {"median": 0.001, "low": 0.001, "high": 0.001}}],
 "notRun": [{"case": "SasAttention", "dtype": "bf16", "length": 512, "contestant": "PyTorch compiled, flash"}]}
END
    mv "$2.part" "$2"
    echo 'rivals: 1 measured, 0 not supported or failed, 1 not run'`,
  /** Killed while it writes, as where memory ends. */
  killedTorch: `
    while [ "$1" != --out ]; do shift; done
    echo '{"torch": "2.0' >"$2.part"
    kill -9 $$`,
  /** Python as it is, without what was installed for it: no PyTorch. */
  bareTorch: 'PATH=$OUTER_PATH exec python3 -I -S "$@"',
} as const;

export class Rehearsal {
  readonly folder = mkdtempSync(join(tmpdir(), 'sas-rehearsal-'));
  readonly bundle = join(this.folder, 'bundle');
  private readonly tools = join(this.folder, 'tools');
  private running: ChildProcess | undefined;

  constructor() {
    buildEmulated('sas_attention_emulated');
    mkdirSync(this.tools);
    symlinkSync(process.execPath, join(this.tools, 'node'));
    const builder = ['--import', import.meta.resolve('tsx'), join(root, 'bench/speed/gpu/bundle.ts')];
    const options = ['--binding', emulatedAddon, '--without-node', '--out', this.bundle];
    const { status, stderr } = spawnSync(process.execPath, [...builder, ...options], { encoding: 'utf8' });
    if (status !== 0) throw new Error(stderr);
  }

  remove(): void {
    rmSync(this.folder, { recursive: true });
  }

  /** Puts these on PATH, and nothing that was there before. */
  equip(tools: Readonly<Record<string, string>>): void {
    for (const name of readdirSync(this.tools)) if (name !== 'node') rmSync(join(this.tools, name));
    for (const [name, body] of Object.entries(tools))
      writeFileSync(join(this.tools, name), `#!/usr/bin/env bash\n${body}\n`, { mode: 0o755 });
  }

  /** A copy of the bundle in which the first file that holds `from` has `to` there. */
  broken(from: string, to: string): string {
    const copy = join(this.folder, 'broken');
    cpSync(this.bundle, copy, { recursive: true });
    const files = readdirSync(join(copy, 'js/chunks')).map((name) => join(copy, 'js/chunks', name));
    const file = files.find((name) => readFileSync(name, 'utf8').includes(from));
    if (file === undefined) throw new Error(`nothing in the bundle has ${from}`);
    writeFileSync(file, readFileSync(file, 'utf8').replace(from, to));
    return copy;
  }

  /** What the stand-ins wrote down of how they were called. */
  calls(): string[] {
    const file = join(this.folder, 'calls');
    return existsSync(file) ? readFileSync(file, 'utf8').trim().split('\n') : [];
  }

  /** Ends run.sh itself. */
  killRun(): void {
    this.running?.kill('SIGKILL');
  }

  /** Runs the bundle; `meanwhile` may disturb it. */
  async run(
    mode: Mode,
    text: string,
    { bundle = this.bundle, meanwhile }: { bundle?: string; meanwhile?: (out: string) => Promise<void> } = {},
  ): Promise<Outcome> {
    const out = join(this.folder, 'out');
    rmSync(out, { recursive: true, force: true });
    rmSync(join(this.folder, 'calls'), { force: true });
    const inherited = Object.entries(process.env).filter(([name]) => !/^(SAS_|NODE_|VITEST|CUDA_)/.test(name));
    const env = {
      ...Object.fromEntries(inherited),
      ...(sanitizers === undefined ? {} : sanitizerEnvironment()),
      PATH: `${this.tools}:/usr/bin:/bin`,
      OUTER_PATH: process.env.PATH,
      SAS_REHEARSAL: text,
      SAS_EMULATOR_MEMORY: String(2 ** 28),
      SAS_PYTHON: join(this.tools, 'python3'),
      STAND_IN_LOG: join(this.folder, 'calls'),
    };
    const child = spawn(join(bundle, 'run.sh'), [out, mode], { cwd: tmpdir(), env, stdio: 'ignore' });
    this.running = child;
    const ended = new Promise<number | null>((resolve) => child.on('close', resolve));
    await meanwhile?.(out);
    const status = await ended;
    const read = (name: string) => (existsSync(join(out, name)) ? readFileSync(join(out, name), 'utf8') : '');
    const log = read('log.txt');
    const wordsOf = ({ name, ending, reason }: Step) => `${name}: ${ending}${reason ? ` (${reason})` : ''}`;
    return {
      status,
      files: existsSync(out) ? readdirSync(out).sort() : [],
      summary: read('summary.txt'),
      log,
      endings: stepsOf(log).map(wordsOf),
    };
  }
}

/** Waits until `condition` holds. */
export async function until(condition: () => boolean, seconds = 100): Promise<void> {
  for (const end = Date.now() + 1000 * seconds; !condition(); ) {
    if (Date.now() > end) throw new Error(`nothing came in ${seconds} s`);
    await new Promise((resolve) => setTimeout(resolve, 50));
  }
}

/** The Node processes whose command lines hold all of `texts`, one of which names the rehearsal's folder. */
export const processesOf = (...texts: readonly string[]): number[] =>
  readdirSync('/proc')
    .filter((pid) => {
      if (!/^\d+$/.test(pid)) return false;
      try {
        const [program = '', ...args] = readFileSync(`/proc/${pid}/cmdline`, 'utf8').split('\0');
        return program.endsWith('node') && texts.every((text) => args.some((arg) => arg.includes(text)));
      } catch {
        return false; // it has ended
      }
    })
    .map(Number);

/** Ends the first of them by SIGKILL. */
export function kill(...texts: readonly string[]): void {
  const [found] = processesOf(...texts);
  if (found === undefined) throw new Error(`no process of ${texts.join(' and ')}`);
  process.kill(found, 'SIGKILL');
}
