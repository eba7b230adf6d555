import type { Planted } from '../fault.js';

const ARGUMENTS = 'test/api/arguments.test.ts';
const FILES = 'test/api/safetensors.test.ts';
const SCOPE = 'test/api/lifetime.test.ts > scope';

/** Checks, lifetimes, modules, files. */
export const LIB: readonly Planted[] = [
  {
    name: 'width of the keys not checked',
    file: 'lib/ops/attention.ts',
    find: "[B, k.shape.at(-3) ?? 'Tk', 'Hkv', D]",
    replace: "[B, k.shape.at(-3) ?? 'Tk', 'Hkv', 'D']",
    tests: [`${ARGUMENTS} > attention`],
  },
  {
    name: 'scale of the width of the values',
    file: 'lib/ops/attention.ts',
    find: 'scale = 1 / Math.sqrt(D)',
    replace: 'scale = 1 / Math.sqrt(Dv)',
    tests: ['test/parity/ops.1.test.ts|test/parity/ops.2.test.ts > attention f32 causal with scale'],
  },
  {
    name: 'not causal where nothing is said',
    file: 'lib/ops/attention.ts',
    find: 'causal = true, scale',
    replace: 'causal = false, scale',
    tests: ['test/parity/ops.1.test.ts|test/parity/ops.2.test.ts > attention f32 causal with scale'],
  },
  {
    name: 'gradient of k in the shape of v',
    file: 'lib/ops/attention.ts',
    find: 'gradK: [k.shape, gradDtype], gradV: [v.shape, gradDtype]',
    replace: 'gradV: [v.shape, gradDtype], gradK: [v.shape, gradDtype]',
    tests: ['test/parity/random.test.ts > random sizes f32 attention'],
  },
  {
    name: 'weight decay by default ten times as much',
    file: 'lib/ops/adamw.ts',
    find: 'weightDecay = 0.01,',
    replace: 'weightDecay = 0.1,',
    tests: ['test/parity/ops.1.test.ts|test/parity/ops.2.test.ts > adamW'],
  },
  {
    name: 'result of a scope disposed',
    file: 'lib/scope.ts',
    find: 'if (kept.has(resource)) track(resource); else resource.dispose();',
    replace: 'resource.dispose();',
    tests: [SCOPE],
  },
  {
    name: 'keys of a Map not looked at',
    file: 'lib/scope.ts',
    find: '[...value.keys(), ...value.values()]',
    replace: '[...value.values()]',
    tests: [`${SCOPE} disposes what is not returned`],
  },
  {
    name: 'outer scope forgets the results of the inner',
    file: 'lib/scope.ts',
    find: 'if (kept.has(resource)) track(resource);',
    replace: 'if (kept.has(resource)) forget(resource);',
    tests: [`${SCOPE} what an inner scope returns`],
  },
  {
    name: 'bounds let through what they exclude',
    file: 'lib/checks.ts',
    find: '(above !== undefined && value <= above)',
    replace: '(above !== undefined && value < above)',
    tests: [ARGUMENTS],
  },
  {
    name: 'length one less than wanted',
    file: 'lib/checks.ts',
    find: 'if (length !== elements(wanted)) {',
    replace: 'if (length < elements(wanted)) {',
    tests: ['test/api/tensor.test.ts > bad arguments'],
  },
  {
    name: 'device of the operands not compared',
    file: 'lib/tensor.ts',
    find: 'if (tensor.device !== first[1]) {',
    replace: 'if (tensor.device.info.kind !== first[1].info.kind && name === "") {',
    tests: ['test/parity/transfer.test.ts'],
    addon: 'emulated',
  },
  {
    name: 'saved of another module taken',
    file: 'lib/module.ts',
    find: 'if (saved.#owner !== owner)',
    replace: 'if (saved.#owner === null)',
    tests: ['test/api/attentions.test.ts > saved of another module is refused'],
  },
  {
    name: 'header not padded',
    file: 'lib/safetensors.ts',
    find: 'Math.ceil(json.length / 8) * 8',
    replace: 'json.length',
    tests: [`${FILES} > the layout is the published one`],
  },
  {
    name: 'narrow elements first',
    file: 'lib/safetensors.ts',
    find: 'b.data.BYTES_PER_ELEMENT - a.data.BYTES_PER_ELEMENT',
    replace: 'a.data.BYTES_PER_ELEMENT - b.data.BYTES_PER_ELEMENT',
    tests: [FILES],
  },
  {
    name: 'gaps between tensors let through',
    file: 'lib/safetensors.ts',
    find: 'if (begin !== offset) throw',
    replace: 'if (begin < offset) throw',
    tests: [`${FILES} > hostile files`],
  },
  {
    name: 'rest of the file let through',
    file: 'lib/safetensors.ts',
    find: 'if (offset !== dataBytes)',
    replace: 'if (offset > dataBytes)',
    tests: [`${FILES} > hostile files`],
  },
  {
    name: 'written in place of the old file',
    file: 'lib/safetensors.ts',
    find: "await open(temporary, 'wx')",
    replace: "await open(path, 'w')",
    tests: [`${FILES} > saving replaces the file`],
  },
];
