/**
 * `npm run test:rehearsal`: the GPU bundle in mode `full` on the emulated device, with every tool and with every mishap, in one to
 * three minutes. Prints the summary of each run; exit code 1 where one did not end as it should.
 */
import { spawnSync } from 'node:child_process';
import { existsSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { kill, processesOf, Rehearsal, STAND_INS, until } from './rehearsal.js';

interface Scene {
  readonly title: string;
  readonly tools: Readonly<Record<string, string>>;
  /** Of the tests and benchmarks; 'gelu' unless given. */
  readonly text?: string;
  readonly bundle?: string;
  meanwhile?(out: string): Promise<void>;
  readonly status: number | null;
  /** Lines that the summary has, each from its beginning, among others. */
  readonly summary: readonly string[];
}

const rehearsal = new Rehearsal();
const program = (name: string) => join(rehearsal.bundle, `js/run/${name}.mjs`);
const tools = { 'compute-sanitizer': STAND_INS.sanitizer, ncu: STAND_INS.ncu, python3: STAND_INS.torch };
const has = (file: string, condition: (content: never) => boolean) =>
  existsSync(file) && condition(JSON.parse(readFileSync(file, 'utf8')) as never);
const hasSome = (out: string, state: 'passed' | 'failed') => () =>
  has(join(out, 'parity.json'), ({ counts }: { counts: Record<typeof state, number> }) => counts[state] > 0);

const scenes: readonly Scene[] = [
  {
    title: 'everything is there',
    tools,
    status: 0,
    summary: [
      'checks: every check ran to its end and passed',
      'rivals: PyTorch 2.0 (a stand-in)',
      'rivals: not measured: SasAttention PyTorch compiled, flash bf16 T=512 (no time)',
      'gelu forward   PyTorch',
      'MapKernel<float>',
    ],
  },
  {
    title: 'no tools, no PyTorch, no nvidia-smi',
    tools: { python3: STAND_INS.bareTorch },
    status: 0,
    summary: ["rivals: not measured (PyTorch cannot be imported: No module named 'torch')", 'gelu forward'],
  },
  {
    title: 'the sanitizer hangs and finds something, ncu may not count, PyTorch is killed',
    tools: {
      'compute-sanitizer': STAND_INS.fickleSanitizer,
      ncu: STAND_INS.forbiddenNcu,
      python3: STAND_INS.killedTorch,
    },
    status: 1,
    summary: [
      'checks: A CHECK FAILED',
      '  sanitizer memcheck, expand               8 s  out of time',
      'rivals: not measured (a check failed)',
    ],
  },
  {
    title: 'ncu may not count, PyTorch is killed, a worker of the benchmark is killed',
    tools: { ...tools, ncu: STAND_INS.forbiddenNcu, python3: STAND_INS.killedTorch },
    async meanwhile(out) {
      await until(() => has(join(out, 'bench.json'), ({ bounds }: { bounds?: object }) => bounds !== undefined));
      await until(() => processesOf(program('bench_worker'), '"training ops"').length > 0);
      kill(program('bench_worker'), '"training ops"');
    },
    status: 0,
    summary: [
      'bench: not measured: gelu ',
      'rivals: not measured (killed)',
      'profile: not measured (failed)',
      'checks: every check ran to its end and passed',
    ],
  },
  {
    title: 'an op is broken',
    tools,
    bundle: rehearsal.broken('["none", "tanh"]) === "tanh"', '["none", "tanh"]) !== "tanh"'),
    status: 1,
    summary: ['checks: A CHECK FAILED', 'FAIL ops', 'bench: not measured (a check failed)'],
  },
  {
    title: 'a worker of the parity tests is killed, then all of them',
    tools,
    text: 'attention',
    async meanwhile(out) {
      await until(hasSome(out, 'passed'));
      kill(program('parity_worker'), '"tests"');
      await until(hasSome(out, 'failed'));
      kill(program('parity'));
    },
    status: 1,
    summary: ['checks: A CHECK FAILED', 'FAIL '],
  },
  {
    title: 'all of the parity tests are killed',
    tools,
    text: 'attention',
    async meanwhile(out) {
      await until(hasSome(out, 'passed'));
      kill(program('parity'));
      await until(() => has(join(out, 'bench.json'), ({ rows }: { rows: object[] }) => rows.length > 0));
      kill(program('gpu_bench'));
    },
    status: 4,
    summary: ['checks: no check failed, but NOT EVERY CHECK RAN TO ITS END', 'attention forward'],
  },
];

let faults = 0;
const tell = (title: string, faultsHere: readonly string[], text: string) => {
  faults += faultsHere.length;
  console.log(
    `\n######## ${title}: ${faultsHere.length === 0 ? 'as it should' : `NOT AS IT SHOULD: ${faultsHere.join('; ')}`}\n\n${text}`,
  );
};
for (const { title, tools, text = 'gelu', status, summary, ...options } of scenes) {
  rehearsal.equip(tools);
  const begun = Date.now();
  const outcome = await rehearsal.run('full', text, options);
  const seconds = ((Date.now() - begun) / 1000).toFixed(0);
  const lines = outcome.summary.split('\n');
  tell(
    `${title} (${seconds} s, exit code ${outcome.status}, ${outcome.files.join(' ')})`,
    [
      ...(outcome.status === status ? [] : [`the exit code is not ${status}`]),
      ...(outcome.files.length <= 8 ? [] : ['more than 8 files']),
      ...outcome.files.filter((name) => name.endsWith('.part')),
      ...summary.filter((line) => !lines.some((one) => one.startsWith(line))).map((line) => `no line '${line}'`),
    ],
    outcome.summary,
  );
}
{
  // Whoever loses the connection to a rented machine has what was written so far, and makes the summary of it.
  rehearsal.equip(tools);
  const { files } = await rehearsal.run('full', 'attention', {
    async meanwhile(out) {
      await until(hasSome(out, 'passed'));
      rehearsal.killRun();
      kill(program('parity'));
    },
  });
  const out = join(rehearsal.folder, 'out');
  const { status, stdout } = spawnSync(process.execPath, [program('summary'), out], { encoding: 'utf8' });
  tell(
    `run.sh itself is killed, the summary made afterwards (${files.join(' ')})`,
    [
      ...(status === 4 ? [] : [`the exit code is ${status}`]),
      ...(/parity +interrupted$/m.test(stdout) ? [] : ['parity is not interrupted']),
    ],
    stdout,
  );
}
rehearsal.remove();
process.exitCode = faults > 0 ? 1 : 0;
