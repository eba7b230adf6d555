/** A training from its options to its table: checkpoints, losses, samples, Ctrl-C. */
import { existsSync, mkdirSync, writeFileSync } from 'node:fs';
import { basename, dirname, join, resolve } from 'node:path';
import { UsageError } from '../../failure.js';
import { type Checkpoint, loadCheckpoint, resumeRun } from '../../gpt/checkpoint.js';
import type { Attention, TrainConfig } from '../../gpt/config.js';
import { loadText, type TextData, type TextSource, type Tokens } from '../../gpt/data.js';
import type { StepResult } from '../../gpt/loop.js';
import { MetricsLog } from '../../gpt/metrics.js';
import { disposeRun, type Run, startRun } from '../../gpt/run.js';
import { runToEnd } from '../../gpt/run_to_end.js';
import { generate, printable } from '../../gpt/sampling.js';
import { textAt } from '../../gpt/text.js';
import { type Device, getDevice } from '../../index.js';
import { onBrokenPipe } from '../terminal.js';
import { DEFAULT_OUT, type Options } from './options.js';
import { createProgress } from './progress.js';
import { summaryTable } from './report.js';
import { resumedConfig, unfinishedIn } from './resume.js';

const SAMPLE_BYTES = 400;
const SAMPLE_PROMPT_BYTES = 64;
const SAMPLE_TEMPERATURE = 0.8;

const print = (text: string) => process.stdout.write(`${text}\n`);

export interface SessionOptions {
  readonly options: Options;
  /** What a user types to train, before the options. */
  readonly call: string;
  /** Trained on where no text is named. */
  readonly book?: TextSource;
  /** Writes more of what came out into the folder; returns the files. */
  finish?(out: string, log: MetricsLog, config: TrainConfig, text: string): Promise<readonly string[]>;
}

/**
 * Set by Ctrl-C, and when nobody reads what is printed any more. A second one, at least a second later (npm passes the first one
 * on twice), ends the process at once; so does one that comes before there is anything to save.
 */
class StopSignal {
  private requestedAt = Number.POSITIVE_INFINITY;

  get requested(): boolean {
    return this.requestedAt < Number.POSITIVE_INFINITY;
  }

  listen(): void {
    const request = () => {
      if (!this.requested) this.requestedAt = performance.now();
    };
    const onSignal = () => {
      if (performance.now() - this.requestedAt > 1000) process.exit(130);
      request();
    };
    process.on('SIGINT', onSignal);
    process.on('SIGTERM', onSignal);
    onBrokenPipe(request);
  }
}

/** The folder that holds the whole of the training that a checkpoint is of, if there is one. */
function folderOf({ path, meta }: Checkpoint): string | undefined {
  const folder = dirname(resolve(path));
  const parent = dirname(path) === '.' ? '..' : dirname(dirname(path));
  return basename(folder) === meta.attention && existsSync(join(parent, 'metrics.jsonl')) ? parent : undefined;
}

/**
 * A resumed run goes on in the folder that it was written to, unless --out names another. There, a run that is not finished is
 * not replaced unless asked for.
 */
async function outFolder(options: Options, checkpoint: Checkpoint | undefined, call: string): Promise<string> {
  const own = checkpoint && folderOf(checkpoint);
  const out = options.out ?? own ?? DEFAULT_OUT;
  const goesOn = own !== undefined && resolve(own) === resolve(out);
  const unfinished = goesOn || options.overwrite ? undefined : await unfinishedIn(out);
  if (unfinished) {
    throw new UsageError(
      `--out '${out}' holds a run that is not finished (${unfinished.state}): ` +
        `${call} --resume ${quoted(unfinished.path)} goes on with it, --overwrite replaces it`,
    );
  }
  try {
    mkdirSync(out, { recursive: true });
  } catch (error) {
    throw new UsageError(`--out '${out}': ${error instanceof Error ? error.message : error}`);
  }
  return out;
}

/** The beginning of the first whole paragraph that the model has not seen. */
function samplePrompt(text: Tokens): Uint8Array {
  const isSpace = (byte: number) => byte === 10 || byte === 13 || byte === 32;
  const lineBreak = text.indexOf(10);
  const start = text.findIndex((byte, i) => i > lineBreak && !isSpace(byte));
  return Uint8Array.from(text.subarray(Math.max(0, start), Math.max(0, start) + SAMPLE_PROMPT_BYTES));
}

