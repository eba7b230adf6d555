// A share of the parity tests, every op, storage type and direction in it, with the addon for 64-bit Arm Linux in an
// emulated Node. `npm run test:arm64` runs all of them.
import { beforeAll, describe, expect, it } from 'vitest';
import { buildAddon, missing, runParity, writePrograms } from './emulation.js';

const reason = missing();

/** Parts of test names; the same shape in every storage type. */
const chosen = ['TODO'];

describe.skipIf(reason)(`parity on linux-arm64, emulated${reason ? `: ${reason}` : ''}`, () => {
  beforeAll(async () => {
    buildAddon();
    await writePrograms();
  }, 1_200_000);

  it('every op is as close to float64 as on other machines', { timeout: 1_800_000 }, () => {
    const { device, counts, failures, worst, seconds } = runParity({ only: chosen });
    console.log(`linux-arm64: ${counts.passed} passed, ${counts.failed} failed, ${seconds.toFixed(0)} s`);
    expect(failures).toEqual([]);
    expect(device).toMatchObject({ id: 'cpu', isa: 'neon', usable: true });
    console.log(worst.map(({ group }) => group).join(', '));
  });
});
