/**
 * npm run test:fuzz -- [calls [seed]]: that many calls of the binding and of the library, half each. Prints the seed, which
 * replays the run on the same devices.
 */
import { randomInt } from 'node:crypto';
import { getDevice, listDevices } from '../../lib/index.js';
import { fuzzBinding } from './fuzz_binding.js';
import { fuzzLibrary } from './fuzz_library.js';

/** Calls each level until it has had its share of the calls or of the seconds. */
export async function fuzz({
  calls = Number.POSITIVE_INFINITY,
  seconds = Number.POSITIVE_INFINITY,
  seed = randomInt(2 ** 32),
}): Promise<string> {
  const ids = listDevices()
    .filter((device) => device.usable)
    .map((device) => device.id);
  // The emulated device takes a hundred times as long for a call.
  const devices = [...new Array(3).fill('cpu'), ...ids.filter((id) => id !== 'cpu')] as typeof ids;
  const share = () => {
    const end = performance.now() + (seconds / 2) * 1000;
    return (made: number) => made >= calls / 2 || performance.now() > end;
  };
  console.log(`fuzz: seed ${seed}, devices ${ids.join(', ')}`);
  const levels = {
    binding: await fuzzBinding(seed, share(), devices),
    library: await fuzzLibrary(
      seed,
      share(),
      devices.map((id) => getDevice(id)),
    ),
  };
  return Object.entries(levels)
    .map(([name, { calls, refused, compared }]) => `${name}: ${calls} calls, ${refused} refused, ${compared} compared`)
    .join('; ');
}

if (process.argv[1] === import.meta.filename) {
  const [calls = '200000', seed] = process.argv.slice(2);
  const started = performance.now();
  const summary = await fuzz({ calls: Number(calls), seed: seed === undefined ? undefined : Number(seed) });
  console.log(`${summary}; no crash, no leak, no wrong answer, ${((performance.now() - started) / 1000).toFixed(0)} s`);
}