/** For a shell. */
const quoted = (path: string) => (/^[\w./:@%+=-]+$/.test(path) ? path : `'${path.replaceAll("'", `'\\''`)}'`);

class Training {
  constructor(
    private readonly config: TrainConfig,
    private readonly data: TextData,
    private readonly device: Device,
    private readonly out: string,
    private readonly log: MetricsLog,
    private readonly stop: StopSignal,
    private readonly call: string,
  ) {}

  /** Trains one run to its end, or until Ctrl-C; says which. */
  async run(run: Run): Promise<boolean> {
    const { log, data, config, device, stop } = this;
    const { attention } = run;
    const folder = join(this.out, attention);
    const checkpoint = join(folder, 'checkpoint.safetensors');
    print(`\n${attention}: ${run.model.parameterCount.toLocaleString('en-US')} parameters on ${device.info.name}`);

    const progress = createProgress(attention, config.steps);
    const begun = performance.now();
    const firstStep = run.step;
    const events = {
      step: ({ step, loss }: StepResult, tokensPerSecond: number) => {
        // Validations take their share of what is left.
        const etaSeconds = ((config.steps - step) * (performance.now() - begun)) / 1000 / (step - firstStep);
        progress.step({ step, loss, tokensPerSecond, etaSeconds });
      },
      validation: (step: number, loss: number) => progress.validation(step, loss),
      shouldStop: () => stop.requested,
    };
    const finished = await runToEnd(run, data, { log, checkpoint }, events).finally(() => progress.stop());

    if (finished) {
      await this.sample(run, join(folder, 'sample.txt'));
    }
    if (stop.requested) {
      print(`\nStopped at step ${run.step} of ${attention}. Resume with:`);
      print(`  ${this.call} --resume ${quoted(checkpoint)}`);
    }
    return finished && !stop.requested;
  }

  private async sample(run: Run, path: string): Promise<void> {
    const prompt = samplePrompt(this.data.validation);
    const text = await generate(run.model, run.device, {
      prompt,
      length: SAMPLE_BYTES,
      temperature: SAMPLE_TEMPERATURE,
      seed: this.config.seed,
      shouldStop: () => this.stop.requested,
    });
    writeFileSync(path, text);
    const [given, generated] = [text.subarray(0, prompt.length), text.subarray(prompt.length)].map(printable);
    print(`\nSample of ${run.attention}, after the prompt [${given}]:\n${generated}`);
  }
}

/** The text that is named, else the program's own. */
function sourceOf({ text }: TrainConfig, book: TextSource | undefined): TextSource {
  const source = text === null ? book : textAt(text);
  if (source) return source;
  throw new UsageError('--text is missing: a file or folder of text to train on; --help lists the options');
}

export async function runSession({ options, call, book, finish }: SessionOptions): Promise<void> {
  const checkpoint = options.resume === undefined ? undefined : await loadCheckpoint(options.resume);
  const config = checkpoint ? resumedConfig(options, checkpoint) : options.config;
  const data = await loadText(sourceOf(config, book), config.seq);
  if (checkpoint && checkpoint.meta.textHash !== data.hash) {
    throw new UsageError(`text '${data.name}' is not the one that the checkpoint was trained on`);
  }
  const device = getDevice(options.device);
  const out = await outFolder(options, checkpoint, call);
  const log = new MetricsLog(join(out, 'metrics.jsonl'));

  const begun = checkpoint ? config.attentions.indexOf(checkpoint.meta.attention) : 0;
  const [attention, ...others] = config.attentions.slice(begun) as [Attention, ...Attention[]];
  const first = checkpoint ? resumeRun(checkpoint, config, device) : startRun(config, attention, device);
  const stop = new StopSignal();
  stop.listen();
  // Nothing of an older run is touched before the new one can go on.
  if (checkpoint) await log.resume(attention, checkpoint.step, config.steps, others);
  else await log.reset();

  const training = new Training(config, data, device, out, log, stop, call);
  for (const [i, next] of [attention, ...others].entries()) {
    const run = i === 0 ? first : startRun(config, next, device);
    const finished = await training.run(run);
    disposeRun(run);
    if (!finished) return;
  }

  const more = (await finish?.(out, log, config, data.name)) ?? [];
  print(`\n${summaryTable(log)}\n`);
  print(`Written: ${[join(out, 'metrics.jsonl'), ...more].join(', ')},`);
  print(
    `         ${[attention, ...others].map((attention) => `${join(out, attention)}/{checkpoint.safetensors,sample.txt}`).join(', ')}`,
  );
}
