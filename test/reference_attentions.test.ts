// Before the references of SasAttention and the attention modules set their limits: PyTorch autograd and finite differences, as in
// reference.test.ts, and what the modules have to be in special cases.
import { afterAll, describe, expect, it } from 'vitest';
import { expectClose, summary, vanishingParameter, vanishingScaleFrom } from './helpers/compare.js';
import { type Arrays, attentionCases, parseSafetensors, sasCases, torchStateCase } from './helpers/fixtures.js';
import { compareWithDifferences, compareWithFixture, type Differentiable, exact } from './helpers/gradient_checks.js';
import { normal } from './helpers/random.js';
import * as reference from './reference/index.js';
import {
  type Array64,
  type AttentionConfigs64,
  type AttentionKind,
  array64,
  attention64,
  type Parameters64,
} from './reference/index.js';
import { naiveArithmetic, storingArithmetic } from './reference/rounded_attentions.js';
import { round64, roundedExpand, roundedExpandBackward } from './reference/rounded_pipeline.js';

afterAll(() => console.log(summary()));

const random64 = (shape: readonly number[], seed: number): Array64 => array64(normal(shape, seed), shape);

function moduleOp<Kind extends AttentionKind>(kind: Kind): Differentiable<AttentionConfigs64[Kind]> {
  return {
    forward: ({ x, gradOutput, ...parameters }, config) => ({
      output: attention64(kind, config, new Map(Object.entries(parameters)), x).output,
    }),
    backward: ({ gradOutput, x, ...parameters }, config) => {
      const module = attention64(kind, config, new Map(Object.entries(parameters)), x);
      const { gradX, gradParameters } = module.backward(gradOutput);
      return { x: gradX, ...Object.fromEntries(gradParameters) };
    },
  };
}

function suite<Kind extends AttentionKind>(kind: Kind): void {
  const fixtures = attentionCases(kind);
  const op = moduleOp(kind);
  describe(kind, () => {
    it('has the parameters of the fixtures', () => {
      for (const { options, inputs } of fixtures) {
        const { gradOutput, ...named } = inputs;
        const shapes = Object.entries(named).map(([name, { shape }]): [string, number[]] => [name, shape]);
        const expected = [['x', inputs.x.shape], ...reference.attentionParameterShapes(kind, options)];
        expect(shapes.sort()).toEqual(expected.sort());
      }
    });
    it('agrees with PyTorch autograd', () => {
      expect(fixtures.length).toBeGreaterThan(0);
      for (const fixture of fixtures) {
        compareWithFixture(kind, op, fixture, reference.vanishingParameters(kind, fixture.options));
      }
    });
    it('has the gradients that finite differences show', () => {
      for (const fixture of fixtures) {
        compareWithDifferences(kind, op, fixture, Object.keys(fixture.gradients));
      }
    });
  });
}

/** The gradient of SAS that is zero in exact arithmetic. */
const vanishing = new Map([[vanishingParameter, vanishingScaleFrom]]);

const sasAttention: Differentiable<reference.SasShape> = {
  forward: ({ q, k, v, gradOutput, ...parameters }, options) => ({
    output: reference.sasAttention(q, k, v, new Map(Object.entries(parameters)), options),
  }),
  backward: ({ gradOutput, q, k, v, ...parameters }, options) => {
    const gradients = reference.sasAttentionBackward(gradOutput, q, k, v, new Map(Object.entries(parameters)), options);
    const { gradQ, gradK, gradV, gradParameters } = gradients;
    return { q: gradQ, k: gradK, v: gradV, ...Object.fromEntries(gradParameters) };
  },
};

