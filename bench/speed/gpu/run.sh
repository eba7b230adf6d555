#!/usr/bin/env bash
# Checks and times the CUDA backend on this machine: run.sh OUTDIR [smoke|quick|full]. Needs an NVIDIA driver; no network, Node or
# npm. At most 8 minutes (smoke: 90 seconds, quick: 3 minutes). Every step writes as it goes: one that is killed leaves what it had.
# OUTDIR gets env.txt, loss.json, parity.json, bench.json, rivals.json (where python3 has PyTorch with CUDA), profile.json and
# source.csv.gz (where ncu is), summary.txt and log.txt. Exit code: 0, 1 where a check failed, 2 wrong usage, 3 no usable GPU.
set -euo pipefail

fail() {
  echo "run.sh: $1" >&2
  exit "${2:-2}"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-}
mode=${2:-full}
[ -n "$out" ] || fail 'usage: run.sh OUTDIR [smoke|quick|full]'
# Seconds per step; 0 leaves it out.
case $mode in
  smoke) loss=15 parity=50 sanitizer=20 bench=0 rivals=0 profile=0 quick=(--quick) ;;
  quick) loss=15 parity=45 sanitizer=20 bench=35 rivals=35 profile=15 quick=(--quick) ;;
  full) loss=15 parity=60 sanitizer=50 bench=90 rivals=110 profile=90 quick=() ;;
  *) fail "mode $mode: expected smoke, quick or full" ;;
esac
[ "$(uname -sm)" = 'Linux x86_64' ] || fail "this is $(uname -sm), the bundle is for Linux x86_64"

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
node=$work/node
if [ -f "$here/node.gz" ]; then
  gunzip -c <"$here/node.gz" >"$node" || fail "node.gz cannot be unpacked into $work (see above)"
elif [ -f "$here/node.xz" ] && command -v xz >/dev/null; then
  xz -dc <"$here/node.xz" >"$node"
elif [ -f "$here/node.xz" ]; then
  python3 -c 'import lzma, shutil, sys; shutil.copyfileobj(lzma.open(sys.argv[1]), open(sys.argv[2], "wb"))' \
    "$here/node.xz" "$node" || fail 'node.xz cannot be unpacked: install xz or python3'
else
  node=$(command -v node) || fail 'the bundle was made without Node, and there is no node on PATH'
fi
[ -x "$node" ] || chmod +x "$node"
unset NODE_OPTIONS
"$node" --version >/dev/null 2>"$work/error" ||
  fail "Node does not run from $work (not allowed to execute there? set TMPDIR): $(head -n 1 "$work/error")"

export SAS_BINDING=$here/sas_attention.node
export SAS_DEVICE=${SAS_DEVICE:-cuda:0}
device=$("$node" "$here/js/run/check_device.mjs" 2>"$work/error") || {
  [ -n "$device" ] || device="the addon does not load: $(grep -m 1 -A 1 'cannot be loaded' "$work/error" | tail -n 1 | sed 's/^ *//')"
  fail "$device" 3
}

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/{env.txt,loss.json,parity.json,bench.json,rivals.json,profile.json,source.csv,source.csv.gz,summary.txt,log.txt}
echo "== $device" | tee "$out/log.txt"
{
  date -u
  nproc
  nvidia-smi || true
  nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,ecc.mode.current --format=csv || true
} >"$out/env.txt" 2>&1

# The steps keep to their seconds themselves; `timeout` ends what does not.
step() {
  local name=$1 seconds=$2
  shift 2
  [ "$seconds" -gt 0 ] || return 0
  echo "== $name ($(date +%T))"
  timeout -k 2 "$((seconds + 4))" "$@" 2>&1 | tee -a "$out/log.txt"
}
js() { echo "$here/js/run/$1.mjs"; }

status=0
step loss $loss "$node" "$(js loss_check)" --out "$out/loss.json" --steps 30 || status=1

