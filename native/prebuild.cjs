// Builds prebuilds/PLATFORM-ARCH/sas-attention.glibc.node: prebuildify drives cmake-js, in build/prebuild, which leaves the
// checkout's own build alone. Arguments go to prebuildify.
//   SAS_CUDA=off                the CPU-only variant; needs no nvcc
//   SAS_CUDA_ARCHITECTURES=...  other GPUs than those below
const { spawnSync } = require('node:child_process');
const { mkdirSync } = require('node:fs');
const os = require('node:os');
const path = require('node:path');

// Code of their own for the GPUs in use, and PTX of 8.0 for all that come after.
const architectures = ['80', '86-real', '89-real', '90a-real', '100-real', '120-real'];

const root = path.join(__dirname, '..');
const work = path.join(root, 'build', 'prebuild');
mkdirSync(work, { recursive: true });

const options = ['--cwd', work, '--out', root, '--name', 'sas-attention', '--napi', '--strip', '--tag-libc'];
const built = spawnSync(
  process.execPath,
  [require.resolve('prebuildify/bin.js'), ...options, '--node-gyp', 'cmake-js', '--target', 'sas_attention', ...process.argv.slice(2)],
  {
    cwd: root,
    stdio: 'inherit',
    env: {
      ...process.env,
      SAS_CUDA: process.env.SAS_CUDA ?? 'on',
      SAS_CUDA_ARCHITECTURES: process.env.SAS_CUDA_ARCHITECTURES ?? architectures.join(';'),
      CMAKE_BUILD_PARALLEL_LEVEL: process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? String(os.availableParallelism()),
      // cmake-js takes options from here too, and prebuildify passes on none: the project's folder, and where to build,
      // relative to the current one.
      npm_cmake_js_directory: root,
      npm_cmake_js_out: 'build',
    },
  },
);
process.exitCode = built.status ?? 1;
