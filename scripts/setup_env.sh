#!/usr/bin/env bash
# Makes or updates the environment in .venv: bash scripts/setup_env.sh base|worker|test   (each holds the ones before)
# Says everything on stderr. A stamp holds what .venv was made from: its path, its Python, pyproject.toml per layer.
set -euo pipefail
exec 1>&2
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
VENV=$ROOT/.venv STAMP=$ROOT/.venv/trimode-stamp
TORCH=2.13.0                                    # what a machine without an NVIDIA driver gets, as a CPU build
CPU_WHEELS=https://download.pytorch.org/whl/cpu # documented by PyTorch; asked only when pip has no source of its own
export PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_REQUIRE_VIRTUALENV=0

die() { echo "error: $*" >&2; exit 2; } # also inside $(...)
case ${1:-} in
  base) rank=0 ;; worker) rank=1 ;; test) rank=2 ;;
  *) die "the environment has layers base, worker and test: got '${1:-}'" ;;
esac
LAYERS=(base worker test) EXTRAS=("" "[worker]" "[worker,test]")
made_from=$(sha256sum <"$ROOT/pyproject.toml" | cut -c1-16)

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

install_torch() { # before the rest, so that a machine without an NVIDIA driver gets a CPU build
  "$VENV/bin/python" -c 'import importlib.util as u, sys; sys.exit(u.find_spec("torch") is None)' && return
  if [ -e /proc/driver/nvidia/version ] || command -v nvidia-smi >/dev/null; then return; fi
  local source=()
  # into a variable first: with pipefail, grep -q closing the pipe early would count as "no source of its own"
  local configured; configured=$("$VENV/bin/pip" config list)
  grep -qE "index-url|find-links" <<<"$configured" || source=(--index-url "$CPU_WHEELS")
  "$VENV/bin/pip" install -q "${source[@]}" "torch==$TORCH" || echo "torch $TORCH was not to be had; taking what pip finds"
}

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
[ "$rank" -eq 0 ] || install_torch
"$VENV/bin/pip" install -q -e "$ROOT${EXTRAS[rank]}" || die "pip could not install the ${LAYERS[rank]} packages; see above"
{
  echo "path $ROOT"
  echo "python $(readlink -f "$VENV/bin/python")"
  for ((layer = 0; layer <= rank; layer++)); do echo "${LAYERS[layer]} $made_from"; done
} >"$STAMP.new"
mv "$STAMP.new" "$STAMP"
echo "environment ready: $VENV (${LAYERS[rank]})"
