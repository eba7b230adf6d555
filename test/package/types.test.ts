// The package's manifest and type declarations as the linters for packages see them.
import { readFileSync } from 'node:fs';
import { checkPackage, createPackageFromTarballData, type Problem } from '@arethetypeswrong/core';
import { publint } from 'publint';
import { formatMessage } from 'publint/utils';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { installedIn, Workshop } from './project.js';

const workshop = new Workshop();
const folder = installedIn(workshop.project('user'));
let tarball: Buffer;

beforeAll(() => {
  const file = workshop.tarball();
  tarball = readFileSync(file);
  workshop.unpack(file, folder);
});
afterAll(() => workshop.remove());

/**
 * What no package of modules only can please. `require` of it works on every Node it supports (20.19 and newer), and with
 * TypeScript 5.8 and newer under `module: nodenext`; `node16` describes older Nodes. `node10` knows no `exports`.
 */
const unavoidable = (problem: Problem) =>
  (problem.kind === 'CJSResolvesToESM' && problem.resolutionKind === 'node16-cjs') ||
  (problem.kind === 'NoResolution' && problem.resolutionKind === 'node10' && problem.entrypoint !== '.');

describe('the linters for packages', () => {
  it('publint has no message', async () => {
    const manifest = JSON.parse(readFileSync(`${folder}/package.json`, 'utf8')) as Record<string, unknown>;
    const { messages } = await publint({ pkgDir: folder, strict: true, pack: false });
    expect(messages.map((message) => formatMessage(message, manifest))).toEqual([]);
  });

  it('attw finds declarations for every way of importing', async () => {
    const result = await checkPackage(createPackageFromTarballData(new Uint8Array(tarball)));
    expect(result.types).toEqual({ kind: 'included' });
    expect(result.types && result.problems.filter((problem) => !unavoidable(problem))).toEqual([]);
  });
});
