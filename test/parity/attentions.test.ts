import { createHash } from 'node:crypto';
import { afterAll, describe, expect, it } from 'vitest';
import type { Tensor } from '../../lib/index.js';
import {
  attentionCase,
  attentionModuleNaiveErrors,
  attentionModuleProblem,
  attentionModuleTruth,
  disposeAttentionModule,
  randomState,
  runAttentionModule,
} from '../helpers/attention_module_cases.js';
import { summary } from '../helpers/compare.js';
import { emulated, floatTypes, judge, type Results, takeResults, timeout, valuesOf } from '../helpers/parity.js';
import { judgeModule } from '../helpers/sas_cases.js';

const rope = { base: 10000, offset: 0, interleaved: false };
const neighbours = { base: 500, offset: 7, interleaved: true };
const turn = { base: 10000, offset: 3 };
const sas = { ropeAt: 'expanded', expansion: 'both', residual: true, aggregation: true } as const;

/** The small ones; the emulated device runs no others. */
const short = [
  attentionCase('multiHead', 1, 1, { width: 24, heads: 3, kvHeads: 3, headDim: 8, rope: null, bias: true }),
  attentionCase('multiHead', 2, 31, { width: 30, heads: 3, kvHeads: 1, headDim: 10, rope, bias: true }), // MQA
  attentionCase('latent', 2, 31, {
    ...{ width: 36, heads: 3, headDim: 12, ropeDim: 6, kvRank: 20, queryRank: null },
    rope,
  }),
  attentionCase('latent', 1, 1, {
    ...{ width: 20, heads: 1, headDim: 20, ropeDim: 4, kvRank: 8, queryRank: 6 },
    rope: neighbours,
  }),
  attentionCase('tensorProduct', 2, 31, {
    ...{ width: 36, heads: 3, headDim: 12, queryRank: 6, keyRank: 2, valueRank: 2 },
    rope,
  }),
  attentionCase('matrixFactorization', 2, 31, { width: 36, heads: 5, headDim: 12, queryRank: 20, rope }),
  attentionCase('simulated', 1, 1, {
    ...{ width: 24, heads: 3, headDim: 8, simHeads: 9, simHeadDim: 12, kernelSize: 3, rope: null },
    ...sas,
  }),
  attentionCase('simulated', 2, 31, {
    ...{ width: 36, heads: 3, headDim: 12, simHeads: 9, simHeadDim: 20, kernelSize: 5, rope: turn },
    ...sas,
  }),
];

const long = [
  attentionCase('multiHead', 3, 31, { width: 60, heads: 5, kvHeads: 5, headDim: 12, rope: null, bias: true }),
  attentionCase('multiHead', 1, 97, {
    ...{ width: 40, heads: 9, kvHeads: 3, headDim: 24, bias: false, causal: false }, // GQA
    rope: neighbours,
  }),
  attentionCase('latent', 1, 97, {
    ...{ width: 60, heads: 5, headDim: 24, ropeDim: 8, kvRank: 36, queryRank: 28 },
    rope: neighbours,
  }),
  attentionCase('tensorProduct', 1, 97, {
    ...{ width: 40, heads: 7, headDim: 24, queryRank: 3, keyRank: 1, valueRank: 2 },
    rope: neighbours,
  }),
  attentionCase('tensorProduct', 3, 1, {
    ...{ width: 20, heads: 1, headDim: 5, queryRank: 1, keyRank: 3, valueRank: 1 },
    rope: null,
  }),
  attentionCase('matrixFactorization', 1, 97, {
    ...{ width: 40, heads: 7, headDim: 24, queryRank: 24, rope: neighbours },
  }),
  attentionCase('matrixFactorization', 3, 31, { width: 20, heads: 1, headDim: 40, queryRank: 5, rope: null }),
  attentionCase('simulated', 1, 97, {
    ...{ width: 48, heads: 2, headDim: 24, simHeads: 6, simHeadDim: 40, kernelSize: 3, rope: null },
    ...sas,
  }),
  attentionCase('simulated', 3, 31, {
    ...{ width: 30, heads: 3, headDim: 10, simHeads: 9, simHeadDim: 15, kernelSize: 5, rope: turn },
    ...{ ...sas, ropeAt: 'projected' },
  }),
  attentionCase('simulated', 2, 31, {
    ...{ width: 36, heads: 3, headDim: 12, simHeads: 6, simHeadDim: 12, kernelSize: 3, rope: turn },
    ...{ ...sas, expansion: 'heads', aggregation: false },
  }),
  attentionCase('simulated', 2, 31, {
    ...{ width: 36, heads: 3, headDim: 12, simHeads: 3, simHeadDim: 20, kernelSize: 1, rope: null },
    ...{ ...sas, expansion: 'features' },
  }),
  attentionCase('simulated', 2, 31, {
    ...{ width: 36, heads: 3, headDim: 12, simHeads: 6, simHeadDim: 20, kernelSize: 3, rope: null },
    ...{ ...sas, residual: false, causal: false },
  }),
];

const cases = (emulated ? short : [...short, ...long]).map((attention) => [attention.name, attention] as const);
/** One of each kind. */
const oneOfEach = [short[1], short[2], short[4], short[5], short[7]].map(
  (attention) => [attention.kind, attention] as const,
);

afterAll(() => console.log(summary()));

/** The bits of every tensor; disposes them. */
async function bitsOf({ outputs, gradients }: Results<Tensor>): Promise<string> {
  const hash = createHash('sha256');
  for (const [name, tensor] of Object.entries({ ...outputs, ...gradients })) {
    const bits = await tensor.raw();
    hash.update(name).update(new Uint8Array(bits.buffer, bits.byteOffset, bits.byteLength));
    tensor.dispose();
  }
  return hash.digest('hex');
}

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
    judgeModule(group, name, dtype, await takeResults(results), truth, naive, attention.vanishing);
    disposeAttentionModule(problem);
  });

  it.each(oneOfEach)('%s, inference (save: false)', { timeout }, async (kind, attention) => {
    const problem = attentionModuleProblem(attention, dtype, 800);
    const { output, saved } = problem.module.forward(problem.x.tensor, { save: false });
    expect(saved).toBeNull();
    if (kind === 'simulated') {
      // The mean over groups is fused into attention: within the same limit, not the same bits.
      const truth = attentionModuleTruth(attention, problem);
      const naive = attentionModuleNaiveErrors(attention, problem, truth, dtype);
      const results = await takeResults({ outputs: { output }, gradients: {} });
      judge(`${kind} inference ${dtype}`, attention.name, dtype, results, { ...truth, gradients: {} }, naive);
    } else {
      const trained = problem.module.forward(problem.x.tensor).output;
      expect(await valuesOf(output)).toEqual(await valuesOf(trained));
    }
    disposeAttentionModule(problem);
  });

  it.each(oneOfEach)('%s gives the same bits every time', { timeout }, async (_, attention) => {
    const problem = attentionModuleProblem(attention, dtype, 900);
    const seen = new Set<string>();
    for (let run = 0; run < (emulated ? 2 : 20); run++) seen.add(await bitsOf(runAttentionModule(problem)));
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

  it.each(oneOfEach)('%s: a state dict carries everything', { timeout }, async (_, attention) => {
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

  it.each(oneOfEach)('%s: the seed alone decides how they begin', async (_, attention) => {
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
