/** `train`: a small GPT with each attention asked for, on the user's text. */
import { helpText, parseOptions, type TrainUsage } from './options.js';
import type { SessionOptions } from './session.js';

/** The program that trains: what its user types, and what it has besides. */
export type TrainProgram = Pick<TrainUsage, 'call' | 'extraFiles'> & Pick<SessionOptions, 'book' | 'finish'>;

export async function trainCommand(args: readonly string[], program: TrainProgram): Promise<void> {
  const options = parseOptions(args);
  if (!options) {
    process.stdout.write(helpText({ ...program, book: program.book?.name }));
    return;
  }
  // Loads the addon, which --help and a misspelt option can do without.
  const { runSession } = await import('./session.js');
  await runSession({ ...program, options });
}
