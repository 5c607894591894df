"""The balancer's command line: its flags, and their checks before anything starts."""

from __future__ import annotations

import argparse
import ipaddress
import math
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

from trimode.core.errors import ConfigError
from trimode.core.model_flags import add_model_flags
from trimode.core.protocol import Mode, WorkerSettings

API_KEY = "TRIMODE_API_KEY"
"""Environment variable with the bearer key. A file named by --api-key-file comes before it."""
DEFAULT_WORKER_CLASS = "trimode.workers.worker:Worker"


@dataclass(frozen=True, slots=True, kw_only=True)
class BalancerSettings:
    """Everything a balancer process needs to start."""

    worker: WorkerSettings
    """The same for every worker; device and num_threads are filled in when the devices are known."""
    worker_class: str = DEFAULT_WORKER_CLASS
    """`package.module:Class` of a core.worker.Worker that takes a WorkerSettings."""
    num_workers: int | None = None
    """On each node; None = one per visible GPU, else 1."""
    num_nodes: int = 1
    """Machines whose devices serve, this one among them; each further one runs `balancer.join`."""
    node_host: str | None = None
    """Address of this machine that the other nodes see; None leaves the choice to Ray."""
    join_file: Path | None = None
    """Where the further nodes read the address of this server's Ray."""
    host: str = "127.0.0.1"
    port: int = 0
    """0 = a free port chosen by the kernel."""
    ready_file: Path | None = None
    """Written once every worker is ready and the server listens."""
    log_dir: Path | None = None
    """Worker logs go here; None = a folder that is removed at the end."""
    log_prefix: str = ""
    """Put before `worker_<i>.log`."""
    default_mode: Mode = Mode.ar
    """Mode of a request that names none."""
    max_in_flight: int = 0
    """Requests given to one worker at a time; 0 = a quarter more than it decodes together, so that none of its slots
    waits for the balancer."""
    max_queue: int = 4096
    """Requests that may wait for a worker; the next one is answered 429."""
    max_worker_deaths: int = 5
    """Deaths of one worker in a row, while it starts or has no request, that end the balancer."""
    start_timeout_s: float = 1800.0
    """Seconds in which a worker must be ready before it is ended and started again; 0 = any time."""
    hang_timeout_s: float = 600.0
    """Seconds that a worker with requests may take for a step before it is replaced; 0 = any time."""
    grace_s: float = 30.0
    """Seconds that running and waiting requests get to end once the server is told to stop."""
    max_body_bytes: int = 16 * 2**20
    """Longest body of one request."""
    api_key: str | None = field(default=None, repr=False)
    """Bearer key that every request but those to /health must carry."""
    allowed_hosts: frozenset[str] = frozenset()
    """Names beside localhost that a Host header may have; checked only on loopback."""
    allowed_origins: frozenset[str] = frozenset()
    """Origins of web pages that may ask, beside the server's own."""
    request_log: Path | None = None
    """One JSON line per answered request is appended here."""

    @property
    def in_flight_limit(self) -> int:
        """Requests given to one worker at a time, resolved."""
        slots = self.worker.max_num_seqs
        return self.max_in_flight or slots + max(1, slots // 4)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}; all flags: --help")


def build_parser() -> argparse.ArgumentParser:
    """The command line of `python -m trimode.balancer`."""
    show = argparse.ArgumentDefaultsHelpFormatter
    parser = _Parser(
        prog="python -m trimode.balancer",
        description="OpenAI-compatible HTTP server in front of one worker per device.",
        formatter_class=show,
        allow_abbrev=False,
    )
    model = parser.add_argument_group("model")
    add_model_flags(model)
    model.add_argument("--revision", help="commit, branch or tag of a hub id; main when absent")
    model.add_argument("--lora", help="adapter folder for linear_spec and auto")
    model.add_argument("--served-model-name", help="name in /v1/models; the folder's name when absent")
    model.add_argument("--max-position-embeddings", type=int, help="overrides the checkpoint's context limit")
    workers = parser.add_argument_group("workers")
    workers.add_argument("--num-workers", type=int, help="on each node; one per visible GPU, else 1, when absent")
    workers.add_argument("--num-nodes", type=int, default=1, help="machines; further ones run trimode.balancer.join")
    workers.add_argument("--node-host", help="address of this machine that the other nodes see")
    workers.add_argument("--join-file", type=Path, help="file in which the other nodes find this server")
    workers.add_argument("--device", default="auto", choices=["auto", "cpu", "cuda"])
    workers.add_argument("--max-num-seqs", type=int, default=32, help="requests decoded together by one worker")
    workers.add_argument("--kv-cache-gb", type=float, help="KV cache of one worker in GiB")
    workers.add_argument(
        "--num-threads", type=int, help="CPU threads of one worker; when absent a fair share, and one for a small model"
    )
    workers.add_argument(
        "--journal",
        type=Path,
        metavar="DIR",
        help="folder in which running requests are written down, so that they go on after a death; off when absent",
    )
    workers.add_argument("--worker-class", default=DEFAULT_WORKER_CLASS, metavar="MODULE:CLASS")
    workers.add_argument(
        "--max-worker-deaths", type=int, default=5, help="deaths in a row of an idle worker that end it"
    )
    workers.add_argument("--start-timeout", type=float, default=1800.0, help="seconds to become ready; 0 = any")
    workers.add_argument("--hang-timeout", type=float, default=600.0, help="seconds for a step; 0 = any")
    server = parser.add_argument_group("server")
    server.add_argument("--host", default="127.0.0.1")
    server.add_argument("--port", type=int, default=0, help="0 picks a free one")
    modes = [mode.value for mode in Mode]
    server.add_argument("--default-mode", "--mode", default="ar", choices=modes, help="of requests that name none")
    server.add_argument("--max-in-flight", type=int, default=0, help="per worker; 0 = max-num-seqs and a quarter more")
    server.add_argument("--max-queue", type=int, default=4096, help="waiting requests; one more is answered 429")
    server.add_argument(
        "--api-key-file", type=Path, help=f"file with the bearer key, else ${API_KEY}; needed beyond loopback"
    )
    server.add_argument("--allow-origin", action="append", help="origin of web pages that may ask; may be repeated")
    server.add_argument("--allow-host", action="append", help="further name in Host headers on loopback; repeatable")
    server.add_argument("--request-log", type=Path, help="append one JSON line per answered request")
    process = parser.add_argument_group("process")
    process.add_argument(
        "--grace", type=float, default=30.0, help="seconds that requests get to end after SIGTERM; 0 = none"
    )
    process.add_argument("--ready-file", type=Path, help="written as JSON {url, pid, workers} when serving")
    process.add_argument("--log-dir", type=Path, help="folder of the worker logs")
    process.add_argument("--log-prefix", default="", help="put before worker_<i>.log")
    return parser


def parse_settings(argv: Sequence[str]) -> BalancerSettings:
    """Settings from the command line, paths made absolute; ConfigError names the flag, what came and what is valid."""
    args = build_parser().parse_args(argv)
    for flag in (
        "num_workers",
        "num_nodes",
        "max_num_seqs",
        "max_queue",
        "max_worker_deaths",
        "num_threads",
        "kv_cache_gb",
    ):
        value = getattr(args, flag)
        if value is not None and value <= 0:
            raise ConfigError(f"--{flag.replace('_', '-')}: got {value}; valid: a number above 0")
    if args.max_in_flight < 0:
        raise ConfigError(f"--max-in-flight: got {args.max_in_flight}; valid: 0 or more")
    for flag in ("grace", "start_timeout", "hang_timeout"):
        if not 0 <= (seconds := getattr(args, flag)) < math.inf:
            raise ConfigError(f"--{flag.replace('_', '-')}: got {seconds}; valid: seconds, 0 or more")
    if not 0 <= args.port <= 65535:
        raise ConfigError(f"--port: got {args.port}; valid: 0 to 65535")
    if args.num_nodes > 1 and args.join_file is None:
        raise ConfigError(f"--num-nodes: got {args.num_nodes} without --join-file; valid: with it, or 1")
    api_key = _read_api_key(args.api_key_file)
    if api_key is None and not is_loopback(args.host):
        raise ConfigError(
            f"--host: got {args.host}, which others can reach; valid: a loopback address such as 127.0.0.1, or a key "
            f"(--api-key-file FILE, or {API_KEY} in the environment)"
        )
    flags = vars(args)
    folders = {name: _absolute_if_path(flags[name]) for name in ("model", "lora", "tokenizer") if flags[name]}
    name = args.served_model_name or Path(args.model).name
    journal = None if args.journal is None else str(args.journal.absolute())
    own = {"served_model_name": name, "journal": journal, "journal_prefix": args.log_prefix}
    worker = WorkerSettings.from_flags({**flags, **folders, **own})
    return BalancerSettings(
        worker=worker,
        worker_class=args.worker_class,
        num_workers=args.num_workers,
        num_nodes=args.num_nodes,
        node_host=args.node_host,
        join_file=_absolute(args.join_file),
        host=args.host,
        port=args.port,
        ready_file=_absolute(args.ready_file),
        log_dir=_absolute(args.log_dir),
        log_prefix=args.log_prefix,
        default_mode=Mode(args.default_mode),
        max_in_flight=args.max_in_flight,
        max_queue=args.max_queue,
        start_timeout_s=args.start_timeout,
        hang_timeout_s=args.hang_timeout,
        grace_s=args.grace,
        max_worker_deaths=args.max_worker_deaths,
        api_key=api_key,
        allowed_hosts=frozenset(name.lower() for name in args.allow_host or ()),
        allowed_origins=frozenset(origin.rstrip("/") for origin in args.allow_origin or ()),
        request_log=_absolute(args.request_log),
    )


def is_loopback(host: str) -> bool:
    """True if only this machine can reach `host`."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.absolute()


def _absolute_if_path(name: str) -> str:
    """Makes an existing path absolute, since the process changes its folder later. Anything else is a hub id."""
    path = Path(name)
    return str(path.absolute()) if path.exists() else name


def _read_api_key(path: Path | None) -> str | None:
    """Returns the key in the file, else the one in the environment, else None."""
    source, key = f"--api-key-file: got {path}", ""
    if path is not None:
        try:
            key = path.read_text(encoding="utf-8").strip()
        except UnicodeDecodeError:
            raise ConfigError(f"{source}, which is no text; valid: a file holding one key") from None
        except OSError as error:
            raise ConfigError(f"{source}, which cannot be read ({error.strerror})") from error
        if not key:
            raise ConfigError(f"{source}, which is empty; valid: a file holding one key")
    elif os.environ.get(API_KEY):
        source, key = API_KEY, os.environ[API_KEY].strip()
    else:
        return None
    if not re.fullmatch(r"[!-~]+", key):
        raise ConfigError(
            f"{source}, whose key no header can carry; valid: letters, digits and signs of ASCII, no spaces"
        )
    return key
