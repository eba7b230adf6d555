/**
 * npm run test:files: every system call of a save, a load, a resume and the metrics fails in turn, with each of some errors or
 * half done; and every prefix of a save's calls is a power failure, after which a disk that reorders and tears what was not
 * flushed holds any part of it. Each time the files must be whole: the old ones or the new.
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { buildTarget, root } from '../helpers/native_build.js';
import { crashStates, parseTrace, type Recorded } from './power_loss.js';

/** What came of letting every call of one operation fail. */
export interface FaultCounts {
  operation: string;
  calls: number;
  /** The operation said so, with the name of the file. */
  told: number;
  /** It succeeded all the same: half a read or write that was taken up, something that a file system need not offer. */
  overcome: number;
}

export interface Protocol {
  operation: string;
  recorded: Recorded;
}

function run(kind: 'faults' | 'some' | 'trace'): string {
  const build = buildTarget('hardening', 'sas_file_faults', { SAS_ISAS: 'baseline' });
  const folder = realpathSync(mkdtempSync(join(tmpdir(), 'sas-faults-')));
  const control = join(folder, 'control');
  writeFileSync(control, Buffer.alloc(32));
  try {
    const program = join(import.meta.dirname, 'file_faults_program.ts');
    return execFileSync(process.execPath, ['--import', 'tsx', program, kind], {
      cwd: root,
      encoding: 'utf8',
      maxBuffer: 2 ** 28,
      env: {
        ...process.env,
        LD_PRELOAD: join(build, 'Release/libsas_file_faults.so'),
        SAS_DEVICE: 'cpu',
        SAS_TEST_CONTROL: control,
        SAS_TEST_FILES: join(folder, 'files'),
        SAS_TEST_TRACE: join(folder, 'trace'),
        UV_USE_IO_URING: '0', // its calls go past the library
      },
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
}

/** Throws where a file was not whole, or a failure passed in silence. `some`: of fewer kinds. */
export const failCalls = (kind: 'faults' | 'some'): FaultCounts[] => JSON.parse(run(kind)) as FaultCounts[];

/** The calls of each operation, in order. */
export function recordCalls(): Protocol[] {
  const traced = JSON.parse(run('trace')) as {
    operation: string;
    before: [string, string][];
    after: [string, string][];
    trace: string;
  }[];
  return traced.map(({ operation, before, after, trace }) => ({
    operation,
    recorded: {
      before: new Map(before.map(([name, data]) => [name, Buffer.from(data, 'hex')])),
      after: new Map(after.map(([name, data]) => [name, Buffer.from(data, 'hex')])),
      calls: parseTrace(trace),
    },
  }));
}

/** Says what is wrong with the files after a power failure, if anything; `finished`: the operation had said that it was done. */
type Judge = (files: ReadonlyMap<string, Buffer>, recorded: Recorded, finished: boolean) => string | undefined;

/** Each file is the old one or the new, and the new one in the end. */
const whole: Judge = (files, { before, after }, finished) => {
  for (const name of new Set([...before.keys(), ...after.keys()])) {
    const [found, old, fresh] = [files.get(name), before.get(name), after.get(name)];
    const same = (other: Buffer | undefined) => (found && other ? found.equals(other) : found === other);
    if (same(fresh) || (!finished && same(old))) continue;
    return `${name} ${found === undefined ? 'is gone' : same(old) ? 'is the old one' : `has ${found.length} bytes of neither`}`;
  }
  return undefined;
};

/** A checkpoint never knows more than the metrics beside it. */
const behind: Judge = (files, { after }) => {
  const fresh = files.get('checkpoint.safetensors')?.equals(after.get('checkpoint.safetensors') ?? Buffer.alloc(0));
  const lacks = !files.get('metrics.jsonl')?.toString().includes('"step":1,"validationLoss"');
  return fresh && lacks ? 'the checkpoint is new and the metrics are not' : undefined;
};

/** Power fails after every call, `times` in different ways each. Returns the number of states looked at and what was wrong. */
export function loseWhile(
  { operation, recorded }: Protocol,
  times: number,
  seed: number,
): { states: number; faults: string[] } {
  const judge = operation === 'train for a step' ? behind : whole;
  const { calls } = recorded;
  const faults = new Set<string>();
  let states = 0;
  for (const { done, files } of crashStates(recorded, times, seed)) {
    states++;
    const fault = judge(files, recorded, done === calls.length);
    if (fault) faults.add(`after call ${done} of ${calls.length}: ${fault}`);
  }
  return { states, faults: [...faults] };
}

if (process.argv[1] === import.meta.filename) {
  const [seed = Date.now() % 2 ** 32] = process.argv.slice(2).map(Number);
  for (const { operation, calls, told, overcome } of failCalls('faults')) {
    console.log(`${operation}: ${calls} calls, ${told} failures told, ${overcome} overcome`);
  }
  for (const protocol of recordCalls()) {
    const { states, faults } = loseWhile(protocol, 500, seed);
    console.log(
      `${protocol.operation}: seed ${seed}, ${protocol.recorded.calls.length} calls, ${states} states after a power failure`,
    );
    for (const fault of faults) console.log(`  ${fault}`);
    if (faults.length > 0) process.exitCode = 1;
  }
}
