/** Trains a GPT of twelve layers for some steps, as the training loop does: `launches_program.ts DTYPE STEPS`. */
import { DEFAULT_CONFIG, type TrainConfig } from '../../lib/gpt/config.js';
import { splitText } from '../../lib/gpt/data.js';
import { enqueueStep } from '../../lib/gpt/loop.js';
import { startRun } from '../../lib/gpt/run.js';
import { getDevice } from '../../lib/index.js';

const [dtype, steps] = process.argv.slice(2);
const config: TrainConfig = {
  ...DEFAULT_CONFIG,
  dtype: dtype as TrainConfig['dtype'],
  ...{ layers: 12, width: 16, heads: 2, simHeads: 4, simHeadDim: 8, kernel: 3, hidden: 32, seq: 64, batch: 2 },
};
const device = getDevice('cuda:0');
const run = startRun(config, 'sas', device);
const bytes = Uint8Array.from({ length: 1000 }, (_, i) => (i * i) % 251);
const data = splitText('squares', bytes, config.seq);
for (let step = 0; step < Number(steps); step++) {
  const { loss } = enqueueStep(run, data);
  await device.synchronize();
  console.log((await loss.data())[0]);
}
