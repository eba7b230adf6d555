/** `npm run eval`: multiple-choice tasks on a checkpoint of `npm run train`. */
import { writeFile } from 'node:fs/promises';
import { runProgram } from '../../../lib/cli/run_program.js';
import { HELP, type Options, parseOptions } from './options.js';
import { createProgress } from './progress.js';
import { type Result, resultTable, windowNotes } from './report.js';
import { score } from './score.js';
import { readTask } from './task.js';

const print = (text: string) => process.stdout.write(`${text}\n`);

async function evaluate(options: Options): Promise<void> {
  // Every file is read before the first is scored, and before the addon is loaded.
  const tasks = options.tasks.map((file) => readTask(file, options));
  const { getDevice } = await import('../../../lib/index.js');
  const { CheckpointModel } = await import('./model.js');
  const device = getDevice(options.device);
  const model = await CheckpointModel.open(options.checkpoint, device);
  const { facts } = model;
  print(
    `${facts.attention}, ${facts.steps} steps, ${facts.parameters.toLocaleString('en-US')} parameters on ${device.info.name}\n`,
  );

  const results: Result[] = [];
  for (const { file, format, examples } of tasks) {
    const progress = createProgress(format);
    const { batch } = options;
    const onProgress = progress.update;
    const result = await score(model, examples, { batch, onProgress }).finally(() => progress.stop());
    results.push({ task: file, format, ...result });
  }
  model.dispose();

  print(resultTable(results));
  for (const note of windowNotes(results, facts.contextLength)) print(note);
  if (options.json !== undefined) {
    const report = { checkpoint: options.checkpoint, ...facts, results };
    await writeFile(options.json, `${JSON.stringify(report, null, 2)}\n`);
  }
}

await runProgram('eval', async () => {
  const options = parseOptions(process.argv.slice(2));
  if (options) await evaluate(options);
  else process.stdout.write(HELP);
});
