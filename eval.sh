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
