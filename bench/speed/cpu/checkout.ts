/** A checkout of this project as what is measured: its own source of lib/ over its own addon. */
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { join, resolve } from 'node:path';
import { pathToFileURL } from 'node:url';
import { UsageError } from '../../../lib/failure.js';
import type { ops } from '../../../lib/index.js';
import type { Subject } from '../../../lib/measure/subject.js';

const SOURCE = 'lib/index.ts';
const ADDON = 'build/Release/sas_attention.node';

export interface Checkout {
  readonly folder: string;
  readonly addon: string;
}

/** The checkout in that folder, if it is one and built; throws UsageError. */
export function builtCheckout(path: string): Checkout {
  const folder = resolve(path);
  const addon = join(folder, ADDON);
  if (!existsSync(join(folder, SOURCE))) {
    throw new UsageError(`--against: '${path}' has no ${SOURCE}, expected a checkout of this project`);
  }
  if (!existsSync(addon)) {
    throw new UsageError(`--against: '${path}' is not built: it has no ${ADDON} (npm run build:addon there makes it)`);
  }
  return { folder, addon };
}

/** Its commit, if git knows one; '+': and changes. */
export function revisionOf({ folder }: Checkout): string {
  const git = (...args: string[]) => spawnSync('git', ['-C', folder, ...args], { encoding: 'utf8' });
  const { status, stdout } = git('rev-parse', '--short', 'HEAD');
  if (status !== 0) return 'unknown';
  const changed = git('status', '--porcelain', '--untracked-files=no', '--', 'lib', 'native', 'CMakeLists.txt');
  return `${stdout.trim()}${changed.stdout.trim() === '' ? '' : '+'}`;
}

const OPS: readonly (keyof typeof ops)[] = [
  'adamW',
  'add',
  'aggregate',
  'aggregateBackward',
  'attention',
  'attentionBackward',
  'clipGradNorm',
  'crossEntropy',
  'crossEntropyBackward',
  'expand',
  'expandBackward',
  'gelu',
  'geluBackward',
  'layerNorm',
  'layerNormBackward',
  'linear',
  'linearBackward',
  'naive',
];

type Names = Readonly<Record<string, unknown>>;

/** What cases need of a checkout; throws UsageError where its API has another shape. Loads its addon: SAS_BINDING names it. */
export async function loadSubject(folder: string): Promise<Subject> {
  const required = async (file: string, ...names: string[]): Promise<Names> => {
    const missing = (what: string) => new UsageError(`--against: '${folder}' has another API: ${what}`);
    if (!existsSync(join(folder, file))) throw missing(`there is no ${file}`);
    const module = (await import(pathToFileURL(join(folder, file)).href)) as Names;
    const absent = names.find((name) => module[name] === undefined);
    if (absent !== undefined) throw missing(`${file} exports no ${absent}`);
    const op = OPS.find((name) => names.includes('ops') && (module.ops as Names)[name] === undefined);
    if (op !== undefined) throw missing(`${file} has no ops.${op}`);
    return module;
  };
  const library = await required(SOURCE, 'ops', 'SasAttention', 'scope', 'Tensor', 'getDevice');
  const { startRun, disposeRun } = await required('lib/gpt/run.ts', 'startRun', 'disposeRun');
  const { enqueueStep } = await required('lib/gpt/loop.ts', 'enqueueStep');
  const device = (library.getDevice as () => Subject['device'])();
  return { ...library, startRun, disposeRun, enqueueStep, device } as unknown as Subject;
}
