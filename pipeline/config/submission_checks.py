"""Rules of what Slurm is asked for: forms of its options, and which settings exclude each other."""

from __future__ import annotations

import re
import unicodedata

from trimode.core.errors import ConfigError
from trimode.pipeline.config.schema import Backend, ClusterConfig, Config
from trimode.pipeline.spec import Container, Device, Executor, gpus_in_gres

SBATCH_OPTION = re.compile(r"[A-Za-z][A-Za-z0-9_-]*")
OWN_OPTIONS = {
    **dict.fromkeys(
        ("nodes", "N", "ntasks", "n", "ntasks-per-node", "ntasks-per-gpu", "no-kill", "k"),
        "is the job's own: it has one task on each node; valid: more nodes (cluster.nodes), more GPUs (cluster.gpus) "
        "or more jobs (--num-chunks)",
    ),
    **dict.fromkeys(
        (
            "array",
            "a",
            "output",
            "o",
            "error",
            "e",
            "open-mode",
            "signal",
            "wrap",
            "chdir",
            "D",
            "parsable",
            "wait",
            "W",
        ),
        "the batch script sets itself; valid: any other option of sbatch",
    ),
}
"""sbatch options that would break a job, and what is wrong with them."""

SETTINGS = {
    **dict.fromkeys(("time", "partition", "account", "qos", "constraint", "exclusive", "reservation", "gres"), ""),
    **dict.fromkeys(("mail-type", "mail-user", "comment", "dependency", "begin", "nice"), ""),
    "time": "time_limit",
    "cpus-per-task": "cpus_per_task",
    "mem": "mem_gb",
    "gpus-per-node": "gpus",
    **dict.fromkeys(("requeue", "no-requeue"), "max_requeues"),
}
"""sbatch options that have a setting of their own, and its name where it is another one."""
_NAME = r"[A-Za-z0-9_.@%+-]+"
FORMS = {
    "partition": (rf"{_NAME}(,{_NAME})*", "names with commas"),
    "qos": (rf"{_NAME}", "a name"),
    "constraint": (r"[A-Za-z0-9_.&|*:,()\[\] -]+", "names of features, joined with & or |, e.g. h100&ib"),
    "reservation": (rf"{_NAME}(,{_NAME})*", "names with commas"),
    "gres": (r"[A-Za-z0-9_./:=,()*-]+", "name[:type]:count with commas, e.g. gpu:h100:4"),
    "mail_user": (r"[^\s,]+(,[^\s,]+)*", "addresses with commas"),
    "dependency": (
        r"singleton|(after(any|ok|notok|corr|burstbuffer)?(:\d+(_(\d+|\*))?(\+\d+)?)+)"
        r"([,?]((after(any|ok|notok|corr|burstbuffer)?(:\d+(_(\d+|\*))?(\+\d+)?)+)|singleton))*",
        "afterok:ID, afterany:ID[:ID], afternotok:ID, aftercorr:ID or singleton, with commas",
    ),
    "begin": (
        r"now(\+\d+(seconds?|minutes?|hours?|days?|weeks?)?)?|[A-Za-z0-9:+./-]+",
        "now+1hour, HH:MM, or YYYY-MM-DD[THH:MM]",
    ),
}
"""Settings of a cluster that are text: a pattern of the whole text, and how to say it."""
MAIL_TYPES = (
    *("NONE", "BEGIN", "END", "FAIL", "REQUEUE", "ALL", "INVALID_DEPEND", "STAGE_OUT"),
    *("TIME_LIMIT", "TIME_LIMIT_90", "TIME_LIMIT_80", "TIME_LIMIT_50", "ARRAY_TASKS"),
)
MODULE = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_./+-]*")
MOST_NICE = 2147483645
FOR_SLURM = (
    "qos",
    "constraint",
    "exclusive",
    "reservation",
    "gres",
    "mail_type",
    "mail_user",
    "comment",
    "dependency",
    "begin",
    "nice",
    "array_throttle",
    "sbatch",
    "srun",
    "modules",
)
"""Settings that jobs on this machine have not."""


