/** Opens each rival once, checks and times its contests; what is absent or wrong is named, and the others go on. */
import { type Contest, nameOf, type OpenRival, type Rival, type Side, type Work } from './contest.js';
import { disagreement, type Effort, type Errors, errorsOf, LIMITS, type Measured, measure } from './measure.js';

/** One contest that was timed; null: no backward pass, no goal. */
export interface Row extends Measured {
  readonly contest: string;
  readonly against: string;
  readonly goal: number | null;
  readonly errors: Errors;
}

/** A rival, or one of its contests, that was not timed. */
export interface Skipped {
  readonly against: string;
  readonly contest: string | null;
  readonly reason: string;
}

export interface Outcome {
  readonly rows: Row[];
  readonly skipped: Skipped[];
  /** By rival. */
  readonly versions: Record<string, string>;
}

export interface RunOptions {
  readonly threads: number;
  readonly effort: Effort;
  prepare(contest: Contest): Promise<{ work: Work; ours: Side }>;
  log(line: string): void;
}

/** In one line. */
const reasonOf = (error: unknown) =>
  (error instanceof Error ? error.message : String(error)).trim().split('\n')[0] ?? '';

async function decide(opened: OpenRival, contest: Contest, options: RunOptions): Promise<Row> {
  const { work, ours } = await options.prepare(contest);
  const rival = await opened.side(contest, work);
  const errors = errorsOf(await rival.results(), await ours.results());
  const fault = disagreement(errors);
  if (fault) throw new Error(fault);
  const gradient =
    errors.gradient === null
      ? ''
      : `, gradients ${errors.gradient.toExponential(1)} (${LIMITS.gradient.toExponential(0)})`;
  const output = `output ${errors.output.toExponential(1)} (limit ${LIMITS.output.toExponential(0)})`;
  options.log(`${contest.rival}: ${nameOf(contest)}: relative error of its ${output}${gradient}`);
  const measured = await measure(rival, ours, options.effort);
  return { against: contest.rival, contest: nameOf(contest), goal: contest.goal, errors, ...measured };
}

export async function runContests(
  rivals: readonly Rival[],
  contests: readonly Contest[],
  options: RunOptions,
): Promise<Outcome> {
  const outcome: Outcome = { rows: [], skipped: [], versions: {} };
  const skip = (skipped: Skipped) => {
    outcome.skipped.push(skipped);
    options.log(describe(skipped));
  };
  for (const rival of rivals) {
    const own = contests.filter((contest) => contest.rival === rival.name);
    if (own.length === 0) continue;
    let opened: OpenRival;
    try {
      opened = await rival.open(options.threads);
    } catch (error) {
      skip({ against: rival.name, contest: null, reason: reasonOf(error) });
      continue;
    }
    outcome.versions[rival.name] = opened.version;
    for (const contest of own) {
      try {
        outcome.rows.push(await decide(opened, contest, options));
      } catch (error) {
        skip({ against: rival.name, contest: nameOf(contest), reason: reasonOf(error) });
      }
    }
    opened.close?.();
  }
  return outcome;
}

/** One line, the rival by its name. */
export function describe({ against, contest, reason }: Skipped): string {
  return contest === null ? `${against}: skipped: ${reason}` : `${against}: ${contest}: not timed: ${reason}`;
}
