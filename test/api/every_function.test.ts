/** What all public functions refuse alike. The functions are found by walking what the package exports, and name themselves. */
import { readFileSync } from 'node:fs';
import { readdir } from 'node:fs/promises';
import { join, resolve } from 'node:path';
import { afterAll, describe, expect, test } from 'vitest';
import * as attentions from '../../lib/attentions/index.js';
import {
  ArgumentError,
  getDevice,
  Module,
  ops,
  SasAttention,
  SasError,
  Saved,
  scope,
  Tensor,
} from '../../lib/index.js';
import { generators } from '../hardening/fuzz_library.js';
import { Maker } from '../hardening/library_operands.js';
import { Draw } from '../helpers/draw.js';
import { beyondF32, oneTooMany, strangers } from '../helpers/surplus.js';
import { expectRefusal, f32, type Refusal, small, thrownBy } from './helpers.js';

type Anything = (...args: unknown[]) => unknown;
type Class = new (...args: unknown[]) => object;

const root = resolve(import.meta.dirname, '../..');
const { exports: entryPoints } = JSON.parse(readFileSync(join(root, 'package.json'), 'utf8')) as {
  exports: Record<string, { default: string } | string>;
};
const entries = await Promise.all(
  Object.values(entryPoints)
    .flatMap((entry) => (typeof entry === 'string' ? [] : [entry.default]))
    .map(async (file) => (await import(join(root, file.replace('/dist/', '/lib/').replace(/js$/, 'ts')))) as object),
);

const width4 = { width: 4, heads: 2 };
const sas = new SasAttention(small);
const x = f32(1, 1, small.heads, small.headDim);
const { output, saved } = sas.forward(x, x, x);
/** One of each class that has methods. */
const instances: readonly object[] = [
  getDevice('cpu'),
  x,
  sas,
  saved,
  new attentions.MultiHeadAttention(width4),
  new attentions.MultiHeadLatentAttention({ ...width4, kvRank: 2, ropeDim: 2 }),
  new attentions.TensorProductAttention(width4),
  new attentions.MatrixFactorizationAttention({ ...width4, headDim: 2 }),
  new attentions.SimulatedAttention({ ...width4, simHeads: 4, simHeadDim: 2 }),
];
afterAll(() => {
  for (const resource of [output, ...instances]) if ('dispose' in resource) (resource as Tensor).dispose();
});

