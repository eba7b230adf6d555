// The addon for 64-bit Arm Linux, cross-compiled: what it needs, what it exports, and how its kernels were compiled.
import { execFileSync } from 'node:child_process';
import { statSync } from 'node:fs';
import { join } from 'node:path';
import { beforeAll, describe, expect, it } from 'vitest';
import { addon, buildAddon, missing, objects } from './qemu.js';

const reason = missing();

const run = (command: string, args: readonly string[]) =>
  execFileSync(`aarch64-linux-gnu-${command}`, args, { encoding: 'utf8', maxBuffer: 1 << 28 });

/** The highest version of `name` that the addon asks for, such as 2.34. */
function newest(symbols: string, name: string): string {
  const versions = [...symbols.matchAll(new RegExp(`@${name}_([\\d.]+)`, 'g'))].map((match) => match[1]);
  return versions.sort((a, b) => a.localeCompare(b, 'en', { numeric: true })).at(-1) ?? 'none';
}

describe.skipIf(reason)(`the addon for linux-arm64${reason ? `: ${reason}` : ''}`, () => {
  beforeAll(buildAddon, 1_200_000);

  it('is for 64-bit Arm, exports only what Node looks for and needs only the system libraries', () => {
    expect(run('readelf', ['-h', addon])).toMatch(/Machine:\s+AArch64/);
    const exported = run('nm', ['-D', '--defined-only', addon]).match(/\S+$/gm) ?? [];
    expect(exported.sort()).toEqual(['napi_register_module_v1', 'node_api_module_get_api_version_v1']);
    const needed = [...run('readelf', ['-d', addon]).matchAll(/NEEDED.*\[(.*)\]/g)].map((match) => match[1]);
    expect(needed).toContain('libc.so.6');
    for (const library of needed)
      expect(library).toMatch(/^(libc|libm|libgcc_s|libstdc\+\+|ld-linux-aarch64)\.so\.\d$/);
  });

  it('runs with glibc 2.34 and the libstdc++ of GCC 12', () => {
    const symbols = run('nm', ['-D', '--undefined-only', addon]);
    const [glibc, libstdcxx] = [newest(symbols, 'GLIBC'), newest(symbols, 'GLIBCXX')];
    console.log(`linux-arm64: ${statSync(addon).size} bytes, glibc ${glibc}, GLIBCXX ${libstdcxx}`);
    expect([glibc, libstdcxx]).toEqual(['2.34', '3.4.30']);
  });

  it('keeps the sums of a register tile in registers, and multiplies by one element of a vector', () => {
    const code = run('objdump', [
      '-d',
      '--no-show-raw-insn',
      join(objects, 'sas_kernels_neon.dir/native/cpu/tile.cc.o'),
    ]);
    // The inner loops of the widest tile, one per layout of A and B, and of the weight gradient: 24 sums each.
    const functions = code.split(/^[\da-f]+ <.*>:$/m).map((body) => body.split('\n'));
    const loops = functions
      .flatMap(innerLoops)
      .filter((loop) => loop.filter((line) => line.includes('fmla')).length === 24);
    expect(loops.length).toBeGreaterThanOrEqual(3);
    for (const loop of loops) expect(loop.filter((line) => /\bq\d+, .*\[sp/.test(line))).toEqual([]);
    const byElement = loops.filter((loop) => loop.some((line) => /fmla.*\.s\[0\]/.test(line)));
    expect(byElement.length).toBeGreaterThanOrEqual(2);
  });
});

/** Of one function (addresses begin anew in each): from the target of a branch back to it, without another between. */
function innerLoops(lines: readonly string[]): string[][] {
  const places = new Map(lines.map((line, i) => [/^\s*([\da-f]+):/.exec(line)?.[1], i]));
  return lines.flatMap((line, end) => {
    const target = /\bb\.\w+\s+([\da-f]+) /.exec(line)?.[1];
    const start = target === undefined ? undefined : places.get(target);
    if (start === undefined || start > end) return [];
    const loop = lines.slice(start, end);
    return loop.some((inner) => /\b(b\.\w+|b|bl|cbn?z|tbn?z|ret)\s/.test(inner)) ? [] : [loop];
  });
}
