// How a float64 reference is proven before it judges anything: against PyTorch autograd, and by finite differences.
import { expect } from 'vitest';
import { norm64 } from '../reference/index.js';
import { expectClose, expectError } from './compare.js';
import type { Arrays, FixtureCase } from './fixtures.js';

export const exact = 1e-12; // float64 against float64: only the order of summation differs

/** A function as the fixtures and the finite differences see it; `gradOutput` is among the inputs of backward. */
export interface Differentiable<Options> {
  forward(inputs: Arrays, options: Options): Arrays; // the first entry is what gets a gradient
  backward(inputs: Arrays, options: Options): Arrays;
}

/** `vanishing`: gradients that are zero in exact arithmetic, each with the gradient that gives its scale. */
export function compareWithFixture<Options>(
  label: string,
  op: Differentiable<Options>,
  fixture: FixtureCase<Options>,
  vanishing: ReadonlyMap<string, string> = new Map(),
): void {
  const outputs = op.forward(fixture.inputs, fixture.options);
  for (const [name, expected] of Object.entries(fixture.outputs)) {
    const actual = name === 'output' ? Object.values(outputs)[0] : outputs[name];
    expectClose(actual, expected, exact, `${label}: ${name}`);
  }
  const gradients = op.backward(fixture.inputs, fixture.options);
  expect(Object.keys(gradients).sort()).toEqual(Object.keys(fixture.gradients).sort());
  for (const [name, expected] of Object.entries(fixture.gradients)) {
    const scaleFrom = vanishing.get(name);
    if (scaleFrom !== undefined) {
      // Nothing but rounding in both: judged by the size of the terms that cancel.
      const scale = norm64(fixture.gradients[scaleFrom].data);
      expectError(norm64(gradients[name].data), exact * scale, `${label}: gradient of ${name}`);
      expectError(norm64(expected.data), exact * scale, `${label}: gradient of ${name} by PyTorch`);
    } else {
      expectClose(gradients[name], expected, exact, `${label}: gradient of ${name}`);
    }
  }
}

/** Central differences of sum(gradOutput * output), element by element, for every input of `names`. */
export function compareWithDifferences<Options>(
  label: string,
  op: Differentiable<Options>,
  { inputs, options }: { inputs: Arrays; options: Options },
  names: readonly string[],
): void {
  const objective = (): number => {
    const [output] = Object.values(op.forward(inputs, options));
    return output.data.reduce((sum, value, i) => sum + value * inputs.gradOutput.data[i], 0);
  };
  const gradients = op.backward(inputs, options);
  expect(Object.keys(gradients).sort()).toEqual([...names].sort());
  const wholeNorm = Math.hypot(...Object.values(gradients).map((gradient) => norm64(gradient.data)));
  const step = 1e-5; // truncation ~ step^2, rounding ~ 1e-16 / step
  for (const name of names) {
    const input = inputs[name];
    const difference = input.data.map((value, i) => {
      input.data[i] = value + step;
      const above = objective();
      input.data[i] = value - step;
      const below = objective();
      input.data[i] = value;
      return (above - below) / (2 * step);
    });
    const distance = norm64(difference.map((value, i) => value - gradients[name].data[i]));
    // Of a gradient that is (nearly) zero, differences see only their own rounding.
    const size = Math.max(norm64(gradients[name].data), 0.01 * wholeNorm);
    expectError(distance / size, 1e-8, `${label} by differences: gradient of ${name}`);
  }
}
