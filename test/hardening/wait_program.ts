/** Memory is short while one op runs for most of a minute: prints, as JSON, what a call says that waits for it, and when. */
import { execFile } from 'node:child_process';
import { root } from '../helpers/native_build.js';

interface Waited {
  message: string;
  seconds: number;
  /** Seconds until a call failed that waiting could not help. */
  atOnce: number;
  code: number;
}

export function waitInVain(): Promise<Waited> {
  const env = { ...process.env, SAS_DEVICE: 'cpu', SAS_MEMORY_LIMIT: '200M' };
  return new Promise((resolve) => {
    execFile(process.execPath, ['--import', 'tsx', import.meta.filename], { cwd: root, env }, (error, stdout) => {
      resolve({ ...JSON.parse(stdout), code: error ? Number(error.code) : 0 });
    });
  });
}

if (process.argv[1] === import.meta.filename) {
  const { getDevice, ops, Tensor } = await import('../../lib/index.js');
  const x = Tensor.randn([1, 1 << 17, 1, 64], { seed: 1 }); // 32 MiB
  await getDevice().synchronize();
  ops.attention(x, x, x, { causal: false }).output.dispose(); // 32 MiB until it is done
  const failure = (bytes: number) => {
    const started = performance.now();
    try {
      Tensor.zeros([bytes / 4]).dispose();
    } catch (error) {
      return { message: (error as Error).message, seconds: (performance.now() - started) / 1000 };
    }
    return { message: 'none', seconds: 0 };
  };
  const atOnce = failure(170 << 20).seconds;
  console.log(JSON.stringify({ ...failure(140 << 20), atOnce }));
}
