import { expect, it } from 'vitest';
import { ArgumentError, DTypeError, ops, ShapeError, type Tensor } from '../../lib/index.js';
import { bf16, f32, i32 } from '../api/helpers.js';
import { expectClose, limit } from '../helpers/compare.js';
import { adamWCases, toArray64 } from '../helpers/fixtures.js';
import { exact } from '../helpers/gradient_checks.js';
import { type Case, defineOp, type Input, type Named, normalParameter } from '../helpers/op.js';
import { pair, valuesOf } from '../helpers/parity.js';
import { normal } from '../helpers/random.js';
import * as reference from '../reference/index.js';

type Options = Parameters<typeof ops.adamW>[1];
const roles = ['parameter', 'gradient', 'firstMoment', 'secondMoment'] as const;
type Role = (typeof roles)[number];

const positive = (shape: readonly number[]): Input => {
  const input = normalParameter(shape);
  return { ...input, values: (seed) => input.values(seed).map(Math.abs) };
};

/** One step of a state in the middle of training, for a parameter of each shape. */
function step(shapes: readonly (readonly number[])[], options: Options): Case<Options> {
  const entries = shapes.flatMap((shape, i) => roles.map((role): [string, Input] => [`${role} ${i}`, positive(shape)]));
  return { label: `a step of ${JSON.stringify(options)}`, options, inputs: Object.fromEntries(entries) };
}

/** 'parameter 0', 'gradient 0', ... as the op takes them. */
function statesOf<Value>(x: Named<Value>): Record<Role, Value>[] {
  return Array.from({ length: Object.keys(x).length / roles.length }, (_, i) => {
    const state = roles.map((role) => [role, x[`${role} ${i}`]]);
    return Object.fromEntries(state) as Record<Role, Value>;
  });
}

const settings = { lr: 1e-3, step: 1 };
const state = () => ({ parameter: f32(2), gradient: f32(2), firstMoment: f32(2), secondMoment: f32(2) });

export default defineOp<Options>({
  name: 'adamW',
  onlyF32: true,
  inPlace: true,
  cases: [step([[1], [5, 7], [70001]], { lr: 0.02, beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.3, step: 2 })],
  repeated: [step([[40003], [64, 40], [1]], { lr: 1e-2, step: 2 })],
  small: [],
  random: (draw) =>
    step(
      Array.from({ length: 1 + draw.below(2) }, () => [draw.size()]),
      { lr: 1e-3, step: 1 + draw.below(9) },
    ),

  forward: { call: ops.adamW, args: (x, options) => [statesOf<Tensor>(x), options] },
  reference: {
    forward: (x, options) =>
      Object.fromEntries(
        statesOf(x).flatMap((before, i) => {
          const after = reference.adamW(before, options);
          return roles.map((role) => [`${role} ${i}`, after[role]]);
        }),
      ),
  },

  noFixtures: 'lists, for referenceTests',
  arguments: {
    adamW: {
      refuses: [
        ['adamW: states is empty, expected an array of at least one', ArgumentError, () => ops.adamW([], settings)],
        ['adamW: states[0] is null, expected an object', ArgumentError, () => ops.adamW([null as never], settings)],
        [
          'adamW: states[0] is undefined, expected an object', // a hole
          ArgumentError,
          () => ops.adamW(new Array(3), { lr: 1, step: 1 }),
        ],
        [
          'adamW: states[1].gradient has shape [3], expected [2] (the shape of the parameter)',
          ShapeError,
          () => ops.adamW([state(), { ...state(), gradient: f32(3) }], settings),
        ],
        [
          'adamW: states[0].secondMoment is undefined, expected a Tensor',
          ArgumentError,
          () => ops.adamW([{ ...state(), secondMoment: undefined as never }], settings),
        ],
        [
          'adamW: states[0].gradient has dtype bf16, expected f32',
          DTypeError,
          () => ops.adamW([{ ...state(), gradient: bf16(2) }], settings),
        ],
        [
          'adamW: step is 0, expected an integer at least 1',
          ArgumentError,
          () => ops.adamW([state()], { lr: 1, step: 0 }),
        ],
        [
          'adamW: lr is undefined, expected a finite number at least 0',
          ArgumentError,
          () => ops.adamW([state()], { step: 1 } as never),
        ],
        [
          'adamW: beta1 is 1, expected a finite number at least 0 and below 1',
          ArgumentError,
          () => ops.adamW([state()], { ...settings, beta1: 1 }),
        ],
        [
          "adamW: there is no option 'betas'; known: lr, beta1, beta2, eps, weightDecay, step, skipped",
          ArgumentError,
          () => ops.adamW([state()], { ...settings, betas: [0.9, 0.95] } as never),
        ],
        [
          'adamW: skipped has shape [1], expected []',
          ShapeError,
          () => ops.adamW([state()], { ...settings, skipped: i32(1) }),
        ],
        [
          'adamW: skipped has dtype f32, expected i32',
          DTypeError,
          () => ops.adamW([state()], { ...settings, skipped: f32() }),
        ],
      ],
      tests: {
        'shapes of the results': () => {
          expect(ops.adamW([state()], settings)).toBeUndefined();
        },
      },
    },
  },

  extra: () => {
    it.each([[{ lr: 0.1 }], [{ lr: 0.02, beta1: 0.8, beta2: 0.95, eps: 1e-3, weightDecay: 0.3 }]])(
      'three steps of %j',
      async (options) => {
        const shapes = [[1], [5, 7], [70001]];
        // Parameters small against the learning rate: an error of the update is not hidden by the parameter it is added to.
        const parameters = shapes.map((shape, i) => pair(normal(shape, 20 + i, 0.01), shape, 'f32'));
        const zeros = (shape: number[]) => pair(new Float32Array(reference.sizeOf(shape)), shape, 'f32');
        const [firstMoments, secondMoments] = [shapes.map(zeros), shapes.map(zeros)];
        let truth = shapes.map((_, i) => ({
          parameter: parameters[i].exact,
          gradient: parameters[i].exact,
          firstMoment: firstMoments[i].exact,
          secondMoment: secondMoments[i].exact,
        }));
        for (let step = 1; step <= 3; step++) {
          const gradients = shapes.map((shape, i) => pair(normal(shape, 100 * step + i), shape, 'f32'));
          const states = shapes.map((_, i) => ({
            parameter: parameters[i].tensor,
            gradient: gradients[i].tensor,
            firstMoment: firstMoments[i].tensor,
            secondMoment: secondMoments[i].tensor,
          }));
          ops.adamW(states, { ...options, step });
          truth = truth.map((state, i) =>
            reference.adamW({ ...state, gradient: gradients[i].exact }, { ...options, step }),
          );
          for (const [i, state] of states.entries()) {
            for (const name of ['parameter', 'firstMoment', 'secondMoment'] as const) {
              const label = `adamW: ${name} ${i} after step ${step}`;
              expectClose(await valuesOf(state[name]), truth[i][name], limit('f32', 'output', 0), label);
            }
          }
        }
      },
    );
  },

  referenceTests: () => {
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
  },
});
