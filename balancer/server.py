"""The life of one balancer process: socket, Ray, workers, HTTP, ready file, and an end that leaves nothing behind."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import secrets
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from types import FrameType

import uvicorn
from trimode.balancer.actors.pool import WorkerPool
from trimode.balancer.actors.private_folder import PrivateFolder
from trimode.balancer.actors.ray_head import gcs_address, start_ray, stop_ray
from trimode.balancer.actors.ray_watch import wait_until_ray_ends
from trimode.balancer.actors.wire import Door, boot_id
from trimode.balancer.api.app import build_app
from trimode.balancer.api.connections import Connection
from trimode.balancer.api.guard import Visitors
from trimode.balancer.api.service import Service
from trimode.balancer.placement import Placement, place_workers
from trimode.balancer.settings import API_KEY, BalancerSettings, is_loopback, parse_settings
from trimode.balancer.work import StoppingError
from trimode.core.errors import ConfigError, Stopped, TrimodeError, WorkerError, guarded
from trimode.core.files import write_json_atomic
from trimode.core.processes import spare_collector

log = logging.getLogger("trimode.balancer")

CLOSE_S = 2
"""Seconds that open connections get at the end."""
COUNTERS_S = 2.0
"""Seconds that the workers get to say at the end what they have done."""
STUCK_S = 25.0
"""An orderly end that takes longer than this many seconds is cut short."""


class _SignalRecord:
    """Records signals whichever handler runs, since what a handler raises can get lost inside Ray."""

    def __init__(self) -> None:
        self._reading, writing = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.set_wakeup_fd(writing, warn_on_full_buffer=False)

    def stop_asked(self) -> bool:
        """True if SIGTERM or SIGINT has arrived since the last call."""
        try:
            return bool({signal.SIGTERM, signal.SIGINT} & set(os.read(self._reading, 4096)))
        except BlockingIOError:
            return False


class _QuietServer(uvicorn.Server):
    """uvicorn without its signal handling: this module handles signals."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leaves the signals alone."""
        yield


def main(argv: Sequence[str]) -> int:
    """Runs the server. Returns 0 (stopped), 1 (could not start or go on) or 2 (the user's error, on one line)."""
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s", stream=sys.stderr)
    log.setLevel(logging.INFO)
    return guarded(lambda: _run(argv), text=_one_line)


def _run(argv: Sequence[str]) -> int:
    settings = parse_settings(argv)
    os.environ.pop(API_KEY, None)  # workers have no use for it
    return run_server(settings, PrivateFolder.from_environment())


def _one_line(error: TrimodeError) -> str:
    return f"error: {' '.join(str(error).split())}"


def run_server(settings: BalancerSettings, folder: PrivateFolder) -> int:
    """Serves until SIGTERM or SIGINT; returns 0. Raises ConfigError or WorkerError when it cannot start or go on."""
    listener: socket.socket | None = None
    signals = _SignalRecord()
    try:
        _on_signals(_raise_stop)
        placement = place_workers(settings)
        listener = _listen(settings.host, settings.port)
        host = "127.0.0.1" if settings.num_nodes == 1 else settings.node_host
        num_workers = placement.num_workers
        start_ray(folder, num_cpus=num_workers, num_gpus=num_workers * placement.gpus_per_worker, host=host)
        if settings.join_file is not None:
            write_json_atomic(settings.join_file, {"address": gcs_address()})
        _on_signals(_raise_stop)  # Ray has installed its own
        if signals.stop_asked():
            raise Stopped(signal.SIGTERM)
        balancer = _Balancer(settings, listener, folder)
        asyncio.run(balancer.serve(placement))
    except (Stopped, SystemExit):
        log.info("stopped before it was ready")
    except WorkerError:
        if not signals.stop_asked():  # otherwise the signal is what broke the start
            raise
    finally:
        _on_signals(signal.SIG_IGN)
        threading.Thread(target=_cut_short, daemon=True).start()
        for file in (settings.ready_file, settings.join_file):
            if file is not None:
                file.unlink(missing_ok=True)
        if listener is not None:
            listener.close()
        stop_ray()
        folder.remove()
    return 0


