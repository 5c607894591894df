#!/usr/bin/env bash
# Makes the CPU image as a squashfs file, without docker or podman: bash containers/rootfs.sh [--help]
set -euo pipefail
usage() {
  cat <<'TEXT'
usage: bash containers/rootfs.sh [flags] IMAGE.sqsh
Makes a root file system of Debian with the packages of containers/apt-cpu.txt and of scripts/locks, and packs it.
Needs root, debootstrap, squashfs-tools, and a Python of the suite's minor version (bookworm: 3.11) to load the wheels with.

  --layer NAME      what is installed: base, worker (default) or test; as in scripts/setup_env.sh
  --suite NAME      Debian's release (default: bookworm)
  --mirror URL      where debootstrap loads from (default: its own)
  --work DIR        folder for the unpacked root, kept so that debootstrap need not run again (default: a temporary one)
  --dry-run         prints the commands and runs none
TEXT
}
ROOT=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd -P)
LOCKS=$ROOT/scripts/locks
CPU_WHEELS=https://download.pytorch.org/whl/cpu # asked only when pip has no source of its own, as in setup_env.sh
VENV=/opt/trimode
die() { echo "error: $*" >&2; exit 2; }

layer=worker suite=bookworm mirror="" work="" dry="" image=""
while [ $# -gt 0 ]; do
  case $1 in
    --layer) layer=${2-}; shift ;;
    --suite) suite=${2-}; shift ;;
    --mirror) mirror=${2-}; shift ;;
    --work) work=${2-}; shift ;;
    --dry-run) dry=yes ;;
    -h | --help) usage; exit 0 ;;
    -*) die "no flag $1; valid: --layer, --suite, --mirror, --work, --dry-run, --help" ;;
    *) [ -z "$image" ] || die "one image is made: got $image and $1"; image=$1 ;;
  esac
  shift || die "the last flag needs a value"
done
[ -n "$image" ] || die "the image's name is missing: bash containers/rootfs.sh trimode-cpu.sqsh"
case $layer in base | worker | test) ;; *) die "layers are base, worker and test: got '$layer'" ;; esac

# shellcheck disable=SC2016 # the variables are expanded when the commands run
plan() { # the commands, one a line; $PYTHON, $WORK and $IMAGE stand in the environment
  local debian locks=(build "$layer") lock torch
  debian="debootstrap --variant=minbase --include=$(paste -sd, "$ROOT/containers/apt-cpu.txt") $suite \"\$WORK/root\"${mirror:+ $mirror}"
  # debootstrap leaves its folder as the last thing it removes
  echo "[ -x \"\$WORK/root/usr/bin/python3\" ] && [ ! -e \"\$WORK/root/debootstrap\" ] || $debian"
  echo 'same_python'
  echo 'rm -rf "$WORK/wheels"; mkdir "$WORK/wheels"' # those of an earlier run may be of another layer
  echo '"$PYTHON" -m venv --clear "$WORK/loader"'
  echo "\"\$WORK/loader/bin/pip\" install -q --no-deps --require-hashes -r $LOCKS/build.txt"
  for lock in "${locks[@]}"; do # pip checks the hashes of what it loads; packages without a wheel are built here
    echo "\"\$WORK/loader/bin/pip\" wheel -q --no-deps --no-build-isolation --require-hashes -r $LOCKS/$lock.txt -w \"\$WORK/wheels\""
  done
  if [ "$layer" != base ]; then
    torch=$(sed -n 's/^torch==\([^ ]*\).*/\1/p' "$LOCKS/torch.txt")
    echo "\"\$WORK/loader/bin/pip\" download -q --no-deps \$(torch_source) torch==$torch+cpu -d \"\$WORK/wheels\""
  fi
  if [ "$layer" = test ]; then
    echo "awk '/^[^ ]/ { wanted = /^triton==/ } wanted' $LOCKS/torch.txt >\"\$WORK/triton.txt\""
    echo '"$WORK/loader/bin/pip" download -q --no-deps --require-hashes -r "$WORK/triton.txt" -d "$WORK/wheels"'
  fi
  echo "chroot \"\$WORK/root\" python3 -m venv --clear $VENV"
  echo 'rm -rf "$WORK/root/wheels"; cp -al "$WORK/wheels" "$WORK/root/wheels"'
  echo "chroot \"\$WORK/root\" sh -c '$VENV/bin/pip install -q --no-index --no-deps /wheels/*.whl'"
  echo 'rm -r "$WORK/root/wheels"'
  # some container tools bring the host's PATH, others take the image's: python3 is the same one in both
  echo "install -m 755 $ROOT/containers/python3.sh \"\$WORK/root/usr/local/bin/python3\""
  echo "echo PATH=$VENV/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin >\"\$WORK/root/etc/environment\""
  # device nodes cannot be unpacked by ordinary users
  echo 'mksquashfs "$WORK/root" "$IMAGE.new" -quiet -no-progress -noappend -comp zstd -wildcards -e "dev/*" "proc/*" "sys/*"' \
    '"tmp/*" "var/cache/apt/*" "var/lib/apt/lists/*" "var/log/*" "usr/share/doc/*" "usr/share/man/*" "usr/share/locale/*"'
  echo 'mv "$IMAGE.new" "$IMAGE"'
}
version_of() { "$@" -c 'import sys; print("%d.%d" % sys.version_info[:2])'; }
same_python() { # wheels are chosen for the Python that loads them
  local inside outside
  inside=$(version_of chroot "$WORK/root" python3) outside=$(version_of "$PYTHON")
  [ "$inside" = "$outside" ] || die "the image has Python $inside, but $PYTHON is $outside: set PYTHON=/path/to/python$inside"
}
torch_source() {
  local configured; configured=$("$WORK/loader/bin/pip" config list)
  grep -qE "index-url|find-links" <<<"$configured" || echo "--index-url $CPU_WHEELS"
}

if [ "$dry" ]; then plan; exit 0; fi
[ "$(id -u)" -eq 0 ] || die "debootstrap and chroot need root"
for tool in debootstrap:debootstrap mksquashfs:squashfs-tools; do
  command -v "${tool%:*}" >/dev/null || die "${tool%:*} is not installed; on Debian and Ubuntu: apt install ${tool#*:}"
done
PYTHON=${PYTHON:-$(command -v python3)} || die "python3 is not installed"
IMAGE=$(realpath -m "$image")
if [ -n "$work" ]; then
  WORK=$(realpath -m "$work")
else
  WORK=$(mktemp -d)
  trap 'rm -rf "$WORK"' EXIT
fi
mkdir -p "$WORK" "$(dirname "$IMAGE")"
chmod 755 "$WORK" # mktemp's 0700 would become the mode of the image's root
while IFS= read -r -u 3 command; do # on 3, so that no command reads the list as its input
  echo "+ $command" >&2
  eval "$command" </dev/null
done 3< <(plan)
echo "$IMAGE: $(du -h --apparent-size "$IMAGE" | cut -f1) ($(du -sh --apparent-size "$WORK/root" | cut -f1) unpacked)"
