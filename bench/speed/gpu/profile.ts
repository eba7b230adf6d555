/**
 * Runs cases once each, for a profiler to look at: node profile.mjs GROUP [DTYPE] [TOKENS] [TEXT]
 * (TEXT: only cases whose names hold it). Prints each case's name before its work begins.
 */
import { getDevice } from '../../../lib/index.js';
import type { Float } from './gpu_cases.js';
import { groupsOf } from './groups.js';

const [, , group = '', dtype = 'bf16', tokens = '8192', text = ''] = process.argv;
const found = groupsOf(Number(tokens))[group];
if (!found) throw new Error(`group '${group}': expected one of ${Object.keys(groupsOf(1)).join(', ')}`);
Object.assign(process.env, found.environment); // read when the device is opened
const device = getDevice();
for (const item of found.cases.filter(({ name, length }) => `${name} ${length}`.includes(text))) {
  const owned: { dispose(): void }[] = [];
  const prepared = item.prepare(item.batches[0] ?? 1, dtype as Float, (made) => {
    owned.push(made);
    return made;
  });
  await device.synchronize();
  console.log(`== ${item.name} ${dtype} T=${item.length} B=${item.batches[0]}`);
  await prepared.run();
  await device.synchronize();
  for (const made of owned) made.dispose();
}
process.exit(0);
