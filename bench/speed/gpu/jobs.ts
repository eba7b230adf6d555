/**
 * Work in processes of its own: a fault in a kernel loses the CUDA context and with it the process, a kernel that does not
 * end blocks it. Neither may take more with it than the piece it happened in.
 */
import { fork } from 'node:child_process';
import { renameSync, writeFileSync } from 'node:fs';

export interface Limits {
  /** performance.now() at which all work ends. */
  readonly deadline: number;
  /** Seconds without a message after which a process is given up. */
  readonly patience: number;
  /** Variables that the process gets besides those of this one. */
  readonly environment?: Readonly<Record<string, string>>;
}

/** How a process ended; 'done' only if it left by itself with exit code 0. */
export interface Ending {
  readonly kind: 'done' | 'crashed' | 'stalled' | 'out of time';
  readonly detail: string;
}

const TAIL = 2000; // characters kept of what a process wrote to stderr

/** Runs `program` with `argument` (see `workerArgument`), passing on its messages. */
export function runJob<Message>(
  program: string,
  argument: unknown,
  limits: Limits,
  onMessage: (message: Message) => void,
): Promise<Ending> {
  const left = limits.deadline - performance.now();
  if (left <= 0) return Promise.resolve({ kind: 'out of time', detail: 'the time is up' });
  return new Promise((resolve) => {
    const child = fork(program, [JSON.stringify(argument)], {
      execPath: process.env.SAS_NODE ?? process.execPath, // an emulated Node cannot start itself: test/arm64
      stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
      env: { ...process.env, ...limits.environment },
      serialization: 'advanced', // keeps NaN and infinity
    });
    let ending: Ending | undefined;
    let errors = '';
    const give = (kind: Ending['kind'], detail: string) => {
      ending ??= { kind, detail };
      child.kill('SIGKILL');
    };
    const silent = `no answer for ${limits.patience} s (a kernel that does not end?)`;
    const stalled = setTimeout(give, limits.patience * 1000, 'stalled', silent);
    const late = setTimeout(give, left, 'out of time', 'the time is up');
    child.stderr?.on('data', (chunk: Buffer) => {
      errors = (errors + chunk.toString()).slice(-TAIL);
    });
    child.on('message', (message) => {
      stalled.refresh();
      onMessage(message as Message);
    });
    child.on('error', (error) => give('crashed', error.message));
    // 'close' comes after the last message and the last of stderr.
    child.on('close', (code, signal) => {
      clearTimeout(stalled);
      clearTimeout(late);
      const how = signal ? `ended by ${signal}` : `exit code ${code}`;
      ending ??=
        code === 0 ? { kind: 'done', detail: '' } : { kind: 'crashed', detail: `${how}. ${errors.trim()}`.trim() };
      resolve(ending);
    });
  });
}

/** What `runJob`, or whoever started this process by hand, passed to it. It ends with the process that runs the job. */
export function workerArgument<Argument>(): Argument {
  process.once('disconnect', () => process.exit(1));
  return JSON.parse(process.argv[2] ?? 'null') as Argument;
}

/**
 * Passes a message to the process that runs this job; resolves when it is on its way, so that a crash cannot swallow it.
 * Without such a process (under a profiler or a debugger) it is printed.
 */
export const report = (message: object): Promise<void> =>
  new Promise((resolve, reject) => {
    if (process.send) process.send(message, (error: Error | null) => (error ? reject(error) : resolve()));
    else process.stdout.write(`${JSON.stringify(message)}\n`, () => resolve());
  });

/** Takes jobs from the front of `queue` until it is empty, `width` at a time; a running job may append to it. */
export async function drain<Job>(queue: Job[], width: number, run: (job: Job) => Promise<void>): Promise<void> {
  const take = async () => {
    for (let job = queue.shift(); job !== undefined; job = queue.shift()) await run(job);
  };
  await Promise.all(Array.from({ length: width }, take));
}

/** The value of `--name VALUE` style options as positive numbers of seconds. */
export function secondsOption(name: string, value: string): number {
  const seconds = Number(value);
  if (!(seconds > 0)) throw new Error(`--${name} ${value}: expected a number of seconds above 0`);
  return seconds;
}

/** JSON has neither infinity nor NaN. */
export const toJson = (value: unknown): string =>
  `${JSON.stringify(value, (_, item) => (typeof item === 'number' && !Number.isFinite(item) ? String(item) : item), 2)}\n`;

/** A result as far as it has come: whoever is killed in the middle leaves the one before. */
export function writeResult(path: string, value: unknown): void {
  writeFileSync(`${path}.part`, toJson(value));
  renameSync(`${path}.part`, path);
}