processes=$(($(nproc) > 4 ? $(nproc) - 2 : 2))
compute_mode=$(nvidia-smi --query-gpu=compute_mode --format=csv,noheader 2>/dev/null | head -n 1) || true
[ "$compute_mode" != Exclusive_Process ] || processes=1
step parity $parity "$node" "$(js parity)" --out "$out/parity.json" --seconds $parity --processes $processes || status=1

# Every kernel once, at a small size; racecheck not for the products of cuBLAS, where it reports NVIDIA's own kernels.
sanitize() {
  local tool=$1 group
  for group in expand attention linear 'linear, built-in' 'training ops'; do
    [ "$tool $group" != 'racecheck linear' ] || continue
    echo "compute-sanitizer $tool: $group"
    timeout 60 compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 3 "$node" "$(js profile)" "$group" bf16 256 512 2>&1 |
      grep -v '^== ' | tail -n 25 || status=1
  done
}
if command -v compute-sanitizer >/dev/null; then
  export -f sanitize js
  export node here status
  step sanitizer $sanitizer bash -c 'set -o pipefail; status=0
    sanitize memcheck; sanitize racecheck; exit $status' || status=1
fi

step benchmark $bench "$node" "$(js gpu_bench)" --out "$out/bench.json" --seconds $bench "${quick[@]}" || status=1

python=${SAS_PYTHON:-python3}
why='there is no python3'
if command -v "$python" >/dev/null; then
  step rivals $rivals "$python" -B "$here/peers/rivals.py" --out "$out/rivals.json" --seconds $((rivals > 20 ? rivals - 10 : 10)) \
    "${quick[@]}" || why=$(tail -n 1 "$out/log.txt")
fi

# How the time of a step is spread over its kernels, and why a kernel takes as long as it does: metrics of each, then where in
# the machine code its warps wait.
if command -v ncu >/dev/null; then
  export node here out work
  step profile $profile bash -c '
    profile() { ncu --clock-control none "$@"; }
    program=$here/js/run/profile.mjs
    kernels="regex:Expand|Attention|GradQuery|GradKey|Gemm|nvjet|cutlass|Round|Map|norm|Norm|Aggregate|Pack|Embedding|CrossEntropy|AdamW|Squares|Reduce|Column|Sum|Scale|Table|Count|Scatter|Keys|Flip|Stretch"
    sections="--section SpeedOfLight --section LaunchStats --section Occupancy --section SchedulerStats --section WarpStateStats
      --section InstructionStats --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis --section MemoryWorkloadAnalysis_Tables"
    main="regex:ExpandKernel|ExpandBackwardKernel|AttentionKernel|GradQueryKernel|GradKeyKernel"
    profile --csv --page raw --kernel-name "$kernels" --metrics gpu__time_duration.sum "$node" "$program" "short steps" bf16 8192 "sas step, 2 layers, batch 8" >"$work/profile.csv"
    for cases in "expand|" "attention| 512" "attention| 2048" "linear, built-in|768->3072" "training ops|"; do
      profile --csv --page raw --kernel-name "$kernels" $sections "$node" "$program" "${cases%%|*}" bf16 8192 "${cases##*|}" >>"$work/profile.csv"
    done
    for cases in "expand|Q" "attention| 2048"; do
      profile --section SourceCounters --section WarpStateStats --kernel-name "$main" --launch-count 4 -f -o "$work/report" \
        "$node" "$program" "${cases%%|*}" bf16 8192 "${cases##*|}" >/dev/null
      ncu -i "$work/report.ncu-rep" --page source --csv >>"$out/source.csv"
    done
    true' || echo 'profile: incomplete'
  [ ! -f "$work/profile.csv" ] || "$node" "$(js kernel_profile)" "$work/profile.csv" "$out/profile.json" || true
  [ ! -f "$out/source.csv" ] || gzip -9 "$out/source.csv"
fi

echo
cat "$out/env.txt" >>"$out/log.txt"
rm "$out/env.txt"
"$node" "$(js summary)" "$out" "${why#rivals: }" | tee "$out/summary.txt"
exit $status
