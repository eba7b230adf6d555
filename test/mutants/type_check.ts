/** Whether a fault in TypeScript is one that the compiler lets through: another proves nothing about the tests. */
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import ts from 'typescript';
import { type Fault, plant } from './fault.js';

/** Says what the compiler finds in the files of `tree` with a fault, or ''. */
export function typeChecker(tree: string): (fault: Fault) => string {
  const host = ts.sys;
  const config = ts.getParsedCommandLineOfConfigFile(join(tree, 'tsconfig.json'), undefined, {
    ...host,
    onUnRecoverableConfigFileDiagnostic: ({ messageText }) => {
      throw new Error(ts.flattenDiagnosticMessageText(messageText, '\n'));
    },
  });
  if (!config) throw new Error(`${tree}/tsconfig.json cannot be read`);
  const planted = new Map<string, string>();
  let version = 0;
  const service = ts.createLanguageService({
    getCompilationSettings: () => config.options,
    getScriptFileNames: () => config.fileNames,
    getScriptVersion: (file) => (planted.has(file) ? String(version) : '0'),
    getScriptSnapshot: (file) => {
      const text = planted.get(file) ?? host.readFile(file);
      return text === undefined ? undefined : ts.ScriptSnapshot.fromString(text);
    },
    getCurrentDirectory: () => tree,
    getDefaultLibFileName: ts.getDefaultLibFilePath,
    fileExists: host.fileExists,
    readFile: host.readFile,
    readDirectory: host.readDirectory,
    directoryExists: host.directoryExists,
    getDirectories: host.getDirectories,
  });
  return (fault) => {
    const path = join(tree, fault.file);
    planted.clear();
    planted.set(path, plant(fault, readFileSync(path, 'utf8')));
    version++;
    const [first] = [...service.getSyntacticDiagnostics(path), ...service.getSemanticDiagnostics(path)];
    return first ? ts.flattenDiagnosticMessageText(first.messageText, '\n') : '';
  };
}
