/**
 * Turns of the event loop. What awaits a promise that is already settled goes on before timers, signals and finalizers: a loop
 * of such awaits keeps them waiting for as long as it runs.
 */
import { performance } from 'node:perf_hooks';
import { setImmediate } from 'node:timers';

/** Milliseconds of answers before the event loop has its turn. Promised are 5: some work may lie between two answers. */
const LONGEST = 4;

const now = performance.now.bind(performance); // whatever a test puts in its place

/** When the first answer was given since the event loop's last turn; undefined: none was. */
let since: number | undefined;
/** What waits for the next turn, and how it goes on. */
let next: { readonly turn: Promise<void>; readonly came: () => void } | undefined;

function came(): void {
  const waiting = next;
  since = next = undefined;
  waiting?.came();
}

/** To be awaited before an answer is given: the next turn of the event loop where it is due, else nothing to wait for. */
export function due(): Promise<void> | undefined {
  if (since === undefined) {
    since = now();
    setImmediate(came); // keeps no process alive for more than this turn
    return undefined;
  }
  if (now() - since < LONGEST) return undefined;
  if (!next) {
    let came = () => {};
    next = { turn: new Promise((resolve) => (came = resolve)), came };
  }
  return next.turn; // one for all, so that answers keep their order
}

/**
 * Gives what `answer` gives or throws, but not before the event loop had a turn within the last 5 ms. Whatever of the library
 * returns a promise goes through here, or waits for `due` itself.
 */
export async function fairly<T>(answer: () => Promise<T>): Promise<T> {
  try {
    return await answer();
  } finally {
    const turn = due();
    if (turn) await turn;
  }
}
