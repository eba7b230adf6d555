/**
 * npm run test:special: NaN and infinities go where the float64 reference says, denormal inputs count as much as others, and
 * what each op costs with them, as a multiple of its time with ordinary ones.
 */
import { type Device, getDevice, scope, Tensor } from '../../lib/index.js';
import { relativeError } from '../helpers/compare.js';
import { Draw } from '../helpers/draw.js';
import { type Calls, type Case, inputOfGradient, type Named, type Op, type Special } from '../helpers/op.js';
import { dtypesOf, namedTensors } from '../helpers/op_run.js';
import { opTable } from '../helpers/op_table.js';
import { type FloatType, fromBits, toBits } from '../helpers/random.js';
import { type Array64, array64, norm64, sizeOf } from '../reference/index.js';

type Values = Named<Float32Array | Int32Array>;
type Direction = 'forward' | 'backward';

/** One direction of an op or of its twin, with what its description says of special values. */
interface Subject {
  name: string;
  op: Op;
  calls: Calls<unknown>;
  direction: Direction;
  special: Special;
}

const subjects: readonly Subject[] = opTable.flatMap((op) => {
  const { forward, backward, naive } = op.special ?? {};
  return [
    ...(forward ? [{ name: op.name, op, calls: op, direction: 'forward' as const, special: forward }] : []),
    ...(backward
      ? [{ name: `${op.name}Backward`, op, calls: op, direction: 'backward' as const, special: backward }]
      : []),
    ...(naive && op.naive
      ? [{ name: `naive.${op.name}`, op, calls: op.naive, direction: 'forward' as const, special: naive }]
      : []),
  ];
});

/** Ordinary numbers for every input; integers as the description draws them. */
const ordinary = (draw: Draw, { inputs }: Case): Values =>
  Object.fromEntries(
    Object.entries(inputs).map(([name, { shape, role, values }]) => [
      name,
      role === 'integer' ? values(draw.below(1000)) : draw.floats(sizeOf(shape)),
    ]),
  );

function operandsOf(item: Case, values: Values, dtype: FloatType, device: Device) {
  const tensors: Named<Tensor> = {};
  const exact: Named<Array64> = {};
  for (const [name, { shape, role }] of Object.entries(item.inputs)) {
    const own = values[name];
    const stored = role === 'activation' ? dtype : 'f32';
    const bits = own instanceof Int32Array || stored === 'f32' ? own : toBits(own, stored);
    tensors[name] = Tensor.from(bits, shape, bits instanceof Uint16Array ? { dtype: stored, device } : { device });
    exact[name] = array64(bits instanceof Uint16Array ? fromBits(bits, stored as 'bf16' | 'f16') : own, shape);
  }
  return { tensors, exact };
}

/** One direction in the library; its results by the names that they have in the reference. */
function compute({ calls, direction }: Subject, item: Case, tensors: Named<Tensor>): Named<Tensor> {
  return scope(() => {
    const { forward, backward } = calls;
    const outputs = namedTensors(forward.call(...(forward.args(tensors, item.options, {}) as never[])), 'output');
    if (direction === 'forward' || backward === undefined) return outputs;
    const returned = backward.call(...(backward.args(tensors, item.options, outputs) as never[]));
    const gradients = Object.entries(namedTensors(returned, Object.keys(item.inputs)[0]));
    return Object.fromEntries(gradients.map(([name, gradient]) => [inputOfGradient(name), gradient]));
  });
}

const truthOf = ({ op, direction }: Subject, item: Case, exact: Named<Array64>): Named<Array64> =>
  op.reference[direction]?.(exact, item.options) ?? {};

/** Results in the library beside the truth. */
async function both(subject: Subject, item: Case, values: Values, dtype: FloatType, device: Device) {
  const { tensors, exact } = operandsOf(item, values, dtype, device);
  const results = compute(subject, item, tensors);
  const truth = truthOf(subject, item, exact);
  const pairs: [name: string, actual: ArrayLike<number>, expected: Float64Array][] = [];
  for (const [name, { data }] of Object.entries(truth)) pairs.push([name, await results[name].data(), data]);
  for (const tensor of [...Object.values(results), ...Object.values(tensors)]) tensor.dispose();
  return pairs;
}

/** The inputs that a direction reads and that hold numbers. */
const targetsOf = ({ inputs }: Case, direction: Direction): string[] =>
  Object.keys(inputs).filter(
    (name) => inputs[name].role !== 'integer' && (direction === 'backward' || name !== 'gradOutput'),
  );

/** NaN, an infinity of either sign, or an ordinary number, as the op's user can tell them apart. */
const kind = (value: number): string => (Number.isFinite(value) ? 'finite' : String(value));

/**
 * Puts one special value into each input in turn: every element of the results must be NaN, infinite or finite as in float64.
 * With an exception a NaN must only not be lost. Returns what differs.
 */