/** What only the library itself, or a class of its own, calls. */
const madeByTheLibrary: readonly unknown[] = [Tensor, Saved, Module, attentions.SelfAttention];
const sources = (await readdir(join(root, 'lib'), { recursive: true })).filter((name) => name.endsWith('.ts'));
const hidden = new Set(
  sources.flatMap((name) =>
    [...readFileSync(join(root, 'lib', name), 'utf8').matchAll(/protected (?:\w+ )*?(\w+)[(<]/g)].map(([, n]) => n),
  ),
);
/** Clean-up takes whatever a listener or a promise hands it: throwing would leave the memory where it is. */
const cleanUp: readonly PropertyKey[] = ['dispose', Symbol.dispose];

interface PublicFunction {
  name: string;
  /** Arguments that it declares. */
  most: number;
  call: Anything;
}

const isClass = (value: unknown): value is Class => typeof value === 'function' && /^class\b/.test(String(value));
const isError = (value: Class): boolean => value.prototype instanceof Error;

function methodsOf(owner: object, name: string, receiver = owner): PublicFunction[] {
  const properties = Reflect.ownKeys(owner).map((key) => [key, Object.getOwnPropertyDescriptor(owner, key)] as const);
  return properties.flatMap(([key, property]) => {
    const value: unknown = property?.value;
    const skipped = key === 'constructor' || isClass(value) || hidden.has(String(key)) || cleanUp.includes(key);
    if (skipped || typeof value !== 'function' || typeof key === 'symbol') return [];
    return [{ name: `${name}.${key}`, most: value.length, call: (...args) => Reflect.apply(value, receiver, args) }];
  });
}

function* exported(namespace: object, path = ''): Generator<PublicFunction> {
  for (const [name, value] of Object.entries(namespace)) {
    if (isClass(value)) {
      if (isError(value)) continue; // as JavaScript's own
      yield* methodsOf(value, name);
      if (madeByTheLibrary.includes(value)) continue;
      yield { name, most: value.length, call: (...args) => new value(...args) };
    } else if (typeof value === 'function') yield { name: path + name, most: value.length, call: value as Anything };
    else if (typeof value === 'object' && value !== null) yield* exported(value, name === 'ops' ? '' : `${name}.`);
  }
}

function* methods(): Generator<PublicFunction> {
  for (const instance of instances) {
    const { name } = instance.constructor;
    for (
      let owner = Object.getPrototypeOf(instance);
      owner !== Object.prototype;
      owner = Object.getPrototypeOf(owner)
    ) {
      yield* methodsOf(owner, name, instance);
    }
  }
}

const functions = [...entries.flatMap((entry) => [...exported(entry)]), ...methods()];

/** What the call throws, at once or as a promise. */
async function refusal(call: () => unknown): Promise<SasError> {
  try {
    await scope(() => ({ pending: call() })).pending;
  } catch (error) {
    return error as SasError;
  }
  throw new Error('expected a refusal');
}

test('the walk finds what the package exports, and an instance of every class', () => {
  const names = functions.map(({ name }) => name);
  for (const name of ['add', 'naive.expandBackward', 'scope', 'Tensor.from', 'Tensor.reshape', 'sasAttention']) {
    expect(names).toContain(name);
  }
  for (const name of ['SasAttention', 'SasAttention.forward', 'MultiHeadAttention.backward', 'Device.memory']) {
    expect(names).toContain(name);
  }
  const classes = entries.flatMap((entry) => Object.values(entry)).filter((value) => isClass(value) && !isError(value));
  for (const Kind of classes as Class[]) {
    expect(
      instances.some((instance) => instance instanceof Kind),
      `an instance of ${Kind.name}`,
    ).toBe(true);
  }
});

describe('arguments beyond those declared', () => {
  test.each(functions)('$name', async ({ name, most, call }) => {
    const error = await refusal(() => call(...new Array(most + 1).fill(undefined)));
    expect(error).toBeInstanceOf(ArgumentError);
    expect(error.message).toBe(`${name}: the call has ${most + 1} arguments, expected at most ${most}`);
    const others = await refusal(() => call(...new Array(most).fill(undefined))).catch(() => undefined);
    expect(others?.message ?? '').not.toContain('the call has');
  });

  test.each(functions)('$name: refusals in a loop leave the event loop its turns', async ({ most, call }) => {
    const refused = () => call(...new Array(most + 1).fill(undefined));
    let turned = false;
    setImmediate(() => (turned = true));
    const end = performance.now() + 2000;
    while (!turned && performance.now() < end) {
      let answer: unknown;
      try {
        answer = refused();
      } catch {
        return; // throws at the call: nothing to be awaited
      }
      await (answer as Promise<unknown>).catch(() => undefined);
    }
    expect(turned).toBe(true);
  });

  test('clean-up takes them', () => {
    for (const method of ['dispose', Symbol.dispose] as const) {
      const tensor = f32(1);
      Reflect.apply(tensor[method], tensor, ['close']);
      expect(tensor.disposed).toBe(true);
    }
  });
});

describe('whole messages', () => {
  const state = { parameter: x, gradient: x, firstMoment: x, secondMoment: x };
  const q = f32(1, 1, 1, 2);
  const head = new attentions.MultiHeadAttention(width4);
  const token = f32(1, 1, 4);
  afterAll(() => head.dispose());
  test.each<Refusal>([
    ['add: the call has 3 arguments, expected at most 2', ArgumentError, () => (ops.add as Anything)(x, x, x)],
    [
      "adamW: states[0] has the key 'weightDecay', expected only parameter, gradient, firstMoment, secondMoment",
      ArgumentError,
      () => ops.adamW([{ ...state, weightDecay: 0 } as never], { lr: 1, step: 1 }),
    ],
    [
      'attention: scale is -1e+39, expected a finite number (in f32 it is -Infinity)',
      ArgumentError,
      () => ops.attention(q, q, q, { scale: -1e39 }),
    ],
    [
      'rope: base is 1e-50, expected a finite number above 0 (in f32 it is 0)',
      ArgumentError,
      () => ops.rope(q, { base: 1e-50 }),
    ],
    [
      'adamW: beta2 is 0.9999999999, expected a finite number at least 0 and below 1 (in f32 it is 1)',
      ArgumentError,
      () => ops.adamW([state], { lr: 1, step: 1, beta2: 0.9999999999 }),
    ],
    [
      'Tensor.from: data[1] is 1e+39, expected a number (in f32 it is Infinity)',
      ArgumentError,
      () => Tensor.from([Number.POSITIVE_INFINITY, 1e39], [2]),
    ],
    [
      'MultiHeadAttention.forward: options is a Tensor, expected a plain object (known: save)',
      ArgumentError,
      () => (head.forward as Anything).call(head, token, token),
    ],
    [
      'gelu: options is a Map, expected a plain object (known: approximate)',
      ArgumentError,
      () => ops.gelu(x, new Map([['approximate', 'tanh']]) as never),
    ],
    [
      'gelu: options is an array, expected a plain object (known: approximate)',
      ArgumentError,
      () => ops.gelu(x, [] as never),
    ],
    [
      'MultiHeadAttention.loadStateDict: state is an object, expected pairs of a name and an entry, as a Map has them',
      ArgumentError,
      () => head.loadStateDict({ 'query.weight': 1 } as never),
    ],
    [
      'MultiHeadAttention.loadStateDict: state is an array with a Tensor at 0, expected pairs of a name and an entry, as a Map has them',
      ArgumentError,
      () => head.loadStateDict([x] as never),
    ],
    ['MultiHeadAttention.forward: x is 3, expected a Tensor', ArgumentError, () => head.forward(3 as never)],
    ['scope: body is undefined, expected a function', ArgumentError, () => scope(undefined as never)],
  ])('%s', (...refusal) => expectRefusal(refusal));
});

/** Draws differ in the options that they give. */
const draws = 6;
const named = generators.map(
  (generate, i) => [generate(new Maker(new Draw(i), getDevice('cpu'), [])).name, generate] as const,
);

describe.each(named)('%s', (_, generate) => {
  const eachCall = (body: (run: Anything, args: unknown[], most: number) => void) => {
    for (let seed = 1; seed <= draws; seed++) {
      scope(() => {
        const { run, args } = generate(new Maker(new Draw(seed), getDevice('cpu'), []));
        body(run as Anything, args, run.length);
      });
    }
  };

  test('refuses one argument too many, and keys that nobody knows', () => {
    eachCall((run, args, most) => {
      for (const [what, wrong] of [oneTooMany(args, most), ...strangers(args, most)]) {
        const error = thrownBy(() => run(...wrong));
        expect(error, what).toBeInstanceOf(ArgumentError);
        expect(error.message, what).toMatch(/arguments, expected at most|stranger|expected (a|pairs|true|an?) /);
      }
    });
  });

  test('refuses numbers that f32 has not', () => {
    eachCall((run, args, most) => {
      const refusalOf = (wrong: unknown[]) => thrownBy(() => run(...wrong)).message;
      for (const [what, wrong] of beyondF32(args, most, refusalOf)) {
        const error = thrownBy(() => run(...wrong));
        expect(error, what).toBeInstanceOf(SasError);
        expect(error.code, `${what}: ${error.message}`).not.toBe('SAS_INTERNAL');
      }
    });
  });
});
