#!/usr/bin/env bash
# Evaluates modes x benchmarks: makes the environment on a fresh machine, then starts the pipeline. Flags: --help
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

case ${1:-} in
  --setup | --setup=*)
    layer=${1#--setup} layer=${layer#=}
    [ -n "$layer" ] || { layer=${2:-} && shift $(($# > 1)); }
    if [ $# -ne 1 ] || { [ "$layer" != base ] && [ "$layer" != worker ]; }; then
      echo "error: --setup stands alone and takes base or worker: got '${layer}'" >&2
      exit 2
    fi
    exec bash "$ROOT/scripts/setup_env.sh" "$layer"
    ;;
  --status)
    bash "$ROOT/scripts/setup_env.sh" base
    exec env PYTHONSAFEPATH=1 "$ROOT/.venv/bin/python" -m trimode.pipeline.status "${@:2}"
    ;;
  --doctor)
    bash "$ROOT/scripts/setup_env.sh" base
    exec env PYTHONSAFEPATH=1 "$ROOT/.venv/bin/python" -m trimode.pipeline.doctor "${@:2}"
    ;;
  --serve) # the demo model, or --model; every flag of python -m trimode.balancer
    bash "$ROOT/scripts/setup_env.sh" worker
    model="" lora="" port=""
    for ((i = 2; i <= $#; i++)); do
      word=${!i} next=$((i + 1))
      case $word in
        --model) model=${!next:-} ;; --model=*) model=${word#*=} ;;
        --lora | --lora=*) lora=given ;;
        --port | --port=*) port=given ;;
      esac
    done
    more=()
    [ -n "$model" ] || { model=$ROOT/assets/demo_model && more+=(--model "$model"); }
    # the adapter that lies in the model's folder is loaded, so that requests may ask for it
    [ -n "$lora" ] || [ ! -e "$model/linear_spec_lora/adapter_config.json" ] || more+=(--lora "$model/linear_spec_lora")
    [ -n "$port" ] || more+=(--port 8000)
    exec env PYTHONSAFEPATH=1 "$ROOT/.venv/bin/python" -m trimode.balancer "${more[@]}" "${@:2}"
    ;;
esac

layer=base
for word in "$@"; do
  case $word in
    --demo | --local) [ "$layer" = none ] || layer=worker ;;
    --dry-run | --help | -h | --server | --server=*) layer=none ;; # a running server needs no workers here
  esac
done
[ "$layer" != none ] || layer=base
bash "$ROOT/scripts/setup_env.sh" "$layer"

export PYTHONSAFEPATH=1 # the caller's folder is no place to import from
exec "$ROOT/.venv/bin/python" -m trimode.pipeline.eval "$@"
