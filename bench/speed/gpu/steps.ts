/** How the steps of run.sh ended, as its log says: `== NAME (TIME)` where one begins, then `== NAME: ENDING, N s (REASON)`. */

const ENDINGS = ['ok', 'failed', 'crashed', 'incomplete', 'out of time', 'killed', 'not run'] as const;

export interface Step {
  readonly name: string;
  /** interrupted: the log ends in the middle of it. */
  readonly ending: (typeof ENDINGS)[number] | 'interrupted';
  readonly seconds?: number;
  /** Why it was not run. */
  readonly reason?: string;
}

export type Verdict = 'passed' | 'failed' | 'incomplete';

const BEGIN = /^== (.+) \(\d\d:\d\d:\d\d\)$/;
const END = new RegExp(`^== (.+): (${ENDINGS.join('|')})(?:, (\\d+) s)?(?: \\((.*)\\))?$`);

export function stepsOf(log: string): Step[] {
  const steps = new Map<string, Step>();
  for (const line of log.split('\n')) {
    const [, begun] = BEGIN.exec(line) ?? [];
    if (begun) steps.set(begun, { name: begun, ending: 'interrupted' });
    const [, name, ending, seconds, reason] = END.exec(line) ?? [];
    if (!name) continue;
    steps.set(name, {
      name,
      ending: ending as Step['ending'],
      ...(seconds && { seconds: Number(seconds) }),
      ...(reason && { reason }),
    });
  }
  return [...steps.values()];
}

/** Losses and parity decide, and what the sanitizer came to where it is installed; what is only timed does not. */
export function verdictOf(steps: readonly Step[], hasFailures: boolean): Verdict {
  const checks = steps.filter(({ name }) => /^(loss|parity|sanitizer)\b/.test(name));
  if (hasFailures || checks.some(({ ending }) => ending === 'failed' || ending === 'crashed')) return 'failed';
  const isDone = ['loss', 'parity'].every((name) => checks.some((step) => step.name === name && step.ending === 'ok'));
  return isDone && checks.every(({ ending }) => ending === 'ok' || ending === 'not run') ? 'passed' : 'incomplete';
}
