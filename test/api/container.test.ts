/** What control groups allow is what the CPU device has. The files that say so are made here: no container is needed. */
import { execFileSync } from 'node:child_process';
import { mkdirSync, mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { availableParallelism, tmpdir, totalmem } from 'node:os';
import { dirname, join } from 'node:path';
import { afterEach, describe, expect, test } from 'vitest';
import { binding } from '../../lib/binding.js';
import { root as repository } from '../helpers/native_build.js';

const MIB = 2 ** 20;
type Files = Readonly<Record<string, string | number>>;

const roots: string[] = [];
afterEach(() => {
  for (const root of roots.splice(0)) rmSync(root, { recursive: true });
});

/** A folder with these files of /proc and /sys/fs/cgroup. */
function rootOf(groups: string, files: Files): string {
  const root = mkdtempSync(join(tmpdir(), 'sas-root-'));
  roots.push(root);
  const all = {
    'proc/self/cgroup': groups,
    ...Object.fromEntries(Object.entries(files).map(([k, v]) => [`sys/fs/cgroup/${k}`, v])),
  };
  for (const [path, content] of Object.entries(all)) {
    mkdirSync(dirname(join(root, path)), { recursive: true });
    writeFileSync(join(root, path), `${content}\n`);
  }
  return root;
}

const cpu = (groups: string, files: Files) =>
  binding.listDevices({ systemRoot: rootOf(groups, files) }).find(({ id }) => id === 'cpu');

const all = availableParallelism();
const none = { memoryBytes: totalmem(), threads: all };

describe('memory', () => {
  test.each<[what: string, groups: string, files: Files, bytes: number]>([
    ['no groups', '', {}, totalmem()],
    ['version 2', '0::/', { 'memory.max': 800 * MIB }, 800 * MIB],
    ['version 2, no limit', '0::/', { 'memory.max': 'max' }, totalmem()],
    ['version 2, more than the machine has', '0::/', { 'memory.max': 2 ** 50 }, totalmem()],
    ['version 2, a group', '0::/a', { 'a/memory.max': 700 * MIB }, 700 * MIB],
    [
      'version 2, nested: the outer one has less',
      '0::/a/b/c',
      { 'a/memory.max': 300 * MIB, 'a/b/memory.max': 'max', 'a/b/c/memory.max': 400 * MIB },
      300 * MIB,
    ],
    [
      'version 2, nested: the inner one has less',
      '0::/a/b',
      { 'a/memory.max': 300 * MIB, 'a/b/memory.max': 200 * MIB, 'other/memory.max': MIB },
      200 * MIB,
    ],
    ['version 2, seen as the root under another path', '0::/docker/id', { 'memory.max': 600 * MIB }, 600 * MIB],
    ['version 2, outside of what can be seen', '0::/../other', { 'memory.max': 600 * MIB }, 600 * MIB],
    ['version 1', '4:memory:/', { 'memory/memory.limit_in_bytes': 800 * MIB }, 800 * MIB],
    ['version 1, no limit', '4:memory:/', { 'memory/memory.limit_in_bytes': '9223372036854771712' }, totalmem()],
    [
      'version 1, nested, beside others',
      '12:cpuset:/a\n11:hugetlb,memory:/a/b\n0::/',
      { 'memory/a/b/memory.limit_in_bytes': '9223372036854771712', 'memory/a/memory.limit_in_bytes': 500 * MIB },
      500 * MIB,
    ],
    [
      'both versions: memory is of the first',
      '4:memory:/a\n0::/a',
      { 'memory/a/memory.limit_in_bytes': 500 * MIB, 'unified/a/cgroup.procs': 1 },
      500 * MIB,
    ],
    ['both versions: memory is of the second', '1:cpu:/\n0::/a', { 'unified/a/memory.max': 400 * MIB }, 400 * MIB],
    ['not a number', '0::/', { 'memory.max': 'plenty' }, totalmem()],
  ])('%s', (_, groups, files, bytes) => {
    expect(cpu(groups, files)).toMatchObject({ ...none, memoryBytes: bytes });
  });
});

describe('processors', () => {
  test.each<[what: string, groups: string, files: Files, threads: number]>([
    ['version 2', '0::/', { 'cpu.max': '100000 100000' }, 1],
    ['version 2, none', '0::/', { 'cpu.max': 'max 100000' }, all],
    ['version 2, half of one', '0::/', { 'cpu.max': '50000 100000' }, 1],
    ['version 2, a tenth of one', '0::/', { 'cpu.max': '10000 100000' }, 1],
    ['version 2, 1.5', '0::/', { 'cpu.max': '150000 100000' }, Math.min(2, all)],
    ['version 2, 1.4', '0::/', { 'cpu.max': '140000 100000' }, 1],
    ['version 2, more than there are', '0::/', { 'cpu.max': '100000000 100000' }, all],
    ['version 2, another period', '0::/', { 'cpu.max': '25000 25000' }, 1],
    ['version 2, nested', '0::/a/b', { 'a/cpu.max': '100000 100000', 'a/b/cpu.max': 'max 100000' }, 1],
    [
      'version 1',
      '3:cpu,cpuacct:/a',
      { 'cpu,cpuacct/a/cpu.cfs_quota_us': 100000, 'cpu,cpuacct/a/cpu.cfs_period_us': 100000 },
      1,
    ],
    ['version 1, by its own name', '1:cpu:/', { 'cpu/cpu.cfs_quota_us': 40000, 'cpu/cpu.cfs_period_us': 50000 }, 1],
    ['version 1, none', '1:cpu:/', { 'cpu/cpu.cfs_quota_us': -1, 'cpu/cpu.cfs_period_us': 100000 }, all],
  ])('%s', (_, groups, files, threads) => {
    expect(cpu(groups, files)).toMatchObject({ ...none, threads });
  });

  test('what is asked for counts more', () => {
    const systemRoot = rootOf('0::/', { 'cpu.max': '100000 100000' });
    expect(binding.listDevices({ systemRoot, threads: 7 }).find(({ id }) => id === 'cpu')).toMatchObject({
      threads: 7,
    });
  });

  test('those that the process may not run on do not count', () => {
    const program = `import('./lib/index.js').then(({ getDevice }) => console.log(getDevice('cpu').info.threads))`;
    const printed = execFileSync('taskset', ['-c', '0', process.execPath, '--import', 'tsx', '-e', program], {
      cwd: repository,
      encoding: 'utf8',
      env: { ...process.env, SAS_THREADS: '' },
    });
    expect(printed.trim()).toBe('1');
  });
});

/** What a program prints that has the library, and the limits of `root`. */
function run(root: string, body: string): string {
  const program = `import('./lib/index.js').then(async ({ getDevice, ops, scope, Tensor }) => {
    const { writeFileSync } = await import('node:fs');
    const [device, MIB, root] = [getDevice('cpu'), 2 ** 20, process.env.SAS_SYSTEM_ROOT];
    const use = (mib) => writeFileSync(root + '/sys/fs/cgroup/memory.current', String(mib * MIB));
    const make = (mib) => Tensor.zeros([mib * MIB / 4], { device });
    ${body}
  }).catch((error) => console.log(error.name + ': ' + error.message));`;
  return execFileSync(process.execPath, ['--import', 'tsx', '-e', program], {
    cwd: repository,
    encoding: 'utf8',
    env: { ...process.env, SAS_SYSTEM_ROOT: root, SAS_MEMORY_LIMIT: '', SAS_DEVICE: 'cpu' },
  }).trim();
}

describe('in a container of 800 MB', () => {
  const container = (used: number, inactive = 0) =>
    rootOf('0::/', {
      'memory.max': 800 * MIB,
      'memory.current': used * MIB,
      'memory.stat': `anon 5\ninactive_file ${inactive * MIB}\nactive_file 7`,
    });

  test('what the others leave may be taken', () => {
    expect(run(container(200), `const a = make(500); console.log((await a.data()).length);`)).toBe(
      String(500 * 2 ** 18),
    );
  });

  test('an allocation that cannot be met is an OutOfMemoryError', () => {
    expect(run(container(200), 'make(600);')).toMatch(
      /^OutOfMemoryError: Tensor\.zeros: out of memory on cpu: 629145600 bytes requested, 0 in use, limit 838860800; the container's limit of 838860800 leaves 629145600$/,
    );
    expect(run(container(0), 'make(900);')).toMatch(/^OutOfMemoryError: .* 0 in use, limit 838860800$/);
  });

  test('a little is left to the rest of the process', () => {
    expect(run(container(200), 'make(590);')).toMatch(/^OutOfMemoryError: /);
  });

  test('what the kernel can take back from files is free', () => {
    expect(run(container(700), 'make(300);')).toMatch(/^OutOfMemoryError: /);
    expect(run(container(700, 400), `make(300); console.log('made');`)).toBe('made');
  });

  test('it can be met again once there is room', () => {
    expect(
      run(
        container(700),
        `try { make(300); } catch (error) { console.log(error.code); }
         use(100);
         console.log((await make(300).data()).length);`,
      ),
    ).toBe(`SAS_OUT_OF_MEMORY\n${300 * 2 ** 18}`);
  });

  test('memory that the pool keeps goes back first', () => {
    expect(
      run(
        container(100),
        `const kept = make(300);
         await kept.data();
         kept.dispose();
         await device.synchronize();
         console.log(device.memory().reserved >= 300 * MIB);
         use(600);
         try { make(390); } catch { console.log(device.memory().reserved < 300 * MIB); }`,
      ),
    ).toBe('true\ntrue');
  });

  test('many small ones count too', () => {
    expect(
      run(
        container(700),
        `const kept = [];
         for (let i = 0; i < 20; i++) kept.push(make(1));
         use(790);
         for (let i = 0; i < 20; i++) kept.push(make(1));`,
      ),
    ).toMatch(/^OutOfMemoryError: /);
  });

  test('scratch memory too: the op fails, the next wait says so, and the device goes on', () => {
    expect(
      run(
        container(200),
        `const x = Tensor.zeros([1, 8192, 1, 8], { device });
         await x.data();
         use(700);
         const { output } = ops.naive.attention(x, x, x); // 256 MiB of intermediates
         await output.data().catch((error) => console.log(error.name, error.message));
         console.log((await ops.gelu(x).data()).length);`,
      ),
    ).toMatch(/^OutOfMemoryError attention: out of memory.*\n65536$/s);
  });
});

test('memory that was promised and that nobody has touched yet counts as taken', () => {
  const root = rootOf('0::/', {
    'memory.max': 800 * MIB,
    'memory.current': 100 * MIB,
    'memory.stat': 'inactive_file 0',
  });
  const program = `import('./lib/binding.js').then(({ binding }) => {
    const device = binding.openDevice('cpu', { systemRoot: process.env.SAS_SYSTEM_ROOT });
    const make = (mib) => binding.allocate(device, [0], [[mib * 2 ** 18]]);
    const kept = make(400); // nothing is written there
    try { make(350); } catch (error) { console.log(error.message); }
    console.log(make(250).length);
  });`;
  const printed = execFileSync(process.execPath, ['--import', 'tsx', '-e', program], {
    cwd: repository,
    encoding: 'utf8',
    env: { ...process.env, SAS_SYSTEM_ROOT: root },
  });
  expect(printed).toMatch(/leaves 734003200\n1\n$/);
});
