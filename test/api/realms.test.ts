/** Two realms: what a `vm` context or Jest's sandbox makes is taken for what it is, whichever of the two the library is in. */
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join, resolve } from 'node:path';
import { runInNewContext } from 'node:vm';
import { build } from 'esbuild';
import { describe, expect, test } from 'vitest';
import { ArgumentError, DTypeError, ops, SasAttention, SasError, scope, Tensor } from '../../lib/index.js';
import { inAnotherRealm } from '../hardening/realm.js';
import { expectRefusal, f32, small, thrownBy, values } from './helpers.js';

const foreign = <T>(value: T): T => inAnotherRealm(value) as T;

test('the values of these tests are of another realm', () => {
  const array = foreign(new Float32Array(1));
  expect(array instanceof Float32Array).toBe(false);
  expect(foreign({ a: 1 }) instanceof Object).toBe(false);
});

describe('data', () => {
  test('is copied', async () => {
    expect(await values(Tensor.from(foreign(new Float32Array([1, 2])), foreign([2])))).toEqual([1, 2]);
    expect(await values(Tensor.from(foreign([1, 2]), [2], foreign({ dtype: 'bf16' as const })))).toEqual([1, 2]);
    expect(await values(Tensor.from(foreign(new Int32Array([3])), [1]))).toEqual([3]);
    expect(Tensor.from(foreign(new Int32Array([3])), [1]).dtype).toBe('i32');
    const half = Tensor.from(foreign(new Uint16Array([0x3c00])), [1], { dtype: 'f16' });
    expect(await values(half)).toEqual([1]);
    half.copyFrom(foreign(new Uint16Array([0x4000])));
    expect(await values(half)).toEqual([2]);
  });

  test('is shared', async () => {
    const data = foreign(new Float32Array([1, 2]));
    const shared = Tensor.wrap(data, [2]);
    data[1] = 5;
    expect(await values(shared)).toEqual([1, 5]);
    expect(Tensor.wrap(foreign(new Uint16Array(1)), [1]).dtype).toBe('bf16');
    structuredClone(data.buffer, { transfer: [data.buffer] });
    expect(data.length).toBe(2);
  });

  test('of a kind that no tensor holds is refused', () => {
    expectRefusal([
      'Tensor.from: data is a Float64Array, expected a Float32Array, Int32Array, Uint16Array or an array of numbers',
      DTypeError,
      () => Tensor.from(foreign(new Float64Array(1)) as never, [1]),
    ]);
    const sharedBuffer = runInNewContext('new Float32Array(new SharedArrayBuffer(4))') as Float32Array;
    expectRefusal([
      'Tensor.wrap: data has a shared buffer, expected a plain ArrayBuffer of fixed length',
      ArgumentError,
      () => Tensor.wrap(sharedBuffer, [1]),
    ]);
  });

  test('is what the engine knows of it, whatever its properties say', async () => {
    class Liar extends Float32Array {
      override get buffer(): never {
        return new ArrayBuffer(64) as never;
      }
      override get length(): number {
        return 100;
      }
    }
    const liar = new Liar(2);
    expect(await values(Tensor.wrap(liar, [2]))).toEqual([0, 0]);
    const message = 'has 2 elements, expected 100';
    for (const call of [() => Tensor.wrap(liar, [100]), () => Tensor.from(liar, [100])]) {
      expect(thrownBy(call).message).toContain(message);
    }
    expect(thrownBy(() => f32(100).copyFrom(liar)).message).toContain(message);
  });
});

test('options, states and state dicts', async () => {
  const [parameter, gradient, firstMoment, secondMoment] = [f32(1), f32(1), f32(1), f32(1)];
  ops.adamW(foreign([{ parameter, gradient, firstMoment, secondMoment }]), foreign({ lr: 1, step: 1 }));
  const module = new SasAttention(foreign(small));
  const state = await module.stateDict();
  const entries = [...state].map(([name, { shape, data }]) => [name, { shape, data: data.fill(2) }] as const);
  const map = runInNewContext('new Map(entries)', { entries: foreign(entries) }) as typeof state;
  expect(map instanceof Map).toBe(false);
  module.loadStateDict(map);
  expect(await values(module.parameters.get('output_dense.bias') as Tensor)).toContain(2);
  module.dispose();
});

