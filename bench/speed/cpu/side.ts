/** One side of a comparison: a process that has one checkout loaded and works only while it is asked. */
import { type ChildProcess, fork } from 'node:child_process';
import { extname } from 'node:path';
import { fileURLToPath } from 'node:url';
import { Failure, UsageError } from '../../../lib/failure.js';
import type { DeviceInfo } from '../../../lib/index.js';
import type { CaseFacts } from '../../../lib/measure/cases.js';
import type { Selection } from '../../../lib/measure/suite.js';
import type { TimingOptions, Turn } from '../../../lib/measure/timing.js';
import type { Checkout } from './checkout.js';

export interface SideInfo {
  readonly device: DeviceInfo;
  readonly streamGigabytesPerSecond: number;
}

/** A case that is ready to be timed there. */
export interface ReadyCase extends CaseFacts {
  /** Why a contestant cannot run there, by its place; null: it can. */
  readonly missing: readonly (string | null)[];
}

export interface Side {
  open(): Promise<SideInfo>;
  /** Checks the next case's results and warms its contestants up; null: there is none. */
  next(): Promise<ReadyCase | null>;
  /** One sample of a contestant of that case. */
  turn(contestant: number): Promise<Turn>;
}

export interface SideSettings {
  readonly folder: string;
  readonly selection: Selection;
  readonly timing: TimingOptions;
}

export type Request = 'open' | 'next' | { readonly turn: number };
export type Answer = { readonly value: unknown } | { readonly error: string; readonly usage: boolean };

export class SideProcess implements Side {
  private readonly child: ChildProcess;

  /** `name` stands before what goes wrong there. */
  constructor(
    private readonly name: string,
    { folder, addon }: Checkout,
    settings: Omit<SideSettings, 'folder'>,
    isa: string | undefined,
  ) {
    const worker = new URL(`./side_worker${extname(import.meta.url)}`, import.meta.url);
    const env = { ...process.env, SAS_BINDING: addon, ...(isa !== undefined && { SAS_ISA: isa }) };
    const own: SideSettings = { ...settings, folder };
    this.child = fork(fileURLToPath(worker), [JSON.stringify(own)], { env });
  }

  open(): Promise<SideInfo> {
    return this.ask('open') as Promise<SideInfo>;
  }

  next(): Promise<ReadyCase | null> {
    return this.ask('next') as Promise<ReadyCase | null>;
  }

  turn(contestant: number): Promise<Turn> {
    return this.ask({ turn: contestant }) as Promise<Turn>;
  }

  close(): void {
    this.child.kill();
  }

  private ask(request: Request): Promise<unknown> {
    const { child, name } = this;
    return new Promise((resolve, reject) => {
      const end = () => {
        child.off('message', onMessage).off('error', onError).off('exit', onExit);
      };
      const onMessage = (answer: Answer) => {
        end();
        if ('value' in answer) resolve(answer.value);
        else reject(answer.usage ? new UsageError(answer.error) : new Failure(`${name}: ${answer.error}`));
      };
      const onError = (error: Error) => {
        end();
        reject(error);
      };
      const onExit = (code: number | null, signal: string | null) =>
        onError(new Failure(`${name}: its process ended (${signal ?? `code ${code}`})`));
      child.on('message', onMessage).on('error', onError).on('exit', onExit);
      if (child.exitCode !== null || child.signalCode !== null) onExit(child.exitCode, child.signalCode);
      else child.send(request);
    });
  }
}
