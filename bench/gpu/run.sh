#!/usr/bin/env bash
# Checks and times the CUDA backend on this machine: run.sh OUTDIR [quick|full]. Needs an NVIDIA driver; no network, Node or
# npm. At most 8 minutes (quick: 2). OUTDIR gets parity.json, bench.json, rivals.json (where python3 has PyTorch with CUDA),
# summary.txt and log.txt. Exit code: 0, 1 where a check failed, 2 wrong usage, 3 no usable GPU.
set -euo pipefail

fail() {
  echo "run.sh: $1" >&2
  exit "${2:-2}"
}

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
out=${1:-}
mode=${2:-full}
[ -n "$out" ] || fail 'usage: run.sh OUTDIR [quick|full]'
case $mode in
  quick) parity_seconds=42 bench_seconds=28 rivals_seconds=28 quick=(--quick) ;;
  full) parity_seconds=190 bench_seconds=120 rivals_seconds=140 quick=() ;;
  *) fail "mode $mode: expected quick or full" ;;
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
rm -f "$out"/{parity.json,bench.json,rivals.json,summary.txt,log.txt}

# The steps keep to their seconds themselves; `timeout` ends what does not.
step() {
  local seconds=$1
  shift
  timeout -k 2 "$((seconds + 4))" "$@" 2>&1 | tee -a "$out/log.txt"
}

status=0
echo "== $device"
echo '== parity'
processes=6
mode_of_device=$(nvidia-smi --query-gpu=compute_mode --format=csv,noheader 2>/dev/null | head -n 1) || true
[ "$mode_of_device" != Exclusive_Process ] || processes=1
step $parity_seconds "$node" "$here/js/run/parity.mjs" --out "$out/parity.json" --seconds $parity_seconds \
  --processes $processes || status=1
echo '== benchmark'
step $bench_seconds "$node" "$here/js/run/gpu_bench.mjs" --out "$out/bench.json" --seconds $bench_seconds "${quick[@]}" ||
  status=1
echo '== rivals'
python=${SAS_PYTHON:-python3}
why='there is no python3'
if command -v "$python" >/dev/null; then
  step $rivals_seconds "$python" -B "$here/peers/rivals.py" --out "$out/rivals.json" --seconds $((rivals_seconds - 10)) \
    "${quick[@]}" || why=$(tail -n 1 "$out/log.txt")
fi
echo
"$node" "$here/js/run/summary.mjs" "$out" "${why#rivals: }" | tee "$out/summary.txt"
exit $status
