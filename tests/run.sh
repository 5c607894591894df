#!/usr/bin/env bash
# Makes what the tests need and runs them: bash tests/run.sh [fast|newest] [pytest arguments]
# Without words: lint, types and all tests. fast: what is quick and needs no process, Ray, Slurm, browser or GPU.
# newest: all tests in .venv-newest, with the newest versions that pyproject.toml admits instead of the locked ones.
# Slurm and Chromium come from the system: under CI=true they are installed and must work; elsewhere they are used if there.
set -euo pipefail
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
cd "$ROOT"
kind=full layer=test venv=.venv
case ${1:-} in
  "") set -- -n auto --dist loadfile --durations=10 ;;
  fast) kind=fast && set -- -n auto -m "not process and not slow and not slurm and not cuda" "${@:2}" ;;
  newest) kind=newest layer=newest venv=.venv-newest && shift ;;
  *) kind=some ;;
esac
bash scripts/setup_env.sh "$layer"

missing=()
command -v slurmctld >/dev/null && command -v slurmd >/dev/null && command -v munged >/dev/null || missing+=(slurmctld slurmd slurm-client munge)
[ -e /usr/include/slurm/spank.h ] && command -v gcc >/dev/null && command -v mksquashfs >/dev/null ||
  missing+=(gcc libc6-dev libslurm-dev squashfs-tools)
command -v chromium >/dev/null || missing+=(chromium)
if [ "$kind" != fast ] && [ ${#missing[@]} -gt 0 ]; then
  if [ "${CI:-}" = true ]; then
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "${missing[@]}"
  else
    echo "some tests are left out; to run them: apt-get install --no-install-recommends ${missing[*]}" >&2
  fi
fi

export PYTHONSAFEPATH=1 MYPYPATH=.types HF_HUB_OFFLINE=1
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}" # small models: a second thread only waits
if [ "$kind" = full ]; then
  "$venv/bin/ruff" check .
  "$venv/bin/ruff" format --check .
  "$venv/bin/mypy" -p trimode.core -p trimode.pipeline -p trimode.balancer -p trimode.workers -p trimode.kernels -p trimode.recipes -p trimode.bench -p trimode.scripts
  "$venv/bin/mypy" evaluate.py tests/fakes/worker.py
fi
exec "$venv/bin/python" -m pytest "$@"
