// The installed package on each Node that is supported, there in worker threads, in a cluster and in a vitest of the user's.
// Node's binaries are fetched from the npm registry.
import { symlinkSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { root, Workshop } from './project.js';

const workshop = new Workshop();
const project = workshop.project('user');

/** [0.5, 1.5] averaged over pairs of heads; in a module of its own, which every environment imports. */
const compute = `
  import { listDevices, ops, Tensor } from 'sas-attention';
  export async function compute() {
    const x = Tensor.from([0, 1, 1, 2], [1, 1, 4, 1]);
    return Array.from(await ops.aggregate(x, 2).data()).join(' ') + ' ' + listDevices().at(-1).id;
  }`;
const expected = '0.5 1.5 cpu';

const programs = {
  'main.mjs': `import { compute } from './compute.mjs'; console.log(process.versions.node, await compute());`,
  'require.cjs': `const { SasAttention } = require('sas-attention'); console.log(typeof SasAttention);`,
  'workers.mjs': `
    import { isMainThread, parentPort, Worker } from 'node:worker_threads';
    import { compute } from './compute.mjs';
    if (isMainThread) {
      const answers = Array.from({ length: 4 }, () => new Promise((done, reject) =>
        new Worker(new URL(import.meta.url)).once('message', done).once('error', reject)));
      console.log([await compute(), ...await Promise.all(answers)].join(','));
    } else parentPort.postMessage(await compute());`,
  'cluster.mjs': `
    import cluster from 'node:cluster';
    import { compute } from './compute.mjs';
    if (cluster.isPrimary) {
      const answers = Array.from({ length: 2 }, () => new Promise((done, reject) =>
        cluster.fork().once('message', done).once('exit', (code) => code && reject(new Error('exit code ' + code)))));
      console.log([await compute(), ...await Promise.all(answers)].join(','));
    } else process.send(await compute(), () => process.disconnect());`,
  'user.test.mjs': `
    import { expect, it } from 'vitest';
    import { compute } from './compute.mjs';
    it('computes', async () => expect(await compute()).toBe('${expected}'));`,
  'other.test.mjs': `
    import { expect, it } from 'vitest';
    import { Tensor, ShapeError } from 'sas-attention';
    it('throws', () => expect(() => Tensor.from([1], [2])).toThrow(ShapeError));`,
};

beforeAll(() => {
  const { status, stderr } = workshop.install(project, workshop.tarball());
  expect(status, stderr).toBe(0);
  writeFileSync(join(project, 'compute.mjs'), compute);
  for (const [name, program] of Object.entries(programs)) writeFileSync(join(project, name), program);
  symlinkSync(join(root, 'node_modules/vitest'), join(project, 'node_modules/vitest'));
});
afterAll(() => workshop.remove());

/** Undefined: the Node that runs this test. */
function nodeBinary(major: number | undefined): string {
  if (major === undefined) return process.execPath;
  const folder = workshop.project(`node-${major}`);
  const name = `node-${process.platform}-${process.arch}`;
  const fetched = workshop.npm(['install', '--no-audit', '--no-fund', '--ignore-scripts', `${name}@${major}`], folder);
  expect(fetched.status, fetched.stderr).toBe(0);
  return join(folder, 'node_modules', name, 'bin/node');
}

describe.each([undefined, 22, 24])('on Node %s (undefined: this one)', (major) => {
  let node = '';
  const run = (args: readonly string[]) => workshop.must(node, args, project).trim();
  beforeAll(() => {
    node = nodeBinary(major);
  });

  it('runs in the main thread, by import and by require', () => {
    const output = run(['main.mjs']);
    console.log(output);
    expect(output).toMatch(new RegExp(`^${major ?? process.versions.node}\\S* ${expected}$`));
    expect(run(['require.cjs'])).toBe('function');
  });

  it('runs in four worker threads and the main thread at once', () => {
    expect(run(['workers.mjs'])).toBe(Array(5).fill(expected).join(','));
  });

  it('runs in a forked cluster', () => {
    expect(run(['cluster.mjs'])).toBe(Array(3).fill(expected).join(','));
  });

  it.each(['forks', 'threads'])("runs in a vitest of the user's, in its %s", (pool) => {
    const vitest = join(root, 'node_modules/vitest/vitest.mjs');
    const { status, stdout, stderr } = workshop.run(node, [vitest, 'run', '--pool', pool], project, { NO_COLOR: '1' });
    expect(status, stdout + stderr).toBe(0);
    expect(stdout).toMatch(/Tests +2 passed/);
  });
});
