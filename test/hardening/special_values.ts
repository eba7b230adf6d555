/**
 * npm run test:special: NaN and infinities go where the float64 reference says, and what each op costs with denormal inputs,
 * as a multiple of its time with ordinary ones.
 */
import { type Device, getDevice, scope, Tensor } from '../../lib/index.js';
import { type FloatType, fromBits, toBits } from '../helpers/random.js';
import { type Array64, array64, sizeOf } from '../reference/index.js';
import { Draw } from './draw.js';
import { type OpCase, opTable } from './op_table.js';

const isParameter = (op: OpCase, name: string): boolean => op.parameters?.includes(name) ?? false;

function make(
  values: Float32Array,
  shape: readonly number[],
  dtype: FloatType,
  device: Device,
): { tensor: Tensor; exact: Array64 } {
  const bits = dtype === 'f32' ? values : toBits(values, dtype);
  const exact = array64(dtype === 'f32' ? values : fromBits(bits as Uint16Array, dtype), shape);
  return { tensor: Tensor.from(bits, shape, { dtype, device }), exact };
}

/** NaN, an infinity of either sign, or an ordinary number, as the op's user can tell them apart. */
const kind = (value: number): string => (Number.isFinite(value) ? 'finite' : String(value));

/**
 * Puts one special value into each input in turn: every element of the results must be NaN, infinite or finite as in float64.
 * An op with an `exception` must only not lose a NaN. Returns what differs.
 */
export async function propagate(device: Device, seed: number): Promise<{ checked: number; faults: string[] }> {
  const draw = new Draw(seed);
  const faults: string[] = [];
  let checked = 0;
  for (const [name, op] of Object.entries(opTable(1))) {
    if (!op.truth) continue;
    for (const dtype of ['f32', 'bf16', 'f16'] as const) {
      for (const target of Object.keys(op.shapes)) {
        const infinities = op.exception ? [] : [Number.POSITIVE_INFINITY, Number.NEGATIVE_INFINITY];
        for (const special of [Number.NaN, ...infinities]) {
          const inputs = Object.entries(op.shapes).map(([input, shape]) => {
            const values = draw.floats(sizeOf(shape));
            if (input === target) values[draw.below(values.length)] = special;
            return [input, make(values, shape, isParameter(op, input) ? 'f32' : dtype, device)] as const;
          });
          const label = `${name} ${dtype}, ${special} in ${target}`;
          const fault = await compareKinds(op, inputs);
          checked++;
          if (fault) faults.push(`${label}: ${fault}`);
        }
      }
    }
  }
  return { checked, faults };
}

async function compareKinds(
  op: OpCase,
  inputs: readonly (readonly [string, { tensor: Tensor; exact: Array64 }])[],
): Promise<string | null> {
  const results = scope(() => {
    const made = op.run(Object.fromEntries(inputs.map(([name, { tensor }]) => [name, tensor])));
    return made instanceof Tensor ? { output: made } : made;
  });
  const truth = op.truth?.(Object.fromEntries(inputs.map(([name, { exact }]) => [name, exact]))) ?? {};
  let fault: string | null = null;
  for (const [name, expected] of Object.entries(truth)) {
    const actual = await (results[name] as Tensor).data();
    const lost = expected.data.some(Number.isNaN) && !actual.some(Number.isNaN);
    const differs = (value: number, i: number) => (op.exception ? lost : kind(value) !== kind(actual[i] as number));
    const at = expected.data.findIndex(differs);
    if (at >= 0) fault ??= `${name}[${at}] is ${actual[at]}, expected ${expected.data[at]}`;
  }
  for (const tensor of [...Object.values(results), ...inputs.map(([, { tensor }]) => tensor)]) tensor.dispose();
  return fault;
}

/** Inputs of ordinary size times `scale`; parameters stay ordinary where activations are denormal, as they would. */
function scaledInputs(op: OpCase, scale: number, device: Device): Record<string, Tensor> {
  const draw = new Draw(1);
  const onlyParameters = Object.keys(op.shapes).every((name) => isParameter(op, name));
  const entries = Object.entries(op.shapes).map(([name, shape]) => {
    const factor = isParameter(op, name) && !onlyParameters ? 1 : scale;
    const values = draw.floats(sizeOf(shape)).map((value) => value * factor);
    return [name, make(values, shape, 'f32', device).tensor];
  });
  return Object.fromEntries(entries);
}

/** By op: its shortest time with denormal inputs over that with ordinary ones, measured in turns. */
export async function denormalCosts(device: Device, n = 1000, rounds = 12): Promise<Record<string, number>> {
  const ratios: Record<string, number> = {};
  for (const [name, op] of Object.entries(opTable(n, Math.ceil(n / 20)))) {
    const sides = [1, 1e-40].map((scale) => ({
      inputs: scaledInputs(op, scale, device),
      best: Number.POSITIVE_INFINITY,
    }));
    for (let round = 0; round < rounds; round++) {
      for (const side of sides) {
        await device.synchronize();
        const begin = performance.now();
        scope(() => {
          op.run(side.inputs);
        });
        await device.synchronize();
        side.best = Math.min(side.best, performance.now() - begin);
      }
    }
    for (const { inputs } of sides) for (const tensor of Object.values(inputs)) tensor.dispose();
    const [ordinary, denormal] = sides.map(({ best }) => best) as [number, number];
    ratios[name] = denormal / ordinary;
  }
  return ratios;
}

if (process.argv[1] === import.meta.filename) {
  const device = getDevice('cpu');
  const { checked, faults } = await propagate(device, 1);
  for (const fault of faults) console.log(fault);
  console.log(
    `NaN and infinities (${device.info.isa}): ${checked} calls, ${faults.length} differ from float64 in kind`,
  );
  const ratios = await denormalCosts(device);
  for (const [name, ratio] of Object.entries(ratios))
    console.log(`${name.padEnd(20)} ${ratio.toFixed(2)} x with denormal inputs`);
}
