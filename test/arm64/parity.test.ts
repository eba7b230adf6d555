// A share of the parity tests, every op, storage type and direction in it, with the addon for 64-bit Arm Linux in a Node under
// qemu. `npm run test:arm64` runs all of them.
import { beforeAll, describe, expect, it } from 'vitest';
import { dtypesOf, groupOf } from '../helpers/op_run.js';
import { opTable } from '../helpers/op_table.js';
import { floatTypes } from '../helpers/parity.js';
import { buildAddon, missing, runParity, writePrograms } from './qemu.js';

const reason = missing();

/** Parts of test names: of every op the cases that its description marks as samples, all of an op that marks none. */
const ofOps = opTable.flatMap((op) =>
  dtypesOf(op).flatMap((dtype) => {
    const samples = op.cases.filter(({ sample }) => sample);
    const group = groupOf(op, dtype);
    return samples.length === 0 ? [`> ${group} >`] : samples.map(({ label }) => `> ${group} > ${label}`);
  }),
);
const chosen = [
  ...ofOps,
  'sees no key',
  "B=2 T=2/2 H=2 D=24 H'=6 D'=40 k=3", // SasAttention
  "B=2 T=31/31 H=3 D=5 H'=6 D'=8 k=7",
  'computes what PyTorch computes',
  'f16 on the way',
  'data_sync',
];

const expectedGroups = [
  ...opTable.flatMap((op) => dtypesOf(op).map((dtype) => groupOf(op, dtype))),
  ...floatTypes.map((dtype) => `SasAttention ${dtype}`),
];

describe.skipIf(reason)(`parity on linux-arm64 under qemu${reason ? `: ${reason}` : ''}`, () => {
  beforeAll(async () => {
    buildAddon();
    await writePrograms();
  }, 1_200_000);

  it('every op is as close to float64 as on other machines', { timeout: 1_800_000 }, () => {
    const { device, counts, failures, passed, worst, seconds } = runParity({ only: chosen });
    const groups = worst.map(({ group }) => group);
    console.log(`linux-arm64: ${counts.passed} passed, ${counts.failed} failed, ${seconds.toFixed(0)} s`);
    for (const { group, checks, error, limit } of worst) {
      console.log(`${group}: ${checks} checks, worst ${error.toExponential(1)} of ${limit.toExponential(1)}`);
    }
    expect(failures).toEqual([]);
    expect(device).toMatchObject({ id: 'cpu', isa: 'neon', usable: true });
    expect(chosen.filter((text) => !passed.some(({ name }) => name.includes(text)))).toEqual([]);
    expect(groups).toEqual(expect.arrayContaining(expectedGroups));
  });
});
