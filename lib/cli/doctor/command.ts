/** `npx sas-attention doctor`: what there is, whether it works, and what to do where it does not. */
import { parseFlags } from '../arguments.js';
import { exitOnBrokenPipe, LiveLine } from '../terminal.js';
import { diagnose } from './diagnosis.js';
import { diagnosisText } from './text.js';

const HELP = `Usage: npx sas-attention doctor [options]

Says which versions, binary, devices and environment variables there are, with the reason for each device that cannot be
used, and tests every other one for two seconds: fused and naive ops against float64 and each other, and their speed.
Works without the addon too, and then says why it cannot be loaded. Exit code 1 where something has to be mended; a warning
names what works, but not as well as it could.

  --json           the same as JSON
  --help           this text
`;

const FLAGS = { json: { type: 'boolean' }, help: { type: 'boolean', short: 'h' } } as const;

export async function doctorCommand(args: readonly string[]): Promise<void> {
  exitOnBrokenPipe();
  const flags = parseFlags(args, FLAGS);
  if (flags.help) {
    process.stdout.write(HELP);
    return;
  }
  const line = new LiveLine();
  const diagnosis = await diagnose((device) => line.show(`testing ${device} ...`));
  line.clear();
  if (diagnosis.problems.length > 0) process.exitCode = 1;
  console.log(flags.json ? JSON.stringify(diagnosis, null, 2) : diagnosisText(diagnosis));
}
