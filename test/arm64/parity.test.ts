// A share of the parity tests, every op, storage type and direction in it, with the addon for 64-bit Arm Linux in
// Node under qemu. `npm run test:arm64` runs all of them.
import { beforeAll, describe, expect, it } from 'vitest';
import { buildAddon, missing, runParity, writePrograms } from './qemu.js';

const reason = missing();

/** Parts of test names: small shapes in every storage type, tails of vectors, masked rows among them. */
const chosen = [
  "B=1 T=64 H=2 D=8 H'=6 D'=40 k=7", // expand
  "B=2 T=3 H=2 D=2 H'=6 D'=5 k=7",
  "B=2 T=3 H=2 D=3 H'=6 D'=D k=7",
  'B=1 T=31/31 H=36/36 D=96/64 causal', // attention
  'B=2 T=1/257 H=6/2 D=40/24 causal',
  'B=1 T=128/64 H=3/3 D=24/40 causal',
  'sees no key',
  'B=1 T=97/97 H=6/6 D=24/40 full', // attentionMean
  'B=1 T=70/33 H=12/12 D=13/7 causal',
  '[2, 31] K=40 N=96 bias', // linear
  '[3] K=9 N=515 bias',
  '> aggregate',
  "B=2 T=2/2 H=2 D=24 H'=6 D'=40 k=3", // SasAttention
  "B=2 T=31/31 H=3 D=5 H'=6 D'=8 k=7",
  'computes what PyTorch computes',
  'factor_ops',
  'training_ops',
  'f16 on the way',
  'data_sync',
];

const ops = [
  ...['expand', 'attention', 'attentionMean', 'linear', 'aggregate', 'SasAttention', 'layerNorm', 'rmsNorm'],
  ...['gelu', 'add', 'embedding', 'rope', 'crossEntropy', 'concat', 'tensorProduct'],
].flatMap((op) => ['f32', 'bf16', 'f16'].map((dtype) => `${op} ${dtype}`));

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
    expect(groups).toEqual(expect.arrayContaining([...ops, 'clipGradNorm']));
  });
});
