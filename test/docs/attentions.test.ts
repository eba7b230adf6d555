// The numbers of docs/attentions.md, taken from the modules themselves.
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { expect, test } from 'vitest';
import {
  MatrixFactorizationAttention,
  MultiHeadAttention,
  MultiHeadLatentAttention,
  SimulatedAttention,
  TensorProductAttention,
} from '../../lib/attentions/index.js';
import { root } from '../helpers/native_build.js';

const sizes = { width: 768, heads: 12 };
const simulated = { ...sizes, simHeads: 36, simHeadDim: 96 };
const modules = {
  MHA: () => new MultiHeadAttention(sizes),
  MQA: () => new MultiHeadAttention({ ...sizes, kvHeads: 1 }),
  GQA: () => new MultiHeadAttention({ ...sizes, kvHeads: 3 }),
  MLA: () => new MultiHeadLatentAttention({ ...sizes, kvRank: 256, ropeDim: 32 }),
  TPA: () => new TensorProductAttention(sizes),
  MFA: () => new MatrixFactorizationAttention({ ...sizes, headDim: 128 }),
  SAS: () => new SimulatedAttention(simulated),
  'SAS-linear': () => new SimulatedAttention({ ...simulated, kernelSize: 1 }),
};

test.each(Object.entries(modules))('%s has the weights and the cache that the table says', (name, make) => {
  const page = readFileSync(join(root, 'docs/attentions.md'), 'utf8');
  const [, weights, kept] =
    new RegExp(`^\\| ${name} \\|[^|]+\\| ([\\d,]+) \\|[^|]+\\| ([\\d,]+) \\|$`, 'm').exec(page) ?? [];
  const module = make();
  let count = 0;
  for (const [key, { size }] of module.parameters) if (!key.endsWith('.bias')) count += size;
  expect([weights, kept]).toEqual([count, module.cachedElements].map((value) => value.toLocaleString('en-US')));
  module.dispose();
});
