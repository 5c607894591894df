"""Counters, gauges and histograms for Prometheus: of the replies, of the balancer, and of each worker's engine."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from trimode.balancer.work import Reply

SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0)
"""Bounds of the histograms of waits and of whole replies."""
TOKEN_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5)
"""Bounds of the histogram of seconds per token."""
LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 64)
"""Bounds of the histogram of tokens per verify."""
STATES = ("waiting", "running")
ENDED = ("finished", "failed", "cancelled", "rejected", "retried")
ENGINE_GAUGES = {
    "pages_total": "Pages of the KV cache.",
    "pages_free": "Pages of the KV cache that no request holds.",
    "pages_shared": "Pages kept for later prompts that begin alike.",
    "running": "Requests that are being decoded.",
    "waiting": "Requests in the worker that have no slot yet.",
    "tpf": "Tokens per forward (NFE) of finished requests.",
    "regret": "auto: what the best fixed width would have given beyond what was generated, as a share (estimate).",
    "acceptance_length": "Tokens emitted per verify.",
}
ENGINE_COUNTERS = {
    "steps": "Forwards of the model over whole batches.",
    "step_tokens": "Tokens run through the model.",
    "tokens_generated": "Tokens of finished requests.",
    "nfe": "Function evaluations of finished requests, as the reference counts them.",
    "accepted": "Tokens emitted by verifies.",
    "cycles": "Verifies.",
    "dropped_rows": "Forwards launched ahead for requests that had ended.",
    "model_s": "Seconds in forward and sampling.",
    "host_s": "Seconds of the steps outside of forward and sampling.",
}


class Metrics:
    """What has been counted since the start."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        mode = ["mode"]
        self._replies = self._counter("replies", "Replies by mode and reason of their end.", [*mode, "finish_reason"])
        self._prompt_tokens = self._counter("prompt_tokens", "Tokens of prompts.", mode)
        self._tokens = self._counter("generated_tokens", "Generated tokens.", mode)
        self._nfe = self._counter("nfe", "Function evaluations of replies.", mode)
        self._forwards = self._counter("forwards", "Forwards that replies needed, by kind.", [*mode, "kind"])
        self._acceptance = self._histogram("acceptance_length", "Tokens emitted per verify.", LENGTHS)
        self._queue = self._histogram("queue_seconds", "Seconds until the first forward.", SECONDS)
        self._first = self._histogram("time_to_first_token_seconds", "Seconds until the first token.", SECONDS)
        self._total = self._histogram("reply_seconds", "Seconds of whole replies.", SECONDS)
        self._between = self._histogram(
            "inter_token_seconds", "Mean seconds between the tokens of a reply.", TOKEN_SECONDS
        )
        self._http = self._counter("http_responses", "HTTP responses by path and status.", ["path", "status"])

    def _counter(self, name: str, text: str, labels: Sequence[str]) -> Callable[..., Counter]:
        """Returns what gives the counter of some labels. It is asked for each reply, and the library looks long."""
        return functools.cache(Counter(f"trimode_{name}", text, labels, registry=self._registry).labels)

    def _histogram(self, name: str, text: str, bounds: Sequence[float]) -> Callable[..., Histogram]:
        """Returns what gives the histogram of a mode."""
        metric = Histogram(f"trimode_{name}", text, ["mode"], registry=self._registry, buckets=bounds)
        return functools.cache(metric.labels)

    def add_replies(self, mode: str, replies: Sequence[Reply]) -> None:
        """Counts the replies to one request."""
        for reply in replies:
            generation, cost, waited = reply.generation, reply.generation.cost, reply.waited_s
            self._replies(mode, generation.finish_reason).inc()
            self._prompt_tokens(mode).inc(cost.prompt_tokens)
            self._tokens(mode).inc(cost.completion_tokens)
            self._nfe(mode).inc(cost.nfe or 0)
            for kind, count in cost.forwards.items():
                if count:
                    self._forwards(mode, kind).inc(count)
            for length in cost.acceptance_lengths:
                self._acceptance(mode).observe(length)
            self._queue(mode).observe(waited + cost.queue_s)
            self._first(mode).observe(waited + cost.first_token_s)
            self._total(mode).observe(waited + cost.total_s)
            if cost.completion_tokens > 1:
                self._between(mode).observe((cost.total_s - cost.first_token_s) / (cost.completion_tokens - 1))

    def add_response(self, path: str, status: int) -> None:
        """Counts one HTTP response."""
        self._http(path, str(status)).inc()

    def text(self, stats: Mapping[str, Any]) -> bytes:
        """Returns everything in Prometheus' text format. `stats` is what /stats says of balancer and workers."""
        now = CollectorRegistry()
        now.register(_Snapshot(stats))
        return generate_latest(self._registry) + generate_latest(now)