def check_submission(config: Config) -> None:
    """Checks every setting that goes to Slurm. Raises ConfigError for the first rule that is broken."""
    cluster = config.cluster
    for name, value in (("cpus_per_task", cluster.cpus_per_task), ("mem_gb", cluster.mem_gb)):
        at_least(f"cluster.{name}", value, 1)
    at_least("cluster.array_throttle", cluster.array_throttle, 1)
    at_least("cluster.max_requeues", cluster.max_requeues, 0)
    _check_nodes(config)
    if cluster.executor is Executor.local:
        if given := [name for name in FOR_SLURM if getattr(cluster, name)]:
            raise ConfigError(
                f"cluster.{given[0]}: got {getattr(cluster, given[0])!r}, which jobs on this machine have none of; "
                "valid: with a SLURM cluster"
            )
        return
    _check_forms(cluster)
    _check_options(cluster)
    _check_gres(config)
    if cluster.nice is not None and abs(cluster.nice) > MOST_NICE:
        raise ConfigError(f"cluster.nice: got {cluster.nice}; valid: from -{MOST_NICE} up to {MOST_NICE}")
    for module in cluster.modules:
        if not MODULE.fullmatch(module):
            raise ConfigError(f"cluster.modules: got {module!r}; valid: names such as cuda/13")
    for argument in cluster.srun:
        if not argument.startswith("-"):
            raise ConfigError(
                f"cluster.srun: got {argument!r}; valid: options with their dashes, --name or --name=value"
            )
        if cluster.container is Container.pyxis and argument.startswith("--container-"):
            raise ConfigError(
                f"cluster.srun: got {argument!r}, which the settings of the container give already; valid: "
                "cluster.container_image, container_mounts and container_python"
            )


def _check_nodes(config: Config) -> None:
    """Checks that several nodes are asked for only where a job can use them."""
    nodes = config.cluster.nodes
    at_least("cluster.nodes", nodes, 1)
    if nodes > 1 and config.cluster.executor is Executor.local:
        raise ConfigError(f"cluster.nodes: got {nodes} for a job on this machine; valid: 1, or a SLURM cluster")
    if nodes > 1 and config.balancer.backend is Backend.openai:
        raise ConfigError(f"cluster.nodes: got {nodes} for a job that asks a running server; valid: 1")


def _check_forms(cluster: ClusterConfig) -> None:
    """Checks the form of each text that Slurm reads."""
    for name, (pattern, valid) in FORMS.items():
        text = getattr(cluster, name)
        if text and not re.fullmatch(pattern, text):
            raise ConfigError(f"cluster.{name}: got {text!r}; valid: {valid}")
    for kind in (cluster.mail_type or "").split(",") if cluster.mail_type else ():
        if kind.upper() not in MAIL_TYPES:
            raise ConfigError(f"cluster.mail_type: got {kind!r}; valid: {', '.join(MAIL_TYPES)}, with commas")
    if cluster.mail_user and not cluster.mail_type:
        raise ConfigError(
            f"cluster.mail_user: got {cluster.mail_user}, but no mail is asked for; valid: with cluster.mail_type "
            "(--mail-type END,FAIL)"
        )


def _check_options(cluster: ClusterConfig) -> None:
    """Checks the free sbatch options: their names, and that no setting says the same."""
    for name, value in cluster.sbatch.items():
        if not SBATCH_OPTION.fullmatch(name):
            raise ConfigError(f"cluster.sbatch: got the option {name!r}; valid: letters, digits, _ -")
        option = name.replace("_", "-")
        if option in OWN_OPTIONS:
            raise ConfigError(f"cluster.sbatch: got the option {name!r}, which {OWN_OPTIONS[option]}")
        if len(option) == 1:
            raise ConfigError(f"cluster.sbatch: got the option {name!r}; valid: its long name")
        if not isinstance(value, str | int | float | bool | None):
            raise ConfigError(f"cluster.sbatch.{name}: got {value!r}; valid: text, a number, or true for a switch")
        if option in SETTINGS and value is not None and value is not False:
            setting = SETTINGS[option] or option.replace("-", "_")
            also = getattr(cluster, setting)
            if also is not None and also is not False:
                raise ConfigError(
                    f"sbatch's --{option} is given once: got {value!r} in cluster.sbatch and {also!r} in "
                    f"cluster.{setting}; valid: cluster.{setting} alone"
                )


def _check_gres(config: Config) -> None:
    """Checks that gres asks for the GPUs that the workers get."""
    cluster = config.cluster
    count = gpus_in_gres(str(cluster.gres or cluster.sbatch.get("gres") or ""))
    if count is None:
        return
    if config.balancer.device is Device.cpu:
        raise ConfigError(f"cluster.gres: got {count} GPUs for a job on the CPU; valid: no gpu in it, or --device cuda")
    if cluster.gpus is not None and count != cluster.gpus:
        raise ConfigError(
            f"cluster.gres asks for {count} GPUs and cluster.gpus for {cluster.gpus}; valid: the same number "
            f"(--gpus {count})"
        )


def stays_in_its_line(name: str, text: str) -> None:
    """Checks a text that a batch script holds: with a line break it could become a line of its own."""
    if any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text):
        raise ConfigError(
            f"{name} stands in one line of a batch script: got {text!r}; valid: no line breaks or control characters"
        )


def at_least(name: str, value: int | None, lowest: int) -> None:
    """Checks a whole number, which may be absent."""
    if value is not None and value < lowest:
        raise ConfigError(f"{name}: got {value}; valid: a whole number from {lowest}")
