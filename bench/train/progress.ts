// Progress of one run: a live bar on a terminal, plain lines elsewhere.

import { SingleBar } from 'cli-progress';

export interface ProgressState {
  step: number;
  loss: number;
  tokensPerSecond: number;
  etaSeconds: number;
}

export interface Progress {
  step(state: ProgressState): void;
  validation(step: number, loss: number): void;
  stop(): void;
}

export function formatDuration(seconds: number): string {
  const s = Math.round(seconds);
  return s < 3600
    ? `${Math.floor(s / 60)}:${String(s % 60).padStart(2, '0')}`
    : `${Math.floor(s / 3600)}:${String(Math.floor((s % 3600) / 60)).padStart(2, '0')}:${String(s % 60).padStart(2, '0')}`;
}

function bar(name: string, start: number, total: number, stream: NodeJS.WriteStream): Progress {
  const format = `${name} {bar} {value}/{total} | loss {loss} | val {validation} | {rate} tokens/s | ETA {left}`;
  const single = new SingleBar({
    format,
    stream,
    // What the text leaves of the line, so that nothing is cut off at 80 columns.
    barsize: Math.max(8, Math.min(32, stream.columns - 72)),
    barCompleteChar: '█',
    barIncompleteChar: '░',
    hideCursor: true,
    // Ctrl-C is ours: it ends the training after the current step.
    gracefulExit: false,
  });
  let validation = '-';
  single.start(total, start, { loss: '-', validation, rate: '-', left: '-' });
  return {
    step: ({ step, loss, tokensPerSecond, etaSeconds }) =>
      single.update(step, {
        loss: loss.toFixed(3),
        validation,
        rate: tokensPerSecond.toFixed(0),
        left: formatDuration(etaSeconds),
      }),
    validation: (_, loss) => {
      validation = loss.toFixed(3);
      single.update({ validation });
    },
    stop: () => single.stop(),
  };
}

function lines(name: string, total: number, stream: NodeJS.WritableStream): Progress {
  const every = Math.max(1, Math.round(total / 40));
  const width = String(total).length;
  const print = (step: number, text: string) =>
    stream.write(`${name} step ${String(step).padStart(width)}/${total} | ${text}\n`);
  return {
    step: ({ step, loss, tokensPerSecond, etaSeconds }) => {
      if (step % every !== 0 && step !== 1 && step !== total) return;
      const rate = `${tokensPerSecond.toFixed(0)} tokens/s | ETA ${formatDuration(etaSeconds)}`;
      print(step, `loss ${loss.toFixed(3)} | ${rate}`);
    },
    validation: (step, loss) => print(step, `validation loss ${loss.toFixed(3)}`),
    stop: () => {},
  };
}

export function createProgress(name: string, start: number, total: number, stream = process.stdout): Progress {
  return stream.isTTY ? bar(name, start, total, stream) : lines(name, total, stream);
}
