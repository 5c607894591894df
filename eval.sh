#!/usr/bin/env bash
# Evaluates modes x benchmarks: makes the environment on a fresh machine, then starts the pipeline. Flags: --help
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)

# <module> <function that makes its parser>: prints the help and ends. The flags are defined by modules that need the
# standard library alone, so no environment is made for it. Returns when no Python of this machine can read them.
print_help() {
  local python
  local -x PYTHONPATH=$ROOT/.types PYTHONSAFEPATH=1 PYTHONDONTWRITEBYTECODE=1
  for python in "$ROOT/.venv/bin/python" ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    "$python" -c "import $1" 2>/dev/null || continue
    "$python" -c "import $1 as flags; flags.$2().print_help()"
    exit
  done
}
wants_help() {
  local word
  for word in "$@"; do case $word in --help | -h) return 0 ;; esac; done
  return 1
}

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
    if wants_help "${@:2}"; then
      echo "bash eval.sh --serve [FLAGS] starts the command below. Where they are not given, it adds --model"
      echo "assets/demo_model, --lora MODEL/linear_spec_lora (if there is such a folder) and --port 8000."
      echo
      print_help trimode.balancer.settings build_parser
    fi
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
    echo "starting a server; when it logs 'serving ADDRESS', a browser shows a chat page there. Ctrl-C ends it." >&2
    exec env PYTHONSAFEPATH=1 "$ROOT/.venv/bin/python" -m trimode.balancer "${more[@]}" "${@:2}"
    ;;
esac

if wants_help "$@"; then print_help trimode.pipeline.config.flags parser; fi
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
