#!/usr/bin/env bash
# A small stand-in for `apptainer exec` in tests, for root: it takes our flags and runs a command in a squashfs file.
# Differences from Apptainer: the root is a tmpfs above the image, the host's users and PATH stay.
set -euo pipefail
[ "$1" = exec ] || { echo "stand-in for apptainer: exec only, got $1" >&2; exit 255; }
shift
binds="" folder=/
while [[ $1 == --* ]]; do
  case $1 in
    --bind=*) binds=${1#*=} ;;
    --pwd=*) folder=${1#*=} ;;
    --no-mount=home,cwd | --writable-tmpfs | --nv) ;;
    *) echo "stand-in for apptainer: no flag $1" >&2; exit 255 ;;
  esac
  shift
done
image=$1
shift
# shellcheck disable=SC2016 # expanded by the inner shell
exec unshare --mount bash -euc '
  base=/run/stand_in_for_apptainer binds=$1 folder=$2 image=$3
  shift 3
  mkdir -p "$base" # one path for all: the mounts are seen by this command alone
  mount -t tmpfs tmpfs "$base"
  mkdir "$base"/{lower,upper,work,root}
  mount -t squashfs -o loop,ro "$image" "$base/lower"
  mount -t overlay overlay -o "lowerdir=$base/lower,upperdir=$base/upper,workdir=$base/work" "$base/root"
  IFS=,
  for bind in /proc:/proc /sys:/sys /dev:/dev /tmp:/tmp $binds; do
    mkdir -p "$base/root${bind#*:}"
    mount --rbind "${bind%%:*}" "$base/root${bind#*:}"
  done
  exec chroot "$base/root" env --chdir="$folder" "$@"
' stand-in "$binds" "$folder" "$image" "$@"
