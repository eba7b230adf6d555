// Random right calls of the library, of every op that is described: what the fuzzers spoil.
import { type Device, Tensor } from '../../lib/index.js';
import type { Resource } from '../../lib/scope.js';
import { type Array64, array64, sizeOf } from '../reference/index.js';
import type { Draw } from './draw.js';
import { type Calls, type Case, type Input, inputOfGradient, type Named, type Op } from './op.js';
import { namedTensors } from './op_run.js';
import { opTable } from './op_table.js';
import { type FloatType, fromBits, toBits } from './random.js';

export interface LibraryCall {
  name: string;
  run: (...args: never[]) => unknown;
  args: unknown[];
  dtype: FloatType;
  /** Whether the call changes its inputs. */
  inPlace: boolean;
  /** The tensors among the arguments, and what they were made from. */
  tensors: Named<Tensor>;
  options: unknown;
  /** What came of the call, by the names of `truth`. */
  results(returned: unknown): Named<Tensor>;
  /** In float64; absent where a sign that rounding decides makes more of a difference than all other rounding. */
  truth?: () => Named<Array64>;
}

export interface CallMaker {
  name: string;
  /** Adds every tensor that it makes to `made`. */
  make(draw: Draw, device: Device, made: Resource[]): LibraryCall;
}

/** Activations in [-1, 1): ordinary, whatever the sizes. Parameters and integers as the description draws them. */
function operand(draw: Draw, { shape, role, values }: Input, dtype: FloatType, device: Device) {
  const drawn = role === 'activation' ? draw.floats(sizeOf(shape)) : values(1 + draw.below(1000));
  if (drawn instanceof Int32Array || role === 'parameter' || dtype === 'f32') {
    return { tensor: Tensor.from(drawn, shape, { device }), exact: array64(drawn, shape) };
  }
  const bits = toBits(drawn, dtype);
  return { tensor: Tensor.from(bits, shape, { dtype, device }), exact: array64(fromBits(bits, dtype), shape) };
}

/** The calls of one description: forward, backward, and those of its twin if that is an op. */
export function callsOf(op: Op): CallMaker[] {
  const operands = (draw: Draw, device: Device, made: Resource[]) => {
    const item: Case = op.random(draw);
    const dtype = op.onlyF32 ? 'f32' : draw.pick(['f32', 'f32', 'bf16', 'f16'] as const);
    const pairs = Object.entries(item.inputs).map(
      ([name, input]) => [name, operand(draw, input, dtype, device)] as const,
    );
    const tensors = Object.fromEntries(pairs.map(([name, { tensor }]) => [name, tensor]));
    made.push(...Object.values(tensors));
    const exact = Object.fromEntries(pairs.map(([name, { exact }]) => [name, exact]));
    return { item, options: item.options, dtype, tensors, exact };
  };

  const forward = (name: string, { forward: { call, args } }: Calls<unknown>): CallMaker => ({
    name,
    make: (draw, device, made) => {
      const { options, dtype, tensors, exact } = operands(draw, device, made);
      return {
        ...{ name, run: call, args: [...args(tensors, options, {})], dtype, tensors, options },
        inPlace: op.inPlace ?? false,
        results: (returned) => ({ ...namedTensors(returned, 'output'), ...(op.inPlace && tensors) }),
        truth: () => op.reference.forward(exact, options),
      };
    },
  });

  const backward = (name: string, calls: Calls<unknown>): CallMaker[] => {
    const { forward: before, backward: after } = calls;
    const exactBackward = op.reference.backward;
    if (after === undefined || exactBackward === undefined) return [];
    return [
      {
        name: `${name}Backward`,
        make: (draw, device, made) => {
          const { item, options, dtype, tensors, exact } = operands(draw, device, made);
          const outputs = namedTensors(before.call(...(before.args(tensors, options, {}) as never[])), 'output');
          made.push(...Object.values(outputs));
          const args = [...after.args(tensors, options, outputs)];
          const first = Object.keys(item.inputs)[0];
          return {
            ...{ name: `${name}Backward`, run: after.call, args, dtype, tensors, options, inPlace: false },
            results: (returned) =>
              Object.fromEntries(
                Object.entries(namedTensors(returned, first)).map(([key, value]) => [inputOfGradient(key), value]),
              ),
            ...(!op.kinked && { truth: () => exactBackward(exact, options) }),
          };
        },
      },
    ];
  };

  const { naive } = op;
  const twin = naive?.name === undefined ? [] : [forward(naive.name, naive), ...backward(naive.name, naive)];
  return [forward(op.name, op), ...backward(op.name, op), ...twin];
}

/** Of every op. The raw binding's fuzzer may take its operands from the same cases. */
export const libraryCalls: readonly CallMaker[] = opTable.flatMap(callsOf);
