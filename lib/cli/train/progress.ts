/** Progress of one run: a live bar on a terminal, plain lines elsewhere. */
import { LiveLine } from '../terminal.js';

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

/** A terminal need not be written to more often. */
const REDRAW_MILLISECONDS = 100;

function bar(name: string, total: number, stream: NodeJS.WriteStream): Progress {
  const line = new LiveLine(stream);
  let validation = '-';
  let last: ProgressState | undefined;
  let drawnAt = Number.NEGATIVE_INFINITY;
  const draw = () => {
    if (!last) return;
    const { step, loss, tokensPerSecond, etaSeconds } = last;
    // What the text leaves of the line, so that nothing is cut off at 80 columns.
    const size = Math.max(8, Math.min(32, stream.columns - 72));
    const filled = Math.round((size * step) / total);
    const pieces = [
      `${name} ${'█'.repeat(filled)}${'░'.repeat(size - filled)} ${step}/${total}`,
      `loss ${loss.toFixed(3)}`,
      `val ${validation}`,
      `${tokensPerSecond.toFixed(0)} tokens/s`,
      `ETA ${formatDuration(etaSeconds)}`,
    ];
    line.show(pieces.join(' | '));
    drawnAt = performance.now();
  };
  return {
    step(state) {
      last = state;
      if (performance.now() - drawnAt >= REDRAW_MILLISECONDS) draw();
    },
    validation(_, loss) {
      validation = loss.toFixed(3);
      draw();
    },
    stop() {
      draw();
      line.keep();
    },
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

export function createProgress(name: string, total: number, stream = process.stdout): Progress {
  return stream.isTTY ? bar(name, total, stream) : lines(name, total, stream);
}
