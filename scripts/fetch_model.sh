#!/usr/bin/env bash
# Fetches a checkpoint from the hub into miscs/<name>: bash scripts/fetch_model.sh [--model nvidia/Nemotron-Labs-Diffusion-8B]
# Revision and checksums: scripts/model_pins.json. The token comes from HF_TOKEN or the file that HF_TOKEN_FILE names.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
PYTHON=${TRIMODE_PYTHON:-$ROOT/.venv/bin/python} # TRIMODE_PYTHON: an environment that has the worker packages already
[ -n "${TRIMODE_PYTHON:-}" ] || bash "$ROOT/scripts/setup_env.sh" worker
exec env PYTHONSAFEPATH=1 PYTHONPATH="$ROOT/.types" "$PYTHON" -m trimode.workers.fetch model "$@"
