#!/usr/bin/env bash
# Measures the GPU path on this machine's first GPU within nine minutes: bash bench/gpu.sh [--out FOLDER]
# Without a GPU, bash bench/gpu.sh --dry-run runs all of it at a tiny size; its figures mean nothing.
# Needs a Python with torch, triton, safetensors, transformers and numpy: $PYTHON, else python3, else .venv/bin/python.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
for python in "${PYTHON:-python3}" "$ROOT/.venv/bin/python"; do
  "$python" -c 'import sys, importlib.util as u; sys.exit(not all(map(u.find_spec, sys.argv[1:])))' \
    numpy safetensors torch transformers 2>/dev/null && found=$python && break
done
[ -n "${found:-}" ] || {
  echo "error: ${PYTHON:-python3} has no torch, transformers, safetensors or numpy; name another one: PYTHON=... bash bench/gpu.sh" >&2
  exit 2
}
[ -e "$ROOT/.types/trimode" ] || { mkdir -p "$ROOT/.types" && ln -s .. "$ROOT/.types/trimode"; }
export PYTHONPATH="$ROOT/.types" PYTHONSAFEPATH=1 HF_HUB_OFFLINE=1 TOKENIZERS_PARALLELISM=false
exec "$found" -m trimode.bench.gpu "$@"
