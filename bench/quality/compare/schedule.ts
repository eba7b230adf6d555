/** Runs side by side, each a process of its own: one that crashes costs itself alone. */
import { type ChildProcess, fork } from 'node:child_process';
import { createWriteStream, existsSync, mkdirSync, readFileSync } from 'node:fs';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { LiveLine } from '../../../lib/cli/terminal.js';
import { formatDuration } from '../../../lib/cli/train/progress.js';
import type { DeviceId } from '../../../lib/index.js';
import type { PlannedRun } from './plan.js';
import type { WorkerMessage, WorkerOrder } from './worker.js';

export interface Outcome {
  failed: PlannedRun[];
  /** Whether somebody asked for an end before it came. */
  interrupted: boolean;
}

/** Whether the run's summary has been written, which is the last thing that it does. */
export function isFinished({ folder }: PlannedRun): boolean {
  const path = join(folder, 'metrics.jsonl');
  return existsSync(path) && readFileSync(path, 'utf8').includes('"summary":');
}

export const runName = ({ attention, seed }: PlannedRun): string => `${attention}, seed ${seed}`;

/** `jobs` at a time, in order. On a CPU the cores are shared out among them. */
export async function runAll(
  runs: readonly PlannedRun[],
  { device, jobs }: { device: DeviceId | undefined; jobs: number },
): Promise<Outcome> {
  const waiting = [...runs];
  const children = new Map<ChildProcess, string>();
  const failed: PlannedRun[] = [];
  const line = new LiveLine();
  const begun = performance.now();
  const total = runs.reduce((sum, { config }) => sum + config.steps, 0);
  const steps = new Map<PlannedRun, number>();
  let interrupted = false;
  const stop = () => {
    interrupted = true;
    for (const child of children.keys()) child.kill('SIGTERM');
  };
  process.on('SIGINT', stop);
  process.on('SIGTERM', stop);

  const show = () => {
    const done = [...steps.values()].reduce((sum, step) => sum + step, 0);
    const seconds = (performance.now() - begun) / 1000;
    const left = done > 0 ? formatDuration((seconds / done) * (total - done)) : '?';
    line.show(`${[...children.values()].join(' | ')} | ${((100 * done) / total).toFixed(1)}% | about ${left} left`);
  };

  const runOne = (run: PlannedRun) =>
    new Promise<void>((resolve) => {
      mkdirSync(run.folder, { recursive: true });
      const threads = process.env.SAS_THREADS ?? String(Math.max(1, Math.floor(availableParallelism() / jobs)));
      const child = fork(
        join(import.meta.dirname, 'worker.ts'),
        [JSON.stringify({ run, device } satisfies WorkerOrder)],
        {
          execArgv: ['--import', 'tsx'],
          env: { ...process.env, SAS_THREADS: threads },
          stdio: ['ignore', 'ignore', 'pipe', 'ipc'],
          // Ctrl-C reaches this process, which passes it on once.
          detached: true,
        },
      );
      const errors = join(run.folder, 'errors.txt');
      child.stderr?.pipe(createWriteStream(errors));
      children.set(child, runName(run));
      let finished = false;
      child.on('message', (message: WorkerMessage) => {
        if ('finished' in message) {
          finished = message.finished;
          return;
        }
        steps.set(run, message.step);
        children.set(child, `${runName(run)} ${message.step}/${run.config.steps}`);
        show();
      });
      child.on('close', (code) => {
        children.delete(child);
        // One that is told to stop before it listens just ends: there is nothing yet to keep.
        const crashed = !interrupted && (code !== 0 || !finished);
        if (crashed) failed.push(run);
        const seconds = formatDuration((performance.now() - begun) / 1000);
        const how = crashed ? `FAILED, see ${errors}` : finished ? 'done' : 'stopped';
        line.clear();
        process.stdout.write(`${seconds.padStart(8)}  ${runName(run)}: ${how}\n`);
        resolve();
      });
    });

  const worker = async () => {
    for (let run = waiting.shift(); run && !interrupted; run = waiting.shift()) await runOne(run);
  };
  await Promise.all(Array.from({ length: jobs }, worker));
  line.clear();
  process.off('SIGINT', stop);
  process.off('SIGTERM', stop);
  return { failed, interrupted };
}
