/**
 * Measures one checkout, whose library it loads by its path, when the process that started this one asks for it. Nothing here may
 * import this checkout's library: lib/measure knows it by its types only.
 */
import { UsageError } from '../../../lib/failure.js';
import type { Case } from '../../../lib/measure/cases.js';
import { labelOf, measureStream, requireRight, WrongResult } from '../../../lib/measure/measure.js';
import { casesOf } from '../../../lib/measure/suite.js';
import { repeatsOf, takeTurn } from '../../../lib/measure/timing.js';
import { loadSubject } from './checkout.js';
import type { Answer, ReadyCase, Request, SideInfo, SideSettings } from './side.js';

const { folder, selection, timing } = JSON.parse(process.argv[2] ?? '{}') as SideSettings;
const subject = loadSubject(folder);
subject.catch(() => {}); // said when asked

const textOf = (error: unknown) => (error instanceof Error ? error.message : String(error));

let cases: Generator<Case> | undefined;
let ready: { readonly item: Case; readonly repeats: readonly number[] } | undefined;

async function open(): Promise<SideInfo> {
  const of = await subject;
  cases = casesOf(selection, of);
  return { device: of.device.info, streamGigabytesPerSecond: (await measureStream(of, timing)) / 1e9 };
}

async function next(): Promise<ReadyCase | null> {
  const { device } = await subject;
  const { value: item } = cases?.next() ?? {};
  if (!item) return null;
  try {
    const unchecked = await requireRight(item).catch((error: unknown) => error);
    if (unchecked instanceof WrongResult) throw unchecked;
    const repeats: number[] = [];
    const missing: (string | null)[] = [];
    for (const contestant of item.contestants) {
      const count = await repeatsOf(contestant, device, timing.minSeconds).catch(textOf);
      missing.push(typeof count === 'string' ? count : null);
      repeats.push(typeof count === 'string' ? 0 : count);
    }
    // What is not there cannot be checked either.
    if (unchecked !== undefined && missing.every((reason) => reason === null)) throw unchecked;
    ready = { item, repeats };
    return { ...item, missing };
  } catch (error) {
    throw new Error(`${labelOf(item)}: ${textOf(error)}`);
  }
}

async function turn(contestant: number) {
  const { device } = await subject;
  const candidate = ready?.item.contestants[contestant];
  if (!candidate) throw new Error(`there is no contestant ${contestant}`);
  return takeTurn(candidate, ready?.repeats[contestant] ?? 1, device);
}

process.on('message', async (request: Request) => {
  let answer: Answer;
  try {
    const value = request === 'open' ? await open() : request === 'next' ? await next() : await turn(request.turn);
    answer = { value };
  } catch (error) {
    answer = { error: textOf(error), usage: error instanceof UsageError };
  }
  process.send?.(answer);
});
process.on('disconnect', () => process.exit());
