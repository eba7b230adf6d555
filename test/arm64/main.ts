/** `npm run test:arm64`: all parity tests with the addon for 64-bit Arm Linux, under qemu. */
import { existsSync } from 'node:fs';
import { parseArgs } from 'node:util';
import { addon, buildAddon, missing, runParity, threadsDiffer, writePrograms } from './qemu.js';

const HELP = `Usage: npm run test:arm64 -- [options]

Cross-compiles the addon and runs the parity tests with it in a Node for Arm under qemu.

  --only TEXT    only tests whose file and name have TEXT in them; may be repeated
  --skip-build   take the addon that prebuilds/linux-arm64 holds
  --help`;

const { values } = parseArgs({
  options: {
    only: { type: 'string', multiple: true },
    'skip-build': { type: 'boolean', default: false },
    help: { type: 'boolean', default: false },
  },
});
const reason = missing();
if (values.help) {
  console.log(HELP);
} else if (reason !== undefined) {
  console.error(`test:arm64: ${reason}`);
  process.exitCode = 1;
} else {
  if (!values['skip-build'] || !existsSync(addon)) buildAddon();
  await writePrograms();
  const parity = runParity({ only: values.only, show: true });
  for (const { group, checks, error, limit } of parity.worst) {
    console.log(`${group}: ${checks} checks, worst ${error.toExponential(1)} of ${limit.toExponential(1)}`);
  }
  const differing = threadsDiffer([1, 2, 3, 4]);
  console.log(
    differing.length === 0 ? 'threads: same bits with 1, 2, 3 and 4' : `FAIL threads: ${differing.join(', ')}`,
  );
  process.exitCode = parity.status !== 0 || differing.length > 0 ? 1 : 0;
}
