// npm's install script: nothing to do where a binary of the package loads, else builds from source; also where SAS_CUDA=on asks
// for the CUDA backend and the binary has none. `npm_config_build_from_source=true` or the argument `build` always builds. SAS_CUDA
// and the other options of CMakeLists.txt are read from the environment.
const { spawnSync } = require('node:child_process');
const os = require('node:os');
const path = require('node:path');
const { pathToFileURL } = require('node:url');

const root = path.join(__dirname, '..');

/** Why no binary will do; an empty string: one does. In a process of its own, which a broken binary may take down. */
function whyNoBinary() {
  const { SAS_BINDING: _, ...env } = process.env;
  const urlOf = (file) => JSON.stringify(pathToFileURL(path.join(root, 'dist', file)));
  const program = `
    try {
      const { binding } = await import(${urlOf('binding.js')});
      const { NO_CUDA } = await import(${urlOf('addon_file.js')});
      const { SAS_CUDA } = process.env;
      if (SAS_CUDA === 'on' && binding.listDevices().some(({ reason }) => reason === NO_CUDA)) {
        throw new Error('SAS_CUDA=on, and the binary at hand has no CUDA backend');
      }
    } catch (error) {
      console.error(error.message);
      process.exitCode = 1;
    }`;
  const options = ['--input-type=module', '-e', program];
  const { status, signal, stderr } = spawnSync(process.execPath, options, { env, encoding: 'utf8' });
  return status === 0 ? '' : stderr || `loading the binary ended with ${signal ?? `exit code ${status}`}`;
}

/** Returns what failed; an empty string: nothing. */
function build() {
  const folder = path.join(root, 'build');
  const release = `-DCMAKE_LIBRARY_OUTPUT_DIRECTORY=${path.join(folder, 'Release')}`;
  const steps = [
    ['-S', root, '-B', folder, '-DCMAKE_BUILD_TYPE=Release', release],
    ['--build', folder, '--target', 'sas_attention', '--parallel', String(os.availableParallelism())],
  ];
  for (const step of steps) {
    const { status, error } = spawnSync('cmake', step, { cwd: root, stdio: 'inherit' });
    if (error?.code === 'ENOENT') return 'cmake is not on PATH';
    if (error) return error.message;
    if (status !== 0) return `cmake ended with exit code ${status} (see above)`;
  }
  return '';
}

const forced = process.argv[2] === 'build' || process.env.npm_config_build_from_source === 'true';
const reason = forced ? '' : whyNoBinary();
if (forced || reason) {
  const failure = build();
  if (failure) {
    if (reason) console.error(reason.trim());
    console.error(`sas-attention: the build from source failed: ${failure}.`);
    console.error('sas-attention: it needs a C++20 compiler and CMake 3.18 or newer; then install again.');
    process.exitCode = 1;
  }
}