describe('what a scope returns', () => {
  const containers: Record<string, (tensor: Tensor) => object> = {
    array: (tensor) => foreign([tensor]),
    record: (tensor) => foreign({ a: { b: tensor } }),
    Map: (tensor) => runInNewContext('new Map([[1, tensor]])', { tensor }),
    Set: (tensor) => runInNewContext('new Set([tensor])', { tensor }),
    'record without a prototype': (tensor) => Object.assign(Object.create(null), { tensor }),
  };
  test.each(Object.entries(containers))('%s', (_, contain) => {
    let inside: Tensor | undefined;
    scope(() => {
      inside = f32(1);
      return contain(inside);
    });
    expect(inside?.disposed).toBe(false);
  });

  test('a promise is refused', () => {
    const refused = thrownBy(() => scope(() => runInNewContext('Promise.resolve(1)')));
    expect(refused.message).toMatch('scope: the body returned a promise');
  });

  test('instances of classes hold what they hold to themselves', () => {
    let inside: Tensor | undefined;
    scope(() => {
      inside = f32(1);
      return runInNewContext('new (class Holder { constructor(held) { this.held = held; } })(tensor)', {
        tensor: inside,
      });
    });
    expect(inside?.disposed).toBe(true);
  });
});

test('errors are known by their code, those of another copy of the library too', () => {
  const theirs = runInNewContext("Object.assign(new RangeError('x'), { code: 'SAS_SHAPE' })") as Error;
  expect(theirs instanceof Error).toBe(false);
  expect(theirs instanceof SasError).toBe(true);
  expect(runInNewContext("({ code: 'SAS_SHAPE' })") instanceof SasError).toBe(false);
});

/** As Jest does: the library in a realm of its own, its native addon and its callers in the process's. */
const sandboxed = `
  const { readFileSync } = require('node:fs');
  const vm = require('node:vm');
  const context = vm.createContext({ process, URL, Buffer });
  const module_ = { exports: {} };
  const code = '(function (require, module, exports) {' + readFileSync(process.argv[1], 'utf8') + '\\n})';
  vm.runInContext(code, context)(require, module_, module_.exports);
  const { DeviceError, getDevice, ops, SasError, scope, ShapeError, Tensor } = module_.exports;
  const thrown = (call) => { try { call(); } catch (error) { return error; } };
  const a = Tensor.from(new Float32Array([1, 2]), [2]);
  const b = Tensor.wrap(new Float32Array([3, 4]), [2], { dtype: 'f32' });
  let lost;
  const { kept } = scope(() => { lost = Tensor.zeros([1]); return { kept: Tensor.zeros([1]) }; });
  const shape = thrown(() => ops.add(a, Tensor.zeros([3])));
  const device = thrown(() => getDevice('cuda:99'));
  const targets = Tensor.from(new Int32Array([7]), [1]);
  (async () => {
    const sum = await ops.add(a, b).data();
    const target = await ops.crossEntropy(Tensor.zeros([1, 2]), targets).loss.data().catch((error) => error);
    console.log(JSON.stringify({
      sum: [...sum],
      disposed: [kept.disposed, lost.disposed],
      host: shape instanceof RangeError,
      shape: [shape.name, shape instanceof SasError, shape instanceof ShapeError,
        shape instanceof vm.runInContext('RangeError', context)],
      device: [device.name, /there is no device/.exec(device.message)?.[0]],
      target: [target.code, target instanceof DeviceError],
    }));
  })();`;

test('the library in a sandbox takes what its host makes', async () => {
  const root = resolve(import.meta.dirname, '../..');
  const folder = mkdtempSync(join(tmpdir(), 'sas-sandbox-'));
  try {
    const outfile = join(folder, 'library.cjs');
    await build({
      ...{ entryPoints: [join(root, 'lib/index.ts')], bundle: true, platform: 'node', format: 'cjs', outfile },
      ...{ logLevel: 'error', logOverride: { 'empty-import-meta': 'silent' } },
    });
    const { stdout, stderr } = spawnSync(process.execPath, ['-e', sandboxed, outfile], {
      cwd: root,
      encoding: 'utf8',
      env: {
        ...process.env,
        SAS_BINDING: resolve(root, process.env.SAS_BINDING ?? 'build/Release/sas_attention.node'),
      },
    });
    expect(stderr).toBe('');
    expect(JSON.parse(stdout)).toEqual({
      sum: [4, 6],
      disposed: [false, true],
      host: false,
      shape: ['ShapeError', true, true, true],
      device: ['DeviceError', 'there is no device'],
      target: ['SAS_DEVICE', true],
    });
  } finally {
    rmSync(folder, { recursive: true });
  }
});
