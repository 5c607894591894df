#!/usr/bin/env bash
# Starts a private Slurm cluster on this machine, as any user: cluster_up.sh STATE_DIR PORT [LINE OF SLURM.CONF ...]
# Two nodes that claim 16 CPUs, 64 GB and 8 GPUs each (links to /dev/null); every socket on loopback; nothing in /etc is touched.
# Needs Debian's slurmctld slurmd slurm-client munge. Afterwards: export SLURM_CONF=STATE_DIR/etc/slurm.conf
set -euo pipefail
S=$(realpath -m "$1") PORT=$2 NODES="n1 n2" USER_NAME=$(id -un) HOST=$(hostname -s)
umask 022
mkdir -p "$S"/{etc,run,log,munge,state,dev} "$S"/spool/{n1,n2}

(umask 077; head -c 128 /dev/urandom >"$S/munge/key")
munged --socket="$S/munge/sock" --key-file="$S/munge/key" --pid-file="$S/munge/pid" \
  --log-file="$S/munge/log" --seed-file="$S/munge/seed" --num-threads=2

for i in 0 1 2 3 4 5 6 7; do ln -s /dev/null "$S/dev/nvidia$i"; done # a device file each, else a job sees no GPUs
echo "Name=gpu File=$S/dev/nvidia[0-7]" >"$S/etc/gres.conf"
echo "CgroupPlugin=cgroup/v1" >"$S/etc/cgroup.conf"
: >"$S/etc/plugstack.conf"
first_job=$(($(date +%s) / 4 % 60000000 + 1)) # ids never come again, so no test meets an older job's files

cat >"$S/etc/slurm.conf" <<CONF
ClusterName=test
SlurmctldHost=$HOST(127.0.0.1)
SlurmUser=$USER_NAME
SlurmdUser=$USER_NAME
SlurmctldPort=$((PORT + 1))
AuthType=auth/munge
CredType=cred/munge
AuthInfo=socket=$S/munge/sock
StateSaveLocation=$S/state
SlurmctldPidFile=$S/run/slurmctld.pid
SlurmctldLogFile=$S/log/slurmctld.log
SlurmdPidFile=$S/run/slurmd.%n.pid
SlurmdLogFile=$S/log/slurmd.%n.log
SlurmdSpoolDir=$S/spool/%n
SlurmdParameters=config_overrides
CommunicationParameters=NoCtldInAddrAny,NoInAddrAny
PlugStackConfig=$S/etc/plugstack.conf
MpiDefault=none
SwitchType=switch/none
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
GresTypes=gpu
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SchedulerType=sched/backfill
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0,sched_min_interval=0
ReturnToService=2
FirstJobId=$first_job
EnforcePartLimits=ALL
KillWait=20
CompleteWait=0
MessageTimeout=10
TCPTimeout=5
PropagateResourceLimits=NONE
NodeName=n1 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 11)) CPUs=16 CoresPerSocket=16 RealMemory=65536 Gres=gpu:8 State=UNKNOWN
NodeName=n2 NodeHostname=$HOST NodeAddr=127.0.0.1 Port=$((PORT + 12)) CPUs=16 CoresPerSocket=16 RealMemory=65536 Gres=gpu:8 State=UNKNOWN
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
PartitionName=main Nodes=n[1-2] Default=YES MaxTime=INFINITE DefaultTime=60 State=UP OverSubscribe=NO GraceTime=60
PartitionName=urgent Nodes=n2 PriorityTier=10 MaxTime=INFINITE DefaultTime=60 State=UP OverSubscribe=NO
CONF
[ $# -le 2 ] || printf '%s\n' "${@:3}" >>"$S/etc/slurm.conf"

export SLURM_CONF=$S/etc/slurm.conf
cd "$S"
setsid slurmctld </dev/null >/dev/null 2>&1
for node in $NODES; do setsid slurmd -N "$node" </dev/null >/dev/null 2>&1; done
for _ in $(seq 150); do
  [ "$(timeout 5 sinfo -h -N -p main -o %t 2>/dev/null | grep -c idle)" -eq 2 ] && exit 0
  sleep 0.2
done
echo "the cluster did not come up; see $S/log" >&2
tail -n 20 "$S"/log/*.log >&2
exit 1
