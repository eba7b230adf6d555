#!/usr/bin/env node
/** `npx sas-attention`: finds the command and runs it. Commands are loaded when they are called. */
import { readFileSync } from 'node:fs';
import { UsageError } from '../failure.js';
import { suggestion } from './arguments.js';
import { runProgram } from './run_program.js';
import { exitOnBrokenPipe } from './terminal.js';

interface Command {
  readonly summary: string;
  run(args: readonly string[]): Promise<void>;
}

const COMMANDS: Readonly<Record<string, Command>> = {
  doctor: {
    summary: 'what is installed, which devices there are, and whether they compute right',
    run: async (args) => (await import('./doctor/command.js')).doctorCommand(args),
  },
  bench: {
    summary: 'how fast the fused ops are here, beside the unfused ones and plain attention',
    run: async (args) => (await import('./bench/command.js')).benchCommand(args),
  },
  train: {
    summary: 'train a small GPT on your text, with multi-head attention and with SAS',
    run: async (args) => (await import('./train/command.js')).trainCommand(args, { call: 'npx sas-attention train' }),
  },
};

const names = Object.keys(COMMANDS);
const HELP = `Usage: npx sas-attention COMMAND [options]

${names.map((name) => `  ${name.padEnd(9)}${COMMANDS[name]?.summary}\n`).join('')}
npx sas-attention COMMAND --help lists the options of a command, --version prints the version of the package.
`;

function version(): string {
  const file = new URL('../../package.json', import.meta.url);
  return (JSON.parse(readFileSync(file, 'utf8')) as { version: string }).version;
}

function print(text: string): void {
  exitOnBrokenPipe();
  process.stdout.write(text);
}

function commandOf(name: string): Command {
  const command = Object.hasOwn(COMMANDS, name) ? COMMANDS[name] : undefined;
  if (command) return command;
  const kind = name.startsWith('-') ? 'option' : 'command';
  const known = name.startsWith('-') ? ['--help', '--version'] : [...names, 'help'];
  throw new UsageError(`Unknown ${kind} '${name}'${suggestion(name, known)}; --help lists the commands`);
}

const [first, ...rest] = process.argv.slice(2);
if (first === undefined) {
  process.stderr.write(HELP);
  process.exitCode = 2;
} else if (first === '--help' || first === '-h' || (first === 'help' && rest.length === 0)) {
  print(HELP);
} else if (first === '--version' || first === '-v') {
  print(`${version()}\n`);
} else {
  // `help train` is `train --help`.
  const [name = '', ...args] = first === 'help' ? [...rest.slice(0, 1), '--help'] : [first, ...rest];
  await runProgram(Object.hasOwn(COMMANDS, name) ? `sas-attention ${name}` : 'sas-attention', () =>
    commandOf(name).run(args),
  );
}
