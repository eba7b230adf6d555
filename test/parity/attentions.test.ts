import { afterAll, describe, expect, it } from 'vitest';
import { summary } from '../helpers/compare.js';
import { digest } from '../helpers/op_run.js';
import { emulated, expectWithinLimits, floatTypes, takeResults, timeout, valuesOf } from '../helpers/parity.js';
import {
  type AttentionCase,
  attentionCase,
  attentionModuleNaiveErrors,
  attentionModuleProblem,
  attentionModuleTruth,
  disposeAttentionModule,
  randomState,
  runAttentionModule,
} from '../modules/attentions.js';
import { expectModuleWithinLimits } from '../modules/sas_attention.js';
import type { AttentionConfigs64, AttentionKind } from '../reference/index.js';

const rope = { base: 10000, offset: 0, interleaved: false };
const neighbours = { base: 500, offset: 7, interleaved: true };
const rotation = { base: 10000, offset: 3 };

type Options<Kind extends AttentionKind, Sizes extends keyof AttentionConfigs64[Kind]> = Omit<
  AttentionConfigs64[Kind],
  'width' | 'heads' | Sizes
>;

function multiHead(
  [batch, time, width, heads, kvHeads, headDim]: number[],
  options: Options<'multiHead', 'kvHeads' | 'headDim'>,
): AttentionCase {
  return attentionCase('multiHead', batch, time, { width, heads, kvHeads, headDim, ...options });
}

function latent(
  [batch, time, width, heads, headDim, ropeDim, kvRank]: number[],
  options: Options<'latent', 'headDim' | 'ropeDim' | 'kvRank'>,
): AttentionCase {
  return attentionCase('latent', batch, time, { width, heads, headDim, ropeDim, kvRank, ...options });
}

function tensorProduct(
  [batch, time, width, heads, headDim, queryRank, keyRank, valueRank]: number[],
  options: Options<'tensorProduct', 'headDim' | 'queryRank' | 'keyRank' | 'valueRank'>,
): AttentionCase {
  const ranks = { queryRank, keyRank, valueRank };
  return attentionCase('tensorProduct', batch, time, { width, heads, headDim, ...ranks, ...options });
}

function matrixFactorization(
  [batch, time, width, heads, headDim, queryRank]: number[],
  options: Options<'matrixFactorization', 'headDim' | 'queryRank'>,
): AttentionCase {
  return attentionCase('matrixFactorization', batch, time, { width, heads, headDim, queryRank, ...options });
}

/** With all parts but those that the options leave out. */
function simulated(
  [batch, time, heads, headDim, simHeads, simHeadDim, kernelSize]: number[],
  options: Partial<Options<'simulated', 'headDim' | 'simHeads' | 'simHeadDim' | 'kernelSize'>>,
): AttentionCase {
  const sizes = { width: heads * headDim, heads, headDim, simHeads, simHeadDim, kernelSize };
  const parts = { rope: null, ropeAt: 'expanded', expansion: 'both', residual: true, aggregation: true } as const;
  return attentionCase('simulated', batch, time, { ...sizes, ...parts, ...options });
}

const attentions = [
  // B, T, C, H, Hkv, D
  multiHead([2, 31, 30, 3, 1, 10], { rope, bias: true }), // MQA
  multiHead([1, 1, 24, 3, 3, 8], { rope: null, bias: true }),
  multiHead([3, 31, 60, 5, 5, 12], { rope: null, bias: true }),
  multiHead([1, 97, 40, 9, 3, 24], { rope: neighbours, bias: false, causal: false }), // GQA
  // B, T, C, H, D, Dr, rank of keys and values
  latent([2, 31, 36, 3, 12, 6, 20], { queryRank: null, rope }),
  latent([1, 1, 20, 1, 20, 4, 8], { queryRank: 6, rope: neighbours }),
  latent([1, 97, 60, 5, 24, 8, 36], { queryRank: 28, rope: neighbours }),
  // B, T, C, H, D, ranks of q, k, v
  tensorProduct([2, 31, 36, 3, 12, 6, 2, 2], { rope }),
  tensorProduct([3, 1, 20, 1, 5, 1, 3, 1], { rope: null }),
  tensorProduct([1, 97, 40, 7, 24, 3, 1, 2], { rope: neighbours }),
  // B, T, C, H, D, rank of queries
  matrixFactorization([2, 31, 36, 5, 12, 20], { rope }),
  matrixFactorization([3, 31, 20, 1, 40, 5], { rope: null }),
  matrixFactorization([1, 97, 40, 7, 24, 24], { rope: neighbours }),
  // B, T, H, D, H', D', k
  simulated([2, 31, 3, 12, 9, 20, 5], { rope: rotation }),
  simulated([1, 1, 3, 8, 9, 12, 3], {}),
  simulated([1, 97, 2, 24, 6, 40, 3], {}),
  simulated([3, 31, 3, 10, 9, 15, 5], { rope: rotation, ropeAt: 'projected' }),
  simulated([2, 31, 3, 12, 6, 12, 3], { rope: rotation, expansion: 'heads', aggregation: false }),
  simulated([2, 31, 3, 12, 3, 20, 1], { expansion: 'features' }),
  simulated([2, 31, 3, 12, 6, 20, 3], { residual: false, causal: false }),
];

