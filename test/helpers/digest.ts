// Every op once, forward and backward, at sizes that are split between threads; a hash of the bits of all results. Run
//   node --import tsx test/helpers/digest.ts
// it prints the number of threads and the hashes as JSON: two processes with different SAS_THREADS must print the same.
import { pathToFileURL } from 'node:url';
import type { Tensor } from '../../lib/index.js';
import { runModule, sasProblem } from '../modules/sas_attention.js';
import type { Calls } from './op.js';
import { digest, dtypesOf, here, problemOf, run } from './op_run.js';
import { opTable } from './op_table.js';
import { device, emulated, floatTypes, type Results } from './parity.js';

/** Prepares the inputs once; what it returns computes. */
type Prepare = () => () => Results<Tensor>;
type Case = [name: string, prepare: Prepare];

/** The op, and its twin where that is an op too. */
const opCases: Case[] = opTable.flatMap((op) => {
  const implementations: [string, Calls<unknown>][] = [[op.name, op]];
  if (op.naive?.name) implementations.push([op.naive.name, op.naive]);
  return dtypesOf(op).flatMap((dtype) =>
    op.repeated.map(here).flatMap((item) =>
      implementations.map(([name, calls]): Case => {
        const prepare = () => {
          const problem = problemOf(op, item, dtype);
          return () => run(calls, op.inPlace ? problemOf(op, item, dtype) : problem); // in place: always on new operands
        };
        return [`${name} ${dtype}: ${item.label}`, prepare];
      }),
    ),
  );
});

const moduleCases = floatTypes.map((dtype): Case => {
  const sizes = { heads: 3, headDim: 24, simHeads: 6, simHeadDim: 40, kernelSize: 5 };
  const prepare = () => {
    const time = emulated ? 19 : 67;
    const problem = sasProblem({ ...sizes, batch: 2, timeQ: time, timeK: time }, dtype, 3);
    return () => runModule(problem);
  };
  return [`SasAttention ${dtype}`, prepare];
});

/** The different hashes that `runs` runs of every op give, by its name: one hash if the op is repeatable. */
export async function digests(runs: number): Promise<Record<string, string[]>> {
  const hashes: Record<string, string[]> = {};
  for (const [name, prepare] of [...opCases, ...moduleCases]) {
    const compute = prepare();
    const seen = new Set<string>();
    for (let i = 0; i < runs; i++) seen.add(await digest(compute()));
    hashes[name] = [...seen];
  }
  return hashes;
}

if (process.argv[1] !== undefined && import.meta.url === pathToFileURL(process.argv[1]).href) {
  console.log(JSON.stringify({ threads: device.info.threads, hashes: await digests(1) }));
}