class _Balancer:
    """The part that lives on the event loop."""

    def __init__(self, settings: BalancerSettings, listener: socket.socket, folder: PrivateFolder) -> None:
        self.settings = settings
        self.listener = listener
        self.folder = folder
        self.log_dir = settings.log_dir or folder.path / "workers"
        self.stop = asyncio.Event()
        self.fatal: str | None = None

    async def serve(self, placement: Placement) -> None:
        """Serves from the first worker's start to the last reply. WorkerError with the cause of an early end."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop.set)
        door = Door(str(self.folder.path), boot_id(), secrets.token_hex(32))
        pool = WorkerPool(self.settings, placement, self.log_dir, self._end, door)
        server = _QuietServer(self._uvicorn_config(pool))
        serving = asyncio.ensure_future(server.serve(sockets=[self.listener]))
        starting = asyncio.ensure_future(pool.start())
        stopping = asyncio.ensure_future(self.stop.wait())
        watching = asyncio.ensure_future(self._watch_ray())
        try:
            await asyncio.wait({starting, stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
            if starting.done():
                starting.result()  # raises the WorkerError that says why
                ready = pool.router.num_ready
                log.info("serving %s with %d worker%s", self._url(), ready, "" if ready == 1 else "s")
                spare_collector()
                self._write_ready(pool)
                pool.on_change = lambda: self._write_ready(pool)
                await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
                await self._drain(pool)
            if self.fatal is not None:
                raise WorkerError(self.fatal)
        finally:
            for task in (starting, stopping, watching):
                task.cancel()
            await pool.flush()
            await self._log_counters(pool)
            pool.router.stopping = True
            pool.router.fail_all(StoppingError())
            server.should_exit = True
            await asyncio.wait({serving})

    async def _drain(self, pool: WorkerPool) -> None:
        """Takes no more requests, and gives those that are here `grace_s` seconds. A second signal ends the wait."""
        router = pool.router
        router.stopping = True
        if self.fatal is not None or self.settings.grace_s <= 0 or not (router.queue or router.num_running):
            return
        num_requests = len(router.queue) + router.num_running
        log.info("stopping: %d requests get up to %g s to end", num_requests, self.settings.grace_s)
        self.stop.clear()
        ends = [asyncio.ensure_future(end) for end in (router.wait_until_idle(), self.stop.wait())]
        await asyncio.wait(ends, timeout=self.settings.grace_s, return_when=asyncio.FIRST_COMPLETED)
        for end in ends:
            end.cancel()

    async def _log_counters(self, pool: WorkerPool) -> None:
        """Logs what the workers have done, unless nothing can be asked any more."""
        if self.fatal is None and pool.infos:
            with contextlib.suppress(TimeoutError):
                workers = (await asyncio.wait_for(pool.stats(), COUNTERS_S))["workers"]
                log.info("workers at the end: %s", json.dumps({"url": self._url(), "workers": workers}))

    async def _watch_ray(self) -> None:
        cause = await wait_until_ray_ends(self.folder.path)
        log.error("%s", cause)  # now: what follows may hang and be cut short
        self._end(cause)

    def _end(self, cause: str) -> None:
        self.fatal = cause
        self.stop.set()

    def _uvicorn_config(self, pool: WorkerPool) -> uvicorn.Config:
        service = Service(
            router=pool.router,
            default_mode=self.settings.default_mode,
            max_body_bytes=self.settings.max_body_bytes,
            api_key=self.settings.api_key,
            request_log=self.settings.request_log,
            infos=lambda: pool.infos,
            stats=pool.stats,
            visitors=Visitors(
                loopback_only=is_loopback(self.settings.host),
                hosts=self.settings.allowed_hosts,
                origins=self.settings.allowed_origins,
            ),
        )
        return uvicorn.Config(
            build_app(service),
            http=Connection,
            ws="none",
            log_level="warning",
            access_log=False,
            lifespan="off",
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=75,
            timeout_graceful_shutdown=CLOSE_S,
        )

    def _url(self) -> str:
        host, port = self.listener.getsockname()[:2]
        shown = f"[{host}]" if ":" in host else host
        return f"http://{shown}:{port}"

    def _write_ready(self, pool: WorkerPool) -> None:
        if self.settings.ready_file is None:
            return
        workers = [info.to_json() for info in pool.infos]
        content = {"url": self._url(), "pid": os.getpid(), "workers": workers, "lost": pool.lost}
        write_json_atomic(self.settings.ready_file, content)


def _listen(host: str, port: int) -> socket.socket:
    """Takes the port before anything slow starts, so that no other process can get it meanwhile."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # asyncio turns Nagle's algorithm off only where the protocol is named; with it on, replies wait 40 ms for an ACK
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        shown = f"{host}:{port}"
        raise ConfigError(f"--port: got {shown}, which cannot be used ({error.strerror}); valid: a free port") from None
    return listener


def _on_signals(handler: Callable[[int, FrameType | None], object] | signal.Handlers) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, handler)


def _raise_stop(number: int, _frame: FrameType | None) -> None:
    raise Stopped(number)


def _cut_short() -> None:
    """Ends this process if its orderly end hangs. The reaper then ends what is left."""
    time.sleep(STUCK_S)
    os._exit(1)


if __name__ == "__main__":
    status = main(sys.argv[1:])
    logging.shutdown()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)  # everything is closed, and Ray's exit handlers would only wait
