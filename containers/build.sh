#!/usr/bin/env bash
# Builds the container image and converts it: bash containers/build.sh [--help]
set -euo pipefail
usage() {
  cat <<'TEXT'
usage: bash containers/build.sh [flags]
Builds containers/Dockerfile with docker or podman and converts the image for pyxis (.sqsh) or Apptainer (.sif).

  --variant NAME    cuda (default), or cpu for tests without a GPU
  --layer NAME      what is installed: worker (default) or test; as in scripts/setup_env.sh
  --nemo-skills     adds NeMo-Skills and evalplus at the commits of containers/nemo_skills_commits.txt
  --serve           adds the code of this checkout and starts the server by itself (containers/serve)
  --to LIST         image, sqsh, sif, with commas between (default: image,sqsh); image is built in any case
  --out DIR         folder for the files (default: this one)
  --pip-conf FILE   pip.conf with a source of packages; used during the build, never kept in the image
  --engine NAME     docker or podman (default: the first of them on PATH)
  --dry-run         prints the commands and runs none
TEXT
}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
die() { echo "error: $*" >&2; exit 2; }

variant=cuda layer=worker nemo="" serve="" to=image,sqsh out=$PWD pip_conf="" engine="" dry=""
while [ $# -gt 0 ]; do
  case $1 in
    --variant) variant=${2-}; shift ;;
    --layer) layer=${2-}; shift ;;
    --nemo-skills) nemo=yes ;;
    --serve) serve=yes ;;
    --to) to=${2-}; shift ;;
    --out) out=${2-}; shift ;;
    --pip-conf) pip_conf=${2-}; shift ;;
    --engine) engine=${2-}; shift ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    *) die "no flag $1; see bash containers/build.sh --help" ;;
  esac
  shift || die "the last flag needs a value"
done
case $variant in cuda | cpu) ;; *) die "variants are cuda and cpu: got '$variant'" ;; esac
case $layer in worker | test) ;; *) die "layers are worker and test: got '$layer'" ;; esac
case $engine in "" | docker | podman) ;; *) die "engines are docker and podman: got '$engine'" ;; esac
[ -z "$pip_conf" ] || [ -f "$pip_conf" ] || die "no file $pip_conf for --pip-conf"
for kind in ${to//,/ }; do
  case $kind in image | sqsh | sif) ;; *) die "--to takes image, sqsh and sif: got '$kind'" ;; esac
done
wants() { [[ ,$to, == *,$1,* ]]; }
name=trimode-$variant${nemo:+-nemo-skills}
[ "$layer" = worker ] || name+=-$layer
version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$ROOT/pyproject.toml")
tag=$name:$version base_tag=$tag
if [ "$serve" ]; then name+=-serve; tag=$name:$version; fi

missing() { # what has to be installed first, one thing a line
  if [ -z "$engine" ]; then
    echo "docker or podman: install one, build on a machine that has one, or make the CPU image with containers/rootfs.sh"
  elif ! command -v "$engine" >/dev/null; then
    echo "$engine: install it, or name the other one with --engine"
  elif ! "$engine" info >/dev/null 2>&1; then
    echo "$engine is there but does not answer: start its service, or see '$engine info'"
  fi
  if wants sqsh && ! command -v enroot >/dev/null; then
    echo "enroot (for .sqsh): github.com/NVIDIA/enroot, on the login nodes of clusters with pyxis; or leave sqsh out of --to"
  fi
  if wants sif && ! command -v apptainer >/dev/null; then
    echo "apptainer (for .sif): a module or package of the cluster; or leave sif out of --to"
  fi
}
quoted() { printf '%q ' "$@" | sed 's/ $//; s/\\,/,/g'; echo; } # a comma needs no quotes
plan() { # <engine>: the commands, one a line
  local engine=$1 setting="" base build archive
  base=$(sed -n "s/^ARG ${variant^^}_BASE=//p" "$ROOT/containers/Dockerfile")
  quoted "$engine" pull "$base"
  # the image is built from exactly these bytes, and its label says from which
  echo "base=\$($engine image inspect --format '{{index .RepoDigests 0}}' $base)"
  build=("$engine" build --file "$ROOT/containers/Dockerfile" --tag "$base_tag" --build-arg "VARIANT=$variant"
    --build-arg "LAYER=$layer" --build-arg "VERSION=$version" --build-arg "NEMO_SKILLS=$nemo")
  [ "$engine" = podman ] || setting="DOCKER_BUILDKIT=1 "
  [ "$engine" = docker ] || build+=(--format docker --ignorefile "$ROOT/containers/Dockerfile.dockerignore")
  [ -z "$pip_conf" ] || build+=(--secret "id=pip,src=$(realpath "$pip_conf")")
  echo "$setting$(quoted "${build[@]}") --build-arg ${variant^^}_BASE=\"\$base\" --build-arg BASE_NAME=\"\$base\"" \
    "--build-arg REVISION=\"\$(git -C $(quoted "$ROOT") rev-parse HEAD)\" $(quoted "$ROOT")"
  if [ "$serve" ]; then
    build=("$engine" build --file "$ROOT/containers/serve/Dockerfile" --tag "$tag" --build-arg "BASE=$base_tag")
    [ "$engine" = docker ] || build+=(--format docker --ignorefile "$ROOT/containers/serve/Dockerfile.dockerignore")
    echo "$setting$(quoted "${build[@]}" "$ROOT")"
  fi
  if wants sqsh; then
    local scheme=dockerd; [ "$engine" = docker ] || scheme=podman
    quoted rm -f "$out/$name.sqsh"
    quoted enroot import --output "$out/$name.sqsh" "$scheme://$tag"
  fi
  if wants sif; then
    archive=$out/$name.tar
    quoted "$engine" save --output "$archive" "$tag"
    quoted apptainer build --force "$out/$name.sif" "docker-archive:$archive"
    quoted rm "$archive"
  fi
}

for found in docker podman; do [ "$engine" ] || ! command -v "$found" >/dev/null || engine=$found; done
if [ "$dry" ]; then
  missing | sed 's/^/# missing: /'
  plan "${engine:-docker}"
  exit 0
fi
lacking=$(missing)
[ -z "$lacking" ] || die "not everything is here:"$'\n'"$lacking"
mkdir -p "$out"
while IFS= read -r -u 3 command; do # on 3, so that no command reads the list as its input
  echo "+ $command" >&2
  eval "$command" </dev/null
done 3< <(plan "$engine")
