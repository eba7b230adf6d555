/** Saves generation after generation to the file of the first argument, until it is killed; prints each one that is safe. */
import { saveSafetensors, Tensor } from '../../lib/index.js';

const path = process.argv[2] as string;
const ELEMENTS = 100_000;
for (let generation = Number(process.argv[3]); ; generation++) {
  const tensors = Array.from({ length: 6 }, (_, i): [string, Tensor] => [
    `layer.${i}`,
    Tensor.from(new Float32Array(ELEMENTS).fill(generation + i), [ELEMENTS], { dtype: i % 2 ? 'f32' : 'bf16' }),
  ]);
  await saveSafetensors(path, tensors, { metadata: { generation: String(generation) } });
  process.stdout.write(`${generation}\n`);
  for (const [, tensor] of tensors) tensor.dispose();
}
