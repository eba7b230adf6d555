/** What a terminal can do and a pipe cannot: colours, and a line that is written over. */
import { styleText } from 'node:util';

type Style = 'bold' | 'dim' | 'green' | 'red' | 'yellow';

/** The text in that style; plain where stdout is no terminal or colours are not wanted (NO_COLOR). */
export function paint(style: Style, text: string): string {
  const { stdout } = process;
  return stdout.isTTY && stdout.hasColors() ? styleText(style, text) : text;
}

/** The last line of a terminal. On anything else it shows nothing. */
export class LiveLine {
  private width = 0;

  constructor(private readonly stream: NodeJS.WriteStream = process.stderr) {}

  /** Replaces what was shown; cut off at the edge, since a line that wraps cannot be written over. */
  show(text: string): void {
    if (!this.stream.isTTY) return;
    const shown = text.slice(0, Math.max(0, this.stream.columns - 1));
    this.stream.write(`\r${shown.padEnd(this.width)}`);
    this.width = shown.length;
  }

  clear(): void {
    this.show('');
    if (this.stream.isTTY) this.stream.write('\r');
  }

  /** Leaves what is shown and goes on below it. */
  keep(): void {
    if (this.width > 0) this.stream.write('\n');
    this.width = 0;
  }
}

/** Called when whoever read stdout has gone (`| head`); without it, that ends the process with an error. */
export function onBrokenPipe(action: () => void): void {
  process.stdout.on('error', (error: NodeJS.ErrnoException) => {
    if (error.code !== 'EPIPE') throw error;
    action();
  });
}

/** Nobody reads any more: the rest need not be printed. */
export const exitOnBrokenPipe = (): void => onBrokenPipe(() => process.exit());
