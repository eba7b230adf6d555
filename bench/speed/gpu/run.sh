#!/usr/bin/env bash
# Checks and times the CUDA backend on this machine: run.sh OUTDIR [smoke|quick|full]. Needs an NVIDIA driver; no network, Node or
# npm. At most 8 minutes (smoke: 90 seconds, quick: 3 minutes). Every step writes as it goes: one that is killed leaves what it had.
# Where a check fails, the sanitizer looks at what failed and nothing is timed. Of a run that was itself killed, js/run/summary.mjs
# OUTDIR makes the summary.
# OUTDIR gets loss.json, parity.json, bench.json, rivals.json (where python3 has PyTorch with CUDA), profile.json and
# source.csv.gz (where ncu is), summary.txt and log.txt. Exit code:
#   0  every check ran to its end and passed
#   1  a check failed
#   2  wrong usage, or a machine that the bundle is not for
#   3  no usable GPU
#   4  no check failed, but one did not run to its end: out of time, killed, or tests left over
# SAS_REHEARSAL=TEXT is for an emulated GPU: tiny sizes, and of the parity tests and benchmarks those whose names hold TEXT.
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
rehearsal=${SAS_REHEARSAL:-}
only=()
# Of a run of the sanitizer: tokens, a text in the names of cases, and the most seconds.
size=512 text=512 longest=60
[ -z "$rehearsal" ] || only=(--only "$rehearsal") size=16 text=$rehearsal longest=8

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
js() { echo "$here/js/run/$1.mjs"; }
device=$("$node" "$(js check_device)" 2>"$work/error") || {
  [ -n "$device" ] || device="the addon does not load: $(grep -m 1 -A 1 'cannot be loaded' "$work/error" | tail -n 1 | sed 's/^ *//')"
  fail "$device" 3
}

mkdir -p "$out"
out=$(cd "$out" && pwd)
rm -f "$out"/{loss.json,parity.json,bench.json,rivals.json,profile.json}{,.part} "$out"/source.csv.gz{,.part} "$out"/{summary,log}.txt
begun=$SECONDS
say() { echo "$1" | tee -a "$out/log.txt"; }
say "== $device"
[ -z "$rehearsal" ] || say "rehearsal: tiny sizes, and of the tests and benchmarks those with '$rehearsal' in their names"
{
  date -u
  nproc
  if command -v nvidia-smi; then
    nvidia-smi || true
    nvidia-smi --query-gpu=name,driver_version,clocks.sm,clocks.mem,clocks.max.sm,power.limit,ecc.mode.current --format=csv || true
  else
    echo 'there is no nvidia-smi'
  fi
} >>"$out/log.txt" 2>&1

# step NAME SECONDS COMMAND... says how it ended in a line that summary.ts reads, and leaves that in $ending. Steps keep to
# their seconds themselves; `timeout` ends what does not.
filter=cat
step() {
  local name=$1 seconds=$2 start=$SECONDS code=0
  shift 2
  say "== $name ($(date +%T))"
  timeout -k 2 $((seconds + 4)) "$@" 2>&1 | $filter | tee -a "$out/log.txt" || code=${PIPESTATUS[0]}
  local took=$((SECONDS - start))
  case $code in
    0) ending=ok ;;
    2) # rivals.py: there is nothing to time
      ending='not run'
      say "== $name: not run ($(tail -n 1 "$out/log.txt" | sed 's/^rivals: //'))"
      return ;;
    4) ending=incomplete ;;
    124) ending='out of time' ;;
    137) [ $took -lt "$seconds" ] && ending=killed || ending='out of time' ;;
    *) [ "$code" -lt 128 ] && ending=failed || ending=crashed ;;
  esac
  say "== $name: $ending, $took s"
}

# measure NAME SECONDS WHY COMMAND...: what is timed, unless there is a reason not to.
measure() {
  local name=$1 seconds=$2 why=$3
  shift 3
  [ $failed = 0 ] || why='a check failed'
  [ "$seconds" -gt 0 ] || why="not part of $mode"
  if [ -n "$why" ]; then say "== $name: not run ($why)"; else step "$name" "$seconds" "$@"; fi
}
without() { command -v "$1" >/dev/null || echo "there is no $1"; }

failed=0
check() {
  step "$@"
  [[ $ending != @(failed|crashed) ]] || failed=1
}

# Where a driver allows one process per GPU, the tests have one.
processes=$(($(nproc) > 4 ? $(nproc) - 2 : 2))
compute_mode=$(nvidia-smi --query-gpu=compute_mode --format=csv,noheader 2>/dev/null | head -n 1) || true
[ "$compute_mode" != Exclusive_Process ] || processes=1

check loss $loss "$node" "$(js loss_check)" --out "$out/loss.json" ${rehearsal:+--tiny}
check parity $parity "$node" "$(js parity)" --out "$out/parity.json" --seconds $parity --processes $processes \
  "${only[@]}"
! grep -q '^FAIL ' "$out/log.txt" || failed=1 # also of a step that was killed afterwards

