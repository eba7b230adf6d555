/** PyTorch on the CPU, in a Python process of its own that lives through all contests (peers/torch_server.py). */
import { type ChildProcessWithoutNullStreams, spawn } from 'node:child_process';
import { basename } from 'node:path';
import { createInterface } from 'node:readline';
import { fileURLToPath } from 'node:url';
import { REFERENCE } from '../../../lib/measure/cases.js';
import type { Contest, HostTensor, OpenRival, Rival, Side, Work } from './contest.js';

const SERVER = fileURLToPath(new URL('./python/torch_server.py', import.meta.url));

interface Answer {
  readonly error?: string;
  readonly version?: string;
  readonly threads?: number;
  readonly blas?: readonly string[];
  readonly results?: Record<string, string>;
  readonly seconds?: number;
}

/** One line to the server, one line back. */
class Server {
  readonly #child: ChildProcessWithoutNullStreams;
  readonly #lines: AsyncIterator<string>;
  readonly #ended: Promise<unknown>;
  #failure = 'it ended';

  constructor(python: string, threads: number) {
    const env: NodeJS.ProcessEnv = { ...process.env, PYTHONDONTWRITEBYTECODE: '1' };
    // An OpenBLAS held to an older core's kernels would be a weak rival.
    delete env.OPENBLAS_CORETYPE;
    for (const library of ['OMP', 'OPENBLAS', 'MKL']) env[`${library}_NUM_THREADS`] = String(threads);
    this.#child = spawn(python, [SERVER, String(threads)], { env });
    this.#lines = createInterface({ input: this.#child.stdout })[Symbol.asyncIterator]();
    this.#ended = new Promise((resolve) => this.#child.once('close', resolve));
    this.#child.on('error', ({ message }) => {
      this.#failure = message;
    });
    this.#child.stdin.on('error', () => {}); // a dead server shows as the end of its answers
    this.#child.stderr.on('data', (text: Buffer) => {
      this.#failure = String(text).trim().split('\n').at(-1) ?? this.#failure;
    });
  }

  async answer(): Promise<Answer> {
    const { value, done } = await this.#lines.next();
    if (done) await this.#ended; // what it said last has been read
    const answer: Answer = done ? { error: this.#failure } : JSON.parse(value);
    if (answer.error) throw new Error(answer.error);
    return answer;
  }

  ask(request: object): Promise<Answer> {
    this.#child.stdin.write(`${JSON.stringify(request)}\n`);
    return this.answer();
  }

  close(): void {
    this.#child.stdin.end();
  }
}

/** The first Python that has PyTorch. */
async function start(threads: number): Promise<{ server: Server; hello: Answer }> {
  const pythons = process.env.SAS_PYTHON ? [process.env.SAS_PYTHON] : ['python3', '/usr/bin/python3'];
  const reasons: string[] = [];
  for (const python of pythons) {
    const server = new Server(python, threads);
    try {
      return { server, hello: await server.answer() };
    } catch (error) {
      reasons.push(`${python}: ${error instanceof Error ? error.message : error}`);
    }
  }
  throw new Error(`${reasons.join('; ')} (SAS_PYTHON names another Python)`);
}

/** Netlib's loops, which Linux distributions install where nothing asks for more: tens of times slower than any other BLAS. */
export const isReferenceBlas = (files: readonly string[]): boolean =>
  files.length > 0 && files.every((file) => /libc?blas\.so/.test(file) && !/openblas|blis|mkl|atlas/.test(file));

const encoded = ({ shape, data }: HostTensor) => ({
  shape,
  data: Buffer.from(data.buffer, data.byteOffset, data.byteLength).toString('base64'),
});
const encodedAll = (tensors: Readonly<Record<string, HostTensor>>) =>
  Object.fromEntries(Object.entries(tensors).map(([name, tensor]) => [name, encoded(tensor)]));

function decoded(data: string): Float32Array {
  const bytes = Buffer.from(data, 'base64');
  return new Float32Array(Uint8Array.from(bytes).buffer);
}

async function side(server: Server, { kind, causal, backward }: Contest, { inputs, parameters }: Work): Promise<Side> {
  const { gradOutput, ...qkv } = inputs;
  await server.ask({
    do: 'load',
    module: kind,
    config: { ...REFERENCE, causal },
    parameters: encodedAll(parameters),
    inputs: encodedAll(qkv),
    gradOutput: encoded(gradOutput),
    backward,
  });
  return {
    results: async () => {
      const { results = {} } = await server.ask({ do: 'results' });
      return Object.fromEntries(Object.entries(results).map(([name, data]) => [name, decoded(data)]));
    },
    sample: async (repeats) => (await server.ask({ do: 'time', repeats })).seconds ?? Number.NaN,
  };
}

export const pytorch: Rival = {
  name: 'PyTorch',
  async open(threads): Promise<OpenRival> {
    const { server, hello } = await start(threads);
    const { version, blas = [] } = hello;
    if (isReferenceBlas(blas)) {
      server.close();
      throw new Error(
        `PyTorch ${version} multiplies by the reference BLAS (${blas}): no rival before OpenBLAS is installed`,
      );
    }
    const library = blas.length > 0 ? blas.map((file) => basename(file)).join(' and ') : 'its own BLAS';
    return {
      version: `PyTorch ${version}, CPU, ${hello.threads} threads, ${library}`,
      side: (contest, work) => side(server, contest, work),
      close: () => server.close(),
    };
  },
};