class CountResponses:
    """Counts the responses of known paths; all others together, so that nobody can fill the memory with names."""

    def __init__(self, app: ASGIApp, metrics: Metrics, paths: frozenset[str]) -> None:
        self._app = app
        self._metrics = metrics
        self._paths = paths

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Handles one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        path = scope["path"] if scope["path"] in self._paths else "other"

        async def counted(message: Message) -> None:
            if message["type"] == "http.response.start":
                self._metrics.add_response(path, message["status"])
            await send(message)

        await self._app(scope, receive, counted)


class _Snapshot(Collector):
    """What balancer and workers say of themselves at this moment."""

    def __init__(self, stats: Mapping[str, Any]) -> None:
        self._balancer: Mapping[str, Any] = stats.get("balancer", {})
        self._workers: Sequence[Mapping[str, Any]] = stats.get("workers", ())

    def collect(self) -> Iterator[Metric]:
        """Yields one family after another."""
        now = GaugeMetricFamily("trimode_requests", "Requests in the balancer by state.", labels=["state"])
        ended = CounterMetricFamily("trimode_requests_ended", "Requests by what became of them.", labels=["state"])
        for state in STATES:
            now.add_metric([state], self._balancer.get(state, 0))
        for state in ENDED:
            ended.add_metric([state], self._balancer.get(state, 0))
        restarts = CounterMetricFamily("trimode_worker_restarts", "Workers that were started again.")
        restarts.add_metric([], self._balancer.get("restarts", 0))
        yield from (now, ended, restarts)
        ready = GaugeMetricFamily("trimode_worker_ready", "1 for a worker that can take requests.", labels=["worker"])
        load = GaugeMetricFamily("trimode_worker_outstanding_tokens", "Estimated tokens to come.", labels=["worker"])
        deaths = CounterMetricFamily("trimode_worker_deaths", "Deaths of the worker.", labels=["worker"])
        for worker in self._workers:
            index = [str(worker["index"])]
            ready.add_metric(index, int(worker["ready"]))
            load.add_metric(index, worker["outstanding_tokens"])
            deaths.add_metric(index, worker["deaths"])
        yield from (ready, load, deaths)
        yield from self._engines()

    def _engines(self) -> Iterator[Metric]:
        engines = [(str(worker["index"]), worker["engine"]) for worker in self._workers if worker["engine"]]
        rows = CounterMetricFamily("trimode_engine_rows", "Forwards of requests by kind.", labels=["worker", "kind"])
        for index, engine in engines:
            for kind, count in engine["rows"].items():
                rows.add_metric([index, kind], count)
        widths = CounterMetricFamily(
            "trimode_engine_cycles_by_width", "Cycles of finished requests of auto.", labels=["worker", "width"]
        )
        for index, engine in engines:
            for width, count in engine.get("widths", {}).items():
                widths.add_metric([index, width], count)
        yield from (rows, widths)
        for kinds, family in ((ENGINE_GAUGES, GaugeMetricFamily), (ENGINE_COUNTERS, CounterMetricFamily)):
            for name, text in kinds.items():
                unit = f"{name.removesuffix('_s')}_seconds" if name.endswith("_s") else name
                shown = family(f"trimode_engine_{unit}", text, labels=["worker"])
                for index, engine in engines:
                    if engine.get(name) is not None:
                        shown.add_metric([index], engine[name])
                yield shown
