// Before the reference judges a kernel: it agrees with PyTorch autograd (float64 fixtures), and finite differences prove
// its gradients.
import { afterAll, describe, expect, it } from 'vitest';
import { expectClose, expectError, summary, vanishingParameter, vanishingScaleFrom } from './helpers/compare.js';
import {
  type Arrays,
  adamWCases,
  clipGradNormCases,
  type FixtureCase,
  opCases,
  parseSafetensors,
  sasCases,
  toArray64,
  torchStateCase,
} from './helpers/fixtures.js';
import { compareWithDifferences, compareWithFixture, exact, type Op } from './helpers/gradient_checks.js';
import { normal } from './helpers/random.js';
import * as reference from './reference/index.js';
import { type Array64, array64 } from './reference/index.js';

afterAll(() => console.log(summary()));

/** The gradient of SAS that is zero in exact arithmetic. */
const vanishing = new Map([[vanishingParameter, vanishingScaleFrom]]);

function defineOp<Options>(op: Op<Options>): Op<Options> {
  return op;
}

const attention = defineOp<reference.AttentionOptions64>({
  forward: ({ q, k, v }, options) => ({ ...reference.attention(q, k, v, options) }),
  backward: (gradOutput, { q, k, v }, options) => {
    const { gradQ, gradK, gradV } = reference.attentionBackward(gradOutput, q, k, v, options);
    return { q: gradQ, k: gradK, v: gradV };
  },
});

const linear = defineOp<unknown>({
  forward: ({ x, weight, bias }) => ({ output: reference.linear(x, weight, bias) }),
  backward: (gradOutput, { x, weight, bias }) => {
    const { gradX, gradWeight, gradBias } = reference.linearBackward(gradOutput, x, weight);
    return { x: gradX, weight: gradWeight, ...(bias === undefined ? {} : { bias: gradBias }) };
  },
});

const layerNorm = defineOp<{ eps: number }>({
  forward: ({ x, weight, bias }, { eps }) => ({ output: reference.layerNorm(x, weight, bias, eps).output }),
  backward: (gradOutput, { x, weight }, { eps }) => {
    const { gradX, gradWeight, gradBias } = reference.layerNormBackward(gradOutput, x, weight, eps);
    return { x: gradX, weight: gradWeight, bias: gradBias };
  },
});

const rmsNorm = defineOp<{ eps: number }>({
  forward: ({ x, weight }, { eps }) => ({ output: reference.rmsNorm(x, weight, eps).output }),
  backward: (gradOutput, { x, weight }, { eps }) => {
    const { gradX, gradWeight } = reference.rmsNormBackward(gradOutput, x, weight, eps);
    return { x: gradX, weight: gradWeight };
  },
});

const gelu = defineOp<{ approximate: reference.GeluApproximation }>({
  forward: ({ x }, { approximate }) => ({ output: reference.gelu(x, approximate) }),
  backward: (gradOutput, { x }, { approximate }) => ({ x: reference.geluBackward(gradOutput, x, approximate) }),
});

const embedding = defineOp<unknown>({
  forward: ({ tokenTable, positionTable }, _, tokens) => ({
    output: reference.embedding(tokens, 2, tokenTable, positionTable),
  }),
  backward: (gradOutput, { tokenTable, positionTable }, _, tokens) => {
    const [vocabulary, positions] = [tokenTable.shape[0], positionTable.shape[0]];
    const gradients = reference.embeddingBackward(gradOutput, tokens, vocabulary, positions);
    return { tokenTable: gradients.gradTokenTable, positionTable: gradients.gradPositionTable };
  },
});

const rope = defineOp<reference.RopeOptions64>({
  forward: ({ x }, options) => ({ output: reference.rope(x, options) }),
  backward: (gradOutput, _, options) => ({ x: reference.ropeBackward(gradOutput, options) }),
});

const crossEntropy = defineOp<{ ignoreIndex: number }>({
  forward: ({ logits }, { ignoreIndex }, targets) => {
    const { loss, logSumExp } = reference.crossEntropy(logits, targets, ignoreIndex);
    return { output: loss, logSumExp };
  },
  backward: (gradLoss, { logits }, { ignoreIndex }, targets) => ({
    logits: reference.crossEntropyBackward(gradLoss.data[0], logits, targets, ignoreIndex),
  }),
});

const concat = defineOp<unknown>({
  forward: ({ a, b }) => ({ output: reference.concat(a, b) }),
  backward: (gradOutput, { a, b }) => {
    const sizes = { widthA: a.shape[3], headsA: a.shape[2], headsB: b.shape[2] };
    const { gradA, gradB } = reference.concatBackward(gradOutput, sizes);
    return { a: gradA, b: gradB };
  },
});

