#!/usr/bin/env bash
# Serves a model on a DGX Spark: bash containers/spark/serve.sh [--help]
set -euo pipefail
usage() {
  cat <<'TEXT'
usage: bash containers/spark/serve.sh [flags] [-- further flags of the server]
Serves a model on a DGX Spark (aarch64, GB10) with this project's server, or with SGLang's branch.

  --backend NAME       trimode (default), or sglang: the launcher of the reference repository
  --model NAME         checkpoint folder or hub id (default: nvidia/Nemotron-Labs-Diffusion-8B)
  --mode NAME          ar, dlm or linear_spec (default): mode of a request that names none
  --lora DIR           adapter for linear_spec
  --quantization NAME  trimode: w4a16 (default), fp8 or none; sglang: fp8 (default) or none
  --kv-cache-gb N      KV cache in GiB (trimode; default: 16). The GPU's memory is the machine's own, so it has a bound
  --max-num-seqs N     requests decoded together (trimode: default 8; sglang: default 2)
  --port N             default: 8000
  --host ADDRESS       default: 127.0.0.1; any other one needs --api-key-file (trimode)
  --api-key-file FILE  file with the bearer key (trimode)
  --reference DIR      checkout of the reference repository, for sglang
  --dry-run            prints the command and runs nothing
TEXT
}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd -P)
die() { echo "error: $*" >&2; exit 2; }

backend=trimode model=nvidia/Nemotron-Labs-Diffusion-8B mode=linear_spec lora="" quantization="" kv_cache_gb=16 max_num_seqs=""
port=8000 host=127.0.0.1 api_key_file="" reference="" dry=""
while [ $# -gt 0 ]; do
  case $1 in
    --backend) backend=${2-}; shift ;;
    --model) model=${2-}; shift ;;
    --mode) mode=${2-}; shift ;;
    --lora) lora=${2-}; shift ;;
    --quantization) quantization=${2-}; shift ;;
    --kv-cache-gb) kv_cache_gb=${2-}; shift ;;
    --max-num-seqs) max_num_seqs=${2-}; shift ;;
    --port) port=${2-}; shift ;;
    --host) host=${2-}; shift ;;
    --api-key-file) api_key_file=${2-}; shift ;;
    --reference) reference=${2-}; shift ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    --) shift; break ;;
    *) die "no flag $1; see bash containers/spark/serve.sh --help" ;;
  esac
  shift || die "the last flag needs a value"
done
case $backend in trimode | sglang) ;; *) die "backends are trimode and sglang: got '$backend'" ;; esac
case $mode in ar | dlm | linear_spec) ;; *) die "modes are ar, dlm and linear_spec: got '$mode'" ;; esac

run() { # the command, and the variables before it, as one line in a dry run
  if [ "$dry" ]; then printf '%q ' "$@" | sed 's/ $//'; echo; exit 0; fi
  exec "$@"
}

if [ "$backend" = sglang ]; then
  # knobs of sglang_spark/launch_server.sh, as its own guide names them
  case ${quantization:-fp8} in none) quantized="" ;; fp8) quantized=fp8 ;; *) die "sglang: --quantization takes fp8 and none: got '$quantization'" ;; esac
  [ $# -eq 0 ] || die "sglang takes no further flags: got $*"
  [ -z "$api_key_file" ] || die "sglang: its launcher has no key; leave --api-key-file out"
  [ "$reference" ] || die "sglang needs --reference DIR: a checkout of the reference repository"
  launcher=$reference/sglang_spark/launch_server.sh
  [ "$dry" ] || [ -f "$launcher" ] || die "no file $launcher: --reference names a checkout with sglang_spark"
  case $mode in ar) algorithm=AR ;; dlm) algorithm=FastDiffuser ;; linear_spec) algorithm=LinearSpec ;; esac
  [ "$mode" != linear_spec ] || [ "$lora" ] || algorithm=LinearSpec-base
  run env "PORT=$port" "ALGO=$algorithm" "MODEL=$model" "QUANT=$quantized" "MAX_REQS=${max_num_seqs:-2}" bash "$launcher"
fi

case ${quantization:=w4a16} in w4a16 | fp8 | none) ;; *) die "--quantization takes w4a16, fp8 and none: got '$quantization'" ;; esac
[ "$host" = 127.0.0.1 ] || [ "$api_key_file" ] || die "--host $host is seen by others: give --api-key-file"
command=("$ROOT/.venv/bin/python" -m trimode.balancer --model "$model" --default-mode "$mode" --quantization "$quantization"
  --num-workers 1 --device cuda --kv-cache-gb "$kv_cache_gb" --max-num-seqs "${max_num_seqs:-8}" --host "$host" --port "$port")
[ -z "$lora" ] || command+=(--lora "$lora")
[ -z "$api_key_file" ] || command+=(--api-key-file "$api_key_file")
if [ -z "$dry" ]; then
  [ "$(uname -m)" = aarch64 ] || die "a DGX Spark is aarch64: this is $(uname -m); elsewhere start python -m trimode.balancer"
  bash "$ROOT/scripts/setup_env.sh" worker
  "$ROOT/.venv/bin/python" - <<'PY' || exit 1
import sys, torch
if not torch.cuda.is_available():
    sys.exit(f"error: PyTorch {torch.__version__} sees no GPU: is it a CUDA build, and is the driver at least as new as CUDA {torch.version.cuda}?")
print(f"GPU {torch.cuda.get_device_name()}, compute capability {torch.cuda.get_device_capability()}; PyTorch's kernels: {', '.join(torch.cuda.get_arch_list())}")
PY
fi
# the page cache is memory of the GPU too, and Ray takes a full one for a shortage
run env PYTHONSAFEPATH=1 RAY_memory_monitor_refresh_ms=0 "${command[@]}" "$@"
