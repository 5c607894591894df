#!/usr/bin/env bash
# Ends what cluster_up.sh STATE_DIR has started, jobs first, and nothing else: cluster_down.sh STATE_DIR
set -uo pipefail
S=$(realpath -m "$1")
export SLURM_CONF=$S/etc/slurm.conf

living() { grep -q '^State:[[:space:]]*[^ZX[:space:]]' "/proc/$1/status" 2>/dev/null; }
stop() { # by pid file
  local pid
  pid=$(cat "$1" 2>/dev/null) && living "$pid" || return 0
  kill "$pid"
  for _ in $(seq 50); do living "$pid" || return 0; sleep 0.1; done
  kill -KILL "$pid"
}

for job in $(timeout 5 squeue -h -o %A 2>/dev/null | sort -u); do timeout 5 scancel -f "$job"; done
for _ in $(seq 250); do [ -z "$(timeout 5 squeue -h 2>/dev/null)" ] && break; sleep 0.1; done
for file in "$S"/run/slurmd.*.pid "$S/run/slurmctld.pid" "$S/munge/pid"; do stop "$file"; done
for status in /proc/[0-9]*; do # step daemons of this cluster that are still there
  { tr '\0' ' ' <"$status/cmdline" | grep -q '^slurmstepd: ' &&
    tr '\0' '\n' <"$status/environ" | grep -qx "SLURM_CONF=$SLURM_CONF" && kill -KILL "${status#/proc/}"; } 2>/dev/null
done
exit 0