const tensorProduct = defineOp<unknown>({
  forward: ({ headFactors, featureFactors }) => ({ output: reference.tensorProduct(headFactors, featureFactors) }),
  backward: (gradOutput, { headFactors, featureFactors }) => {
    const gradients = reference.tensorProductBackward(gradOutput, headFactors, featureFactors);
    return { headFactors: gradients.gradHeadFactors, featureFactors: gradients.gradFeatureFactors };
  },
});

const sasAttention = defineOp<reference.SasShape>({
  forward: ({ q, k, v, ...parameters }, options) => ({
    output: reference.sasAttention(q, k, v, new Map(Object.entries(parameters)), options),
  }),
  backward: (gradOutput, { q, k, v, ...parameters }, options) => {
    const gradients = reference.sasAttentionBackward(gradOutput, q, k, v, new Map(Object.entries(parameters)), options);
    const { gradQ, gradK, gradV, gradParameters } = gradients;
    return { q: gradQ, k: gradK, v: gradV, ...Object.fromEntries(gradParameters) };
  },
});

interface ExpandInputs {
  x: Array64;
  weights: reference.ExpandWeights64;
}

function expandInputs({
  x,
  headWeight,
  headBias,
  headResidualWeight,
  headResidualBias,
  ...feature
}: Arrays): ExpandInputs {
  return { x, weights: { headWeight, headBias, headResidualWeight, headResidualBias, ...feature } };
}

const expand = defineOp<unknown>({
  forward: (inputs) => {
    const { x, weights } = expandInputs(inputs);
    return { output: reference.expand(x, weights) };
  },
  backward: (gradOutput, inputs) => {
    const { x, weights } = expandInputs(inputs);
    const { gradX, gradWeights } = reference.expandBackward(gradOutput, x, weights);
    return { x: gradX, ...gradWeights };
  },
});

const aggregate = defineOp<{ heads: number; simHeads: number }>({
  forward: ({ x }, { heads }) => ({ output: reference.aggregate(x, heads) }),
  backward: (gradOutput, _, { heads, simHeads }) => ({ x: reference.aggregateBackward(gradOutput, heads, simHeads) }),
});

function suite<Options>(label: string, op: Op<Options>, fixtures: FixtureCase<Options>[]): void {
  describe(label, () => {
    it('agrees with PyTorch autograd', () => {
      expect(fixtures.length).toBeGreaterThan(0);
      for (const fixture of fixtures) compareWithFixture(label, op, fixture, vanishing);
    });
    it('has the gradients that finite differences show', () => {
      for (const fixture of fixtures) compareWithDifferences(label, op, fixture);
    });
  });
}

suite('sasAttention', sasAttention, sasCases());
suite('attention', attention, opCases('attention'));
suite('linear', linear, opCases('linear'));
suite('layerNorm', layerNorm, opCases('layerNorm'));
suite('rmsNorm', rmsNorm, opCases('rmsNorm'));
suite('gelu', gelu, opCases('gelu'));
suite('embedding', embedding, opCases('embedding'));
suite('rope', rope, opCases('rope'));
suite('crossEntropy', crossEntropy, opCases('crossEntropy'));
suite('concat', concat, opCases('concat'));
suite('tensorProduct', tensorProduct, opCases('tensorProduct'));

const random64 = (shape: number[], seed: number): Array64 => array64(normal(shape, seed), shape);

describe('expand', () => {
  // [heads, width, simHeads, simWidth, kernel]; simWidth 0: a value tensor, no feature expansion
  it.each([
    [2, 5, 6, 7, 3],
    [1, 4, 1, 2, 1],
    [3, 3, 3, 0, 7],
  ])(
    "has the gradients that finite differences show (H=%d D=%d H'=%d D'=%d k=%d)",
    (heads, width, simHeads, simWidth, kernel) => {
      const inputs: Arrays = {
        x: random64([2, 2, heads, width], 1),
        headWeight: random64([simHeads, heads, kernel], 2),
        headBias: random64([simHeads], 3),
        headResidualWeight: random64([simHeads, simHeads, kernel], 4),
        headResidualBias: random64([simHeads], 5),
      };
      if (simWidth > 0) {
        inputs.featureWeight = random64([simWidth, width], 6);
        inputs.featureBias = random64([simWidth], 7);
        inputs.featureResidualWeight = random64([simWidth, simWidth], 8);
        inputs.featureResidualBias = random64([simWidth], 9);
      }
      const gradOutput = random64([2, 2, simHeads, simWidth > 0 ? simWidth : width], 10);
      compareWithDifferences('expand', expand, { inputs, gradOutput, options: {}, integers: new Int32Array() });
    },
  );
});