export async function propagate(device: Device, seed: number): Promise<{ checked: number; faults: string[] }> {
  const draw = new Draw(seed);
  const faults: string[] = [];
  let checked = 0;
  for (const subject of subjects) {
    const { op, direction, special: rule } = subject;
    for (const item of op.small) {
      const excepted = rule.exception !== undefined && (rule.excepted?.(item.options) ?? true);
      const values = excepted ? [Number.NaN] : [Number.NaN, Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
      for (const dtype of dtypesOf(op)) {
        for (const target of targetsOf(item, direction)) {
          for (const value of values) {
            const inputs = ordinary(draw, item);
            inputs[target][draw.below(inputs[target].length)] = value;
            checked++;
            const fault = kindsDiffer(await both(subject, item, inputs, dtype, device), excepted, rule.only);
            if (fault) faults.push(`${subject.name} ${dtype} (${item.label}), ${value} in ${target}: ${fault}`);
          }
        }
      }
    }
  }
  return { checked, faults };
}

function kindsDiffer(
  pairs: Awaited<ReturnType<typeof both>>,
  excepted: boolean,
  only: Special['only'],
): string | undefined {
  for (const [name, actual, expected] of pairs) {
    if (only && !only.includes(name)) continue;
    const lost = expected.some(Number.isNaN) && !Array.from(actual).some(Number.isNaN);
    const differs = (value: number, i: number) => (excepted ? lost : kind(value) !== kind(actual[i]));
    const at = expected.findIndex(differs);
    if (at >= 0) return `${name}[${at}] is ${actual[at]}, expected ${expected[at]}`;
  }
  return undefined;
}

/** `target` times 1e-40, in f32; biases are 0, so that what is left of it shows. */
function denormal(draw: Draw, item: Case, target: string): Values {
  const inputs = ordinary(draw, item);
  for (const [name, values] of Object.entries(inputs)) {
    if (name === target) inputs[name] = values.map((value) => value * 1e-40);
    else if (/bias$/i.test(name)) values.fill(0);
  }
  return inputs;
}

/** What a few roundings to the smallest number of f32, in each element, are of the whole. */
const resolution = (expected: Float64Array): number =>
  (ROUNDINGS * 2 ** -149 * Math.sqrt(expected.length)) / norm64(expected);
const ROUNDINGS = 4;

/**
 * Denormal numbers in each activation in turn: results agree with float64 to what denormals of f32 can resolve, so nothing
 * flushes them to zero. Returns what differs.
 */
export async function keepDenormals(device: Device, seed: number): Promise<{ checked: number; faults: string[] }> {
  const draw = new Draw(seed);
  const faults: string[] = [];
  let checked = 0;
  for (const subject of subjects) {
    for (const item of subject.op.small) {
      for (const target of targetsOf(item, subject.direction)) {
        if (item.inputs[target].role !== 'activation') continue;
        checked++;
        const inputs = denormal(draw, item, target);
        for (const [name, actual, expected] of await both(subject, item, inputs, 'f32', device)) {
          if (norm64(expected) < 1e-43) continue; // below what f32 holds
          const error = relativeError(actual, expected);
          if (!(error <= 1e-3 + resolution(expected)))
            faults.push(`${subject.name} (${item.label}), ${target}: ${name} is off by ${error}`);
        }
      }
    }
  }
  return { checked, faults };
}

/** By op: its shortest time with denormal inputs over that with ordinary ones, measured in turns on its largest case. */
export async function denormalCosts(device: Device, rounds = 12): Promise<Named<number>> {
  const ratios: Named<number> = {};
  for (const subject of subjects) {
    const size = ({ inputs }: Case) => Object.values(inputs).reduce((sum, { shape }) => sum + sizeOf(shape), 0);
    const item = [...subject.op.cases].sort((a, b) => size(b) - size(a))[0];
    const sides = [ordinary(new Draw(1), item), denormal(new Draw(1), item, Object.keys(item.inputs)[0])].map(
      (values) => ({ tensors: operandsOf(item, values, 'f32', device).tensors, best: Number.POSITIVE_INFINITY }),
    );
    for (let round = 0; round < rounds; round++) {
      for (const side of sides) {
        await device.synchronize();
        const begin = performance.now();
        for (const tensor of Object.values(compute(subject, item, side.tensors))) tensor.dispose();
        await device.synchronize();
        side.best = Math.min(side.best, performance.now() - begin);
      }
    }
    for (const { tensors } of sides) for (const tensor of Object.values(tensors)) tensor.dispose();
    ratios[subject.name] = sides[1].best / sides[0].best;
  }
  return ratios;
}

if (process.argv[1] === import.meta.filename) {
  const device = getDevice('cpu');
  const { checked, faults } = await propagate(device, 1);
  const denormals = await keepDenormals(device, 1);
  for (const fault of [...faults, ...denormals.faults]) console.log(fault);
  console.log(
    `NaN and infinities (${device.info.isa}): ${checked} calls, ${faults.length} differ from float64 in kind; ` +
      `denormals: ${denormals.checked} calls, ${denormals.faults.length} differ`,
  );
  for (const [name, ratio] of Object.entries(await denormalCosts(device)))
    console.log(`${name.padEnd(20)} ${ratio.toFixed(2)} x with denormal inputs`);
}