/** The emulated device is spared the long ones. */
const cases = attentions
  .filter(({ shape: [, time] }) => !emulated || time < 97)
  .map((attention) => [attention.name, attention] as const);
const firstOfEach = attentions
  .filter(({ kind }, i) => attentions.findIndex((other) => other.kind === kind) === i)
  .map((attention) => [attention.kind, attention] as const);

afterAll(() => console.log(summary()));

describe.each(floatTypes)('attentions %s', (dtype) => {
  it.each(cases)('%s', { timeout }, async (name, attention) => {
    const problem = attentionModuleProblem(attention, dtype, 700);
    const truth = attentionModuleTruth(attention, problem);
    const naive = attentionModuleNaiveErrors(attention, problem, truth, dtype);
    const results = runAttentionModule(problem);
    expect(results.outputs.output.dtype).toBe(dtype);
    for (const [key, gradient] of Object.entries(results.gradients)) {
      expect(gradient.dtype, key).toBe(key === 'x' ? dtype : 'f32');
    }
    const group = `${attention.kind} ${dtype}`;
    expectModuleWithinLimits(group, name, dtype, await takeResults(results), truth, naive, attention.vanishing);
    disposeAttentionModule(problem);
  });

  it.each(firstOfEach)('%s, inference (save: false)', { timeout }, async (kind, attention) => {
    const problem = attentionModuleProblem(attention, dtype, 800);
    const { output, saved } = problem.module.forward(problem.x.tensor, { save: false });
    expect(saved).toBeNull();
    if (kind === 'simulated') {
      // The mean over groups is fused into attention: within the same limit, not the same bits.
      const truth = attentionModuleTruth(attention, problem);
      const naive = attentionModuleNaiveErrors(attention, problem, truth, dtype);
      const results = await takeResults({ outputs: { output }, gradients: {} });
      expectWithinLimits(
        `${kind} inference ${dtype}`,
        attention.name,
        dtype,
        results,
        { ...truth, gradients: {} },
        naive,
      );
    } else {
      const trained = problem.module.forward(problem.x.tensor).output;
      expect(await valuesOf(output)).toEqual(await valuesOf(trained));
    }
    disposeAttentionModule(problem);
  });

  it.each(firstOfEach)('%s gives the same bits every time', { timeout }, async (_, attention) => {
    const problem = attentionModuleProblem(attention, dtype, 900);
    const seen = new Set<string>();
    for (let run = 0; run < (emulated ? 2 : 20); run++) seen.add(await digest(runAttentionModule(problem)));
    expect(seen.size).toBe(1);
    disposeAttentionModule(problem);
  });
});

describe('parameters', () => {
  it.each(cases)('%s: names and shapes', (_, attention) => {
    const module = attention.construct('f32', 0);
    const shapes = [...module.parameters].map(([name, { shape }]): [string, number[]] => [name, [...shape]]);
    expect(shapes.sort()).toEqual([...attention.parameterShapes].sort());
    module.dispose();
  });

  it.each(firstOfEach)('%s: a state dict carries everything', { timeout }, async (_, attention) => {
    const state = randomState(attention, 1000);
    const [first, second] = [attention.construct('f32', 1), attention.construct('f32', 2)];
    first.loadStateDict(state);
    const stored = await first.stateDict();
    expect([...stored].sort()).toEqual([...state].sort());
    const problem = attentionModuleProblem(attention, 'f32', 1000);
    const output = async (module: typeof first) => valuesOf(module.forward(problem.x.tensor, { save: false }).output);
    expect(await output(second)).not.toEqual(await output(first));
    second.loadStateDict(stored);
    expect(await output(second)).toEqual(await output(first));
    for (const module of [first, second]) module.dispose();
    disposeAttentionModule(problem);
  });

  it.each(firstOfEach)('%s: the seed alone decides how they begin', async (_, attention) => {
    const stateOf = async (seed: number) => {
      const module = attention.construct('f32', seed);
      const state = await module.stateDict();
      module.dispose();
      return state;
    };
    const [first, again, other] = [await stateOf(7), await stateOf(7), await stateOf(8)];
    expect(first).toEqual(again);
    for (const [name, { data }] of first) {
      // The weights of norms begin as ones, whatever the seed.
      if (name.endsWith('norm.weight')) expect([...data], name).toEqual(new Array(data.length).fill(1));
      else expect(data, name).not.toEqual(other.get(name)?.data);
    }
  });
});