# The seconds that the checks before it left over are the sanitizer's too.
sanitize() {
  local tool=$1 name=$2 left=$((loss + parity + sanitizer - (SECONDS - begun)))
  shift 2
  left=$((left < longest ? left : longest))
  if [ $left -lt 1 ]; then
    say "== sanitizer $tool, $name: out of time, 0 s"
  else
    filter=brief
    check "sanitizer $tool, $name" $((left - 4)) compute-sanitizer --tool "$tool" --error-exitcode 1 --print-limit 3 "$@"
    filter=cat
  fi
}
brief() { { grep -v '^== ' || true; } | tail -n 25; }
# The first failing test of each op, as the argument of parity_worker.
suspects() {
  awk -F ' > ' -v quote="'" '
    /^FAIL / { op = $2 ~ /^random/ ? $3 : $2; sub(/[^A-Za-z].*/, "", op) }
    /^ *again: / && !seen[op]++ { split($0, parts, quote); print op "|" parts[2] }' "$out/log.txt" | head -n 4
}
if [ -n "$(without compute-sanitizer)" ]; then
  say "== sanitizer: not run ($(without compute-sanitizer))"
elif [ -n "$(suspects)" ]; then
  for tool in memcheck racecheck; do
    while IFS='|' read -r op argument; do
      SAS_POISON=1 sanitize $tool "$op" "$node" "$(js parity_worker)" "$argument" </dev/null
    done < <(suspects)
  done
else
  # Every kernel once, at a small size; racecheck not for the products of cuBLAS, where it reports NVIDIA's own kernels.
  for tool in memcheck racecheck; do
    for group in expand attention linear 'linear, built-in' 'training ops'; do
      [ "$tool $group" != 'racecheck linear' ] || continue
      sanitize $tool "$group" "$node" "$(js profile)" "$group" bf16 $size "$text"
    done
  done
fi

measure bench $bench '' "$node" "$(js gpu_bench)" --out "$out/bench.json" --seconds $bench "${quick[@]}" \
  "${only[@]}" ${rehearsal:+--tokens 16}

python=${SAS_PYTHON:-python3}
measure rivals $rivals "$(without "$python")" "$python" -B "$here/peers/rivals.py" --out "$out/rivals.json" \
  --seconds $((rivals > 20 ? rivals - 10 : 10)) "${quick[@]}"

# How the time of a step is spread over its kernels, and why a kernel takes as long as it does: metrics of each, then where in
# the machine code its warps wait.
export node here out work
measure profile $profile "$(without ncu)" bash -c '
  program=$here/js/run/profile.mjs
  kernels="regex:Expand|Attention|GradQuery|GradKey|Gemm|nvjet|cutlass|Round|Map|norm|Norm|Aggregate|Pack|Embedding|CrossEntropy|AdamW|Squares|Reduce|Column|Sum|Scale|Table|Count|Scatter|Keys|Flip|Stretch"
  sections="--section SpeedOfLight --section LaunchStats --section Occupancy --section SchedulerStats --section WarpStateStats
    --section InstructionStats --section ComputeWorkloadAnalysis --section MemoryWorkloadAnalysis --section MemoryWorkloadAnalysis_Tables"
  main="regex:ExpandKernel|ExpandBackwardKernel|AttentionKernel|GradQueryKernel|GradKeyKernel"
  profile() {
    ncu --clock-control none --csv --page raw --kernel-name "$kernels" "$@" >>"$work/profile.csv"
    "$node" "$here/js/run/kernel_profile.mjs" "$work/profile.csv" "$out/profile.json"
  }
  profile --metrics gpu__time_duration.sum "$node" "$program" "short steps" bf16 8192 "sas step, 2 layers, batch 8"
  for cases in "expand|" "attention| 512" "attention| 2048" "linear, built-in|768->3072" "training ops|"; do
    profile $sections "$node" "$program" "${cases%%|*}" bf16 8192 "${cases##*|}"
  done
  for cases in "expand|Q" "attention| 2048"; do
    ncu --clock-control none --section SourceCounters --section WarpStateStats --kernel-name "$main" --launch-count 4 -f \
      -o "$work/report" "$node" "$program" "${cases%%|*}" bf16 8192 "${cases##*|}" >/dev/null
    ncu -i "$work/report.ncu-rep" --page source --csv >>"$work/source.csv" || continue
    gzip -9c "$work/source.csv" >"$out/source.csv.gz.part"
    mv "$out/source.csv.gz.part" "$out/source.csv.gz"
  done
  grep -h "^==ERROR==" "$work/profile.csv" | sort -u | head -n 3
  grep -q kernel "$out/profile.json"'
[ ! -f "$work/profile.csv" ] || "$node" "$(js kernel_profile)" "$work/profile.csv" "$out/profile.json" || true

rm -f "$out"/*.part # of a step that was killed while it wrote
echo
code=0
"$node" "$(js summary)" "$out" | tee "$out/summary.txt" || code=${PIPESTATUS[0]}
exit $code
