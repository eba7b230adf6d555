/** Small ops on random lengths, in a process of its own: prints its resident memory in MiB, ten times on the way, as JSON. */
import { getDevice } from '../../lib/index.js';
import { chain, follow, loops } from '../helpers/lengths.js';

const steps = Number(process.argv[2]);
const device = getDevice('cpu');
const shapeOf = loops.small();
const resident: number[] = [];
for (let tenth = 0; tenth < 10; tenth++) {
  await follow(device, steps / 10, shapeOf, chain(device));
  (globalThis as { gc?: () => void }).gc?.(); // what JavaScript has left is not what is judged
  resident.push(process.memoryUsage.rss() / 2 ** 20);
}
console.log(JSON.stringify(resident));
