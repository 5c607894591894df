#!/usr/bin/env bash
# Renews scripts/locks/: the newest versions that pyproject.toml admits, direct and transitive: bash scripts/lock.sh
# One resolution serves Python 3.11 to 3.13 on x86_64 and aarch64: lines carry markers, and hashes of every file.
# build.txt: what builds source packages. base, worker, test: one file per layer, each holds the ones before.
# torch.txt: torch's CUDA build with its libraries, kept apart because a machine without a GPU gets the CPU build.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
tmp=$(mktemp -d)
trap 'rm -rf "$tmp"' EXIT
if ! command -v uv >/dev/null; then
  python3 -m venv "$tmp/uv"
  "$tmp/uv/bin/pip" install -q uv
  PATH=$tmp/uv/bin:$PATH
fi

compile() { # <output> <arguments of uv pip compile>
  uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-header --no-annotate "${@:2}" -o "$1"
}
only() { # <0|1> <file>: the entries of the CUDA build of torch (1) or all others (0), below a line that says where from
  echo "# Made by scripts/lock.sh"
  awk -v want="$1" '/^[^ ]/ { cuda = /^(torch|triton|nvidia-[a-z0-9-]+|cuda-[a-z]+)==/ } cuda == want' "$2"
}

compile "$tmp/test.txt" pyproject.toml --extra worker --extra test # first, so that every layer gets the same versions
compile "$tmp/worker.txt" pyproject.toml --extra worker -c "$tmp/test.txt"
compile "$tmp/base.txt" pyproject.toml -c "$tmp/test.txt"
sed -n 's/^requires = \["\(.*\)"\]$/\1/p' pyproject.toml >"$tmp/build.in"
compile "$tmp/build.txt" "$tmp/build.in" -c "$tmp/test.txt"
for name in build base worker test; do only 0 "$tmp/$name.txt" >"scripts/locks/$name.txt"; done
only 1 "$tmp/worker.txt" >scripts/locks/torch.txt
wc -l scripts/locks/*.txt
