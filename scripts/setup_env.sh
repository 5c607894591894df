#!/usr/bin/env bash
# Makes or updates the environment in .venv: bash scripts/setup_env.sh base|worker|test   (each holds the ones before)
# Installs the exact versions of scripts/locks/; `newest` makes .venv-newest from the ranges of pyproject.toml instead.
# Says everything on stderr. A stamp holds what .venv was made from: its path, its Python, pyproject.toml and locks per layer.
set -euo pipefail
exec 1>&2
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv
LOCKS=$ROOT/scripts/locks
CPU_WHEELS=https://download.pytorch.org/whl/cpu # documented by PyTorch; asked only when pip has no source of its own
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=0 PIP_USE_PEP517=1

die() { echo "error: $*" >&2; exit 2; } # also inside $(...)
case ${1:-} in
  base) rank=0 ;; worker) rank=1 ;; test) rank=2 ;;
  newest) rank=2 VENV=$ROOT/.venv-newest ;;
  *) die "the environment has layers base, worker and test: got '${1:-}'" ;;
esac
STAMP=$VENV/trimode-stamp
LAYERS=(base worker test)
made_from=$(cat "$ROOT/pyproject.toml" "$LOCKS"/*.txt | sha256sum | cut -c1-16)

stamped() { grep -qxF -- "$1" "$STAMP" 2>/dev/null; }
in_place() { # made for this folder by a Python that is still there
  [ -x "$VENV/bin/python" ] && stamped "path $ROOT" && stamped "python $(readlink -f "$VENV/bin/python")"
}
up_to_date() { in_place && stamped "${LAYERS[rank]} $made_from" && ! grep -qvE "^(path|python) | $made_from\$" "$STAMP"; }

supported() { "$1" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null; }
find_python() {
  local found="" candidate
  for candidate in ${PYTHON:-python3 python3.13 python3.12 python3.11}; do
    command -v "$candidate" >/dev/null || continue
    if supported "$candidate"; then command -v "$candidate"; return; fi
    found+=" $candidate is $("$candidate" -c 'import platform; print(platform.python_version())' 2>/dev/null || echo broken);"
  done
  die "Python 3.11, 3.12 or 3.13 is needed:${found:-" none found;"} install one, or set PYTHON=/path/to/python3.11"
}

make_venv() {
  if [ -x "$VENV/bin/python" ] && [ ! -e "$STAMP" ] && supported "$VENV/bin/python" && "$VENV/bin/python" -m pip -V >/dev/null 2>&1 &&
    [ "$("$VENV/bin/python" -c 'import sys; print(sys.prefix)')" = "$VENV" ]; then
    echo "taking over the environment found in $VENV"; return
  fi
  local python; python=$(find_python)
  "$python" -c 'import ensurepip, venv' 2>/dev/null || die "$python has no venv module; on Debian and Ubuntu: apt install" \
    "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')"
  echo "making $VENV with $python"
  "$python" -m venv --clear "$VENV" || die "$python could not make $VENV"
}

cpu_only=yes
if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then cpu_only=; fi
cpu_source() { # <option of pip>: it and PyTorch's CPU builds; nothing when pip has a source of its own
  # into a variable first: with pipefail, grep -q closing the pipe early would count as "no source of its own"
  local configured; configured=$("$VENV/bin/pip" config list)
  grep -qE "index-url|find-links" <<<"$configured" || printf '%s\n' "$1" "$CPU_WHEELS"
}
install() { "$VENV/bin/pip" install -q "$@"; }
install_locked() { install --no-deps --no-build-isolation --require-hashes -r "$LOCKS/$1.txt"; }

install_torch() { # any build of the locked version will do; a machine without an NVIDIA driver gets a CPU build
  local locked installed source
  locked=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$LOCKS/torch.txt")
  installed=$("$VENV/bin/python" -c 'import importlib.metadata as m; print(*(d.version for d in m.distributions(name="torch")))')
  [ "${installed%%+*}" != "$locked" ] || return 0
  if [ "$cpu_only" ]; then
    mapfile -t source < <(cpu_source --index-url)
    install --no-deps "${source[@]}" "torch==$locked+cpu" && return
    echo "torch $locked was not to be had as a CPU build; taking the CUDA build"
  fi
  install_locked torch
}

install_triton() { # comes with torch's CUDA build; beside a CPU build the tests need it alone
  "$VENV/bin/python" -c 'import importlib.metadata as m; m.version("triton")' 2>/dev/null ||
    install --no-deps --require-hashes -r <(awk '/^[^ ]/ { wanted = /^triton==/ } wanted' "$LOCKS/torch.txt")
}

if [ "$1" = newest ]; then
  make_venv
  echo "installing the newest packages into $VENV"
  source=()
  [ -z "$cpu_only" ] || mapfile -t source < <(cpu_source --extra-index-url)
  install --upgrade --upgrade-strategy eager "${source[@]}" -e "${ROOT}[worker,test]" || die "pip could not; see above"
  exit 0
fi

up_to_date && exit 0
exec 9>>"$ROOT/.venv.lock"
flock -n 9 || { echo "waiting for another set-up of $VENV"; flock 9; }
up_to_date && exit 0
if in_place; then
  for known in 1 2; do grep -q "^${LAYERS[known]} " "$STAMP" && [ "$known" -gt "$rank" ] && rank=$known; done
else
  make_venv
fi
echo "installing the ${LAYERS[rank]} packages into $VENV"
{ install_locked build && { [ "$rank" -eq 0 ] || install_torch; } && install_locked "${LAYERS[rank]}" &&
  { [ "$rank" -lt 2 ] || install_triton; } &&
  install --no-deps --no-build-isolation -e "$ROOT"; } || die "pip could not install the ${LAYERS[rank]} packages; see above"
{
  echo "path $ROOT"
  echo "python $(readlink -f "$VENV/bin/python")"
  for ((layer = 0; layer <= rank; layer++)); do echo "${LAYERS[layer]} $made_from"; done
} >"$STAMP.new"
mv "$STAMP.new" "$STAMP"
echo "environment ready: $VENV (${LAYERS[rank]})"