describe('aggregate', () => {
  it('averages the groups of heads', () => {
    const x = array64([1, 2, 3, 4, 5, 6, 7, 8], [1, 1, 4, 2]);
    expect([...reference.aggregate(x, 2).data]).toEqual([3, 4, 5, 6]);
  });
  it('has the gradients that finite differences show', () => {
    compareWithDifferences('aggregate', aggregate, {
      inputs: { x: random64([2, 3, 6, 4], 1) },
      gradOutput: random64([2, 3, 8], 2),
      options: { heads: 2, simHeads: 6 },
      integers: new Int32Array(),
    });
  });
});

describe('attention, a query that sees no key', () => {
  it('outputs 0, logSumExp -inf and zero gradients', () => {
    const [q, k, v] = [random64([1, 5, 1, 3], 1), random64([1, 2, 1, 3], 2), random64([1, 2, 1, 4], 3)];
    const { output, logSumExp } = reference.attention(q, k, v);
    expect([...output.data.subarray(0, 12)]).toEqual(new Array(12).fill(0));
    expect([...logSumExp.data.subarray(0, 4)].map(Number.isFinite)).toEqual([false, false, false, true]);
    const { gradQ } = reference.attentionBackward(random64([1, 5, 1, 4], 4), q, k, v);
    expect([...gradQ.data.subarray(0, 9)]).toEqual(new Array(9).fill(0));
  });
});

describe('optimizer', () => {
  it('clips like PyTorch', () => {
    for (const { maxNorm, gradients, norm, clipped } of clipGradNormCases) {
      const result = reference.clipGradNorm(gradients.map(toArray64), maxNorm);
      expectClose(result.norm, toArray64(norm), exact, 'clipGradNorm: norm');
      result.gradients.forEach((gradient, i) => {
        expectClose(gradient, toArray64(clipped[i]), exact, 'clipGradNorm: gradient');
      });
    }
  });
  it('steps like PyTorch AdamW', () => {
    for (const { options, parameter, steps } of adamWCases) {
      let state = {
        parameter: toArray64(parameter),
        gradient: toArray64(parameter),
        firstMoment: reference.zeros64(parameter.shape),
        secondMoment: reference.zeros64(parameter.shape),
      };
      steps.forEach((expected, i) => {
        state = reference.adamW({ ...state, gradient: toArray64(expected.gradient) }, { ...options, step: i + 1 });
        expectClose(state.parameter, toArray64(expected.parameter), exact, 'adamW: parameter');
        expectClose(state.firstMoment, toArray64(expected.firstMoment), exact, 'adamW: firstMoment');
        expectClose(state.secondMoment, toArray64(expected.secondMoment), exact, 'adamW: secondMoment');
      });
    }
  });
});

describe('the module of the PyTorch state dict', () => {
  it('agrees with PyTorch autograd', () => {
    const fixture = torchStateCase();
    const parameters = parseSafetensors('sas_torch_state.safetensors');
    const expected = reference.parameterShapes(fixture.options);
    expect(Object.entries(parameters).map(([name, { shape }]) => [name, shape])).toEqual(expected);
    const inputs = { ...fixture.inputs, ...parameters };
    compareWithFixture('PyTorch state dict', sasAttention, { ...fixture, inputs }, vanishing);
  });
});

describe('erf', () => {
  // To the last digit of a float64, from tables of the error function.
  it.each([
    [0, 0],
    [1e-3, 0.0011283787909692363],
    [0.5, 0.5204998778130465],
    [1, 0.8427007929497149],
    [1.9999, 0.9953201979070294],
    [2, 0.9953222650189527],
    [2.5, 0.999593047982555],
    [3, 0.9999779095030014],
    [5, 0.9999999999984626],
  ])('erf(%d)', (x, expected) => {
    expectError(Math.abs(reference.erf(x) - expected), 1e-15, 'erf: value');
    expect(reference.erf(-x)).toBe(-reference.erf(x));
  });
  it('erfc keeps its relative accuracy in the tail', () => {
    expectError(Math.abs(reference.erfc(5) / 1.537459794428035e-12 - 1), 1e-14, 'erfc: 5');
    expectError(Math.abs(reference.erfc(10) / 2.088487583762545e-45 - 1), 1e-13, 'erfc: 10');
  });
});
