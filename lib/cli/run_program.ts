/** How a program of this package ends badly: in one line, with exit code 2 for wrong usage and 1 for the rest. */
import { SasError } from '../errors.js';
import { Failure, UsageError } from '../failure.js';

/** A file that cannot be written, a full disk: the system's own words are enough. */
const isSystemError = (error: Error) => 'syscall' in error && 'errno' in error;

/** A device that is not there is the fault of who named it. */
const isUsage = (error: unknown) =>
  error instanceof UsageError || (error instanceof SasError && error.code === 'SAS_DEVICE');

/** A stack only for what should not happen. */
function describe(error: unknown): string {
  if (!(error instanceof Error)) return String(error);
  const expected = isUsage(error) || error instanceof Failure || error instanceof SasError || isSystemError(error);
  return expected ? error.message : (error.stack ?? error.message);
}

/** Runs a program to its end; `name` stands before what it says of a failure. */
export async function runProgram(name: string, body: () => Promise<void>): Promise<void> {
  try {
    await body();
  } catch (error) {
    process.stderr.write(`${name}: ${describe(error)}\n`);
    process.exitCode = isUsage(error) ? 2 : 1;
  }
}
