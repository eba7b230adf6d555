// npm's install script: nothing to do where a prebuilt binary fits, else builds from source with cmake-js.
// `npm_config_build_from_source=true` always builds.
const { spawnSync } = require('node:child_process');
const path = require('node:path');

const root = path.join(__dirname, '..');

function hasBinary() {
  if (process.env.npm_config_build_from_source === 'true') return false;
  try {
    require('node-gyp-build')(root);
    return true;
  } catch {
    return false;
  }
}

if (!hasBinary()) {
  const cmakeJs = path.join(path.dirname(require.resolve('cmake-js/package.json')), 'bin', 'cmake-js');
  const build = spawnSync(process.execPath, [cmakeJs, 'build', '--out', 'build', '--parallel', String(require('node:os').availableParallelism())], { cwd: root, stdio: 'inherit' });
  if (build.status !== 0) {
    console.error('sas-attention: no prebuilt binary fits this machine, and building from source failed (see above).');
    console.error('sas-attention: a source build needs a C++20 compiler and CMake 3.18 or newer.');
    process.exitCode = build.status ?? 1;
  }
}
