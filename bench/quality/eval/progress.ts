/** Progress of one task on stderr: a live bar on a terminal, a line for each tenth elsewhere. */
import { LiveLine } from '../../../lib/cli/terminal.js';
import { formatDuration } from '../../../lib/cli/train/progress.js';

export interface Progress {
  update(done: number, total: number): void;
  stop(): void;
}

const BAR_WIDTH = 32;

export function createProgress(name: string, stream = process.stderr): Progress {
  const begun = performance.now();
  const line = new LiveLine(stream);
  let tenths = 0;
  return {
    update(done, total) {
      const eta = formatDuration(((performance.now() - begun) / 1000 / done) * (total - done));
      const filled = Math.round((BAR_WIDTH * done) / total);
      line.show(`${name} ${'█'.repeat(filled)}${'░'.repeat(BAR_WIDTH - filled)} ${done}/${total} | ETA ${eta}`);
      const reached = Math.floor((10 * done) / total);
      if (!stream.isTTY && reached > tenths) stream.write(`${name} ${done}/${total} | ETA ${eta}\n`);
      tenths = reached;
    },
    stop: () => line.clear(),
  };
}