describe('sasAttention', () => {
  const fixtures = sasCases();
  it('agrees with PyTorch autograd', () => {
    expect(fixtures.length).toBeGreaterThan(0);
    for (const fixture of fixtures) compareWithFixture('sasAttention', sasAttention, fixture, vanishing);
  });
  it('has the gradients that finite differences show', () => {
    for (const fixture of fixtures) {
      compareWithDifferences('sasAttention', sasAttention, fixture, Object.keys(fixture.gradients));
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

suite('multiHead');
suite('latent');
suite('tensorProduct');
suite('matrixFactorization');
suite('simulated');

describe('gradients that are zero in exact arithmetic', () => {
  // That they are zero, compareWithFixture checks; that no other is, this does.
  it.each(['multiHead', 'latent', 'tensorProduct', 'matrixFactorization', 'simulated'] as const)(
    'are only those named (%s)',
    (kind) => {
      for (const { options, gradients } of attentionCases(kind)) {
        const vanishing = reference.vanishingParameters(kind, options);
        const zeros = Object.entries(gradients).filter(([, { data }]) => reference.norm64(data) < 1e-6);
        expect(zeros.map(([name]) => name).sort()).toEqual([...vanishing.keys()].sort());
      }
    },
  );
});

/** The three projections as one module's q, k and v. */
function projections(inputs: Arrays, heads: number): Record<'q' | 'k' | 'v', Array64> {
  const project = (name: string): Array64 => {
    const { data, shape } = reference.linear(inputs.x, inputs[`${name}.weight`], inputs[`${name}.bias`]);
    return array64(data, [shape[0], shape[1], heads, shape[2] / heads]);
  };
  return { q: project('query'), k: project('key'), v: project('value') };
}

describe('simulated attention with all of its parts', () => {
  const [{ options, inputs }] = attentionCases('simulated');
  const { gradOutput, x, ...named } = inputs;
  const parameters: Parameters64 = new Map(Object.entries(named));
  const { q, k, v } = projections(inputs, options.heads);

  it('is the SAS block after its projections', () => {
    const output = reference.sasAttention(q, k, v, parameters, options);
    const module = attention64('simulated', options, parameters, x);
    expectClose(module.output, output, exact, 'SAS block: output');
    const expected = reference.sasAttentionBackward(gradOutput, q, k, v, parameters, options).gradParameters;
    const { gradParameters } = module.backward(gradOutput);
    for (const [name, gradient] of expected) {
      if (name !== 'sas_k.3.process.bias') {
        expectClose(reference.parameter64(gradParameters, name), gradient, exact, `SAS block: gradient of ${name}`);
      }
    }
  });
});

describe.each(['f32', 'bf16', 'f16'] as const)('the rounding expansion %s', (dtype) => {
  const [{ inputs }] = attentionCases('simulated');
  const parameters: Parameters64 = new Map(Object.entries(inputs));
  const weights = reference.branchWeights(parameters, 'q');
  const x = round64(random64([2, 3, 2, 4], 1), dtype);
  const gradOutput = round64(random64([2, 3, 6, 6], 2), dtype);
  const expandWith = (steps: reference.Steps64) =>
    steps.fused((inside) =>
      reference.chain(
        inside.headConvolution('sas_q.0', x),
        (c1) => inside.residual(c1, (reluC1) => inside.headConvolution('sas_q.1.process', reluC1)),
        (y) => inside.linear('sas_q.2', y),
        (z1) => inside.residual(z1, (reluZ1) => inside.linear('sas_q.3.process', reluZ1)),
      ),
    );
  const expectGradients = (steps: reference.Steps64, expected: reference.ExpandWeights64) => {
    for (const [field, name] of reference.branchNames('q')) {
      expect(reference.parameter64(steps.gradParameters, name), name).toEqual(expected[field]);
    }
  };

  it('of the naive steps is the unfused pipeline', () => {
    const steps = new reference.Steps64(parameters, naiveArithmetic(dtype));
    const { output, backward } = expandWith(steps);
    expect(output).toEqual(roundedExpand(x, weights, dtype));
    const expected = roundedExpandBackward(gradOutput, x, weights, dtype);
    expect(backward(gradOutput)).toEqual(expected.gradX);
    expectGradients(steps, expected.gradWeights);
  });

  it('of exact ops rounds their results', () => {
    const steps = new reference.Steps64(parameters, storingArithmetic(dtype, 'f32'));
    const single = new Map([...parameters].map(([name, value]) => [name, round64(value, 'f32')]));
    const { output, backward } = expandWith(steps);
    expect(output).toEqual(round64(reference.expand(x, reference.branchWeights(single, 'q')), dtype));
    const expected = reference.expandBackward(gradOutput, x, reference.branchWeights(single, 'q'));
    expect(backward(gradOutput)).toEqual(round64(expected.gradX, dtype));
    const gradWeights = Object.entries(expected.gradWeights).map(([field, gradient]) => [
      field,
      round64(gradient, 'f32'),
    ]);
    expectGradients(steps, Object.fromEntries(gradWeights) as reference.ExpandWeights64);
  });
});
