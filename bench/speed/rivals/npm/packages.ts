/**
 * The npm packages among the rivals: a project of its own, so that npm ci in the repository neither downloads their 0.6 GB nor
 * runs their install scripts. This file lies in it to resolve them there.
 */
import { existsSync, readFileSync } from 'node:fs';

export const INSTALL = 'npm ci --prefix bench/speed/rivals/npm';

const folderOf = (name: string) => new URL(`node_modules/${name}/`, import.meta.url);

/** The module, typed by the few members that are used: these packages need not be there when types are checked. */
export async function load<Module>(name: string): Promise<Module> {
  if (!existsSync(folderOf(name))) throw new Error(`${name} is not installed (${INSTALL})`);
  return (await import(name)) as Module;
}

export function versionOf(name: string): string {
  const { version } = JSON.parse(readFileSync(new URL('package.json', folderOf(name)), 'utf8')) as { version: string };
  return `${name} ${version}`;
}
