"""Asks the balancer, or another server, over HTTP with bounded retries: one user message in, one answer out.

The balancer gets exactly the body of NeMo-Skills' vllm client plus flat fields for the mode; `server_body` says what
another server gets. No answer is lost silently: a sample that got none comes back as an Answer with `error`.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
import time
from dataclasses import dataclass, replace
from types import TracebackType

import httpx
from trimode.core.errors import WorkerError
from trimode.core.protocol import NO_COST, Cost
from trimode.pipeline.client.answer import REQUEST, Answer, mode_fields
from trimode.pipeline.client.server_body import server_body
from trimode.pipeline.run_folder.rows import INFRASTRUCTURE
from trimode.pipeline.server.address import NO_KEY, headers, is_loopback
from trimode.pipeline.server.errors import FATAL, error_message, explain_status, explain_transport
from trimode.pipeline.spec import ClientSpec, DecodeSpec

RETRIED_STATUSES = frozenset({408, 425, 429})
"""Retried besides every 5xx."""
LATER_STATUSES = frozenset({402, 403})
"""No balance, or no right, at a server: not tried again now, but when the command is repeated."""
REQUESTS_PER_SLOT = 2
"""Requests under way per slot of a worker: one that is decoded, and one that takes its place."""
CONNECTIONS_PER_POOL = 32
"""httpx scans every connection of a pool for each request, so many small pools are cheaper than a large one."""


@dataclass(frozen=True, slots=True)
class RetryPolicy:
    """How often and how soon a failed attempt is repeated: exponential back-off with jitter."""

    attempts: int = 8
    timeouts: int = 2
    """Attempts that may each run into the request timeout."""
    refused_as_busy: int = 60
    """Attempts that may each be answered 429, beside the others: a rate limit is no fault."""
    first_delay_s: float = 0.5
    longest_delay_s: float = 30.0

    def delay_s(self, failures: int) -> float:
        """Returns the seconds to wait after the given number of failed attempts (>= 1)."""
        ceiling = min(self.longest_delay_s, self.first_delay_s * 2.0 ** (failures - 1))
        return ceiling * (0.5 + random.random() / 2)  # noqa: S311 - jitter, not a secret


def most_at_once(client: ClientSpec, slots: int) -> int:
    """Returns how many requests may be under way: enough to keep every slot busy, and no long queue.

    The request timeout counts from the moment a request is sent, so a request must not wait for many others.
    """
    return min(client.max_concurrent_requests, REQUESTS_PER_SLOT * slots)


def request_body(decode: DecodeSpec, model: str, prompt: str, seed: int) -> dict[str, object]:
    """Returns the JSON body of one sample: the fields of NeMo-Skills first and in its order, ours after them."""
    body: dict[str, object] = {
        "messages": [{"role": "user", "content": prompt}],
        "model": model,
        "frequency_penalty": 0.0,
        "logprobs": False,
        "max_tokens": decode.max_new_tokens,
        "n": 1,
        "presence_penalty": 0.0,
        "seed": seed,
        "temperature": decode.temperature,
        "top_p": decode.top_p,
        "min_p": 0.0,
        "repetition_penalty": 1.0,
        "spaces_between_special_tokens": False,
        "chat_template_kwargs": {"enable_thinking": decode.enable_thinking},
    }
    if decode.enable_thinking:
        body["separate_reasoning"] = False  # the thoughts stay in the answer's text, where the scorers look for its end
    return body | mode_fields(decode)


@dataclass(frozen=True, slots=True)
class _Attempt:
    """The outcome of one attempt."""

    answer: Answer
    wait_s: float = 0.0
    """Seconds the server asks to wait before the next."""
    timed_out: bool = False
    busy: bool = False
    """The server takes no more now (429)."""
    hopeless: bool = False
    """The server says that asking again now cannot help: the request has brought down more than one worker."""

    @property
    def is_last(self) -> bool:
        """True if there is nothing to try again: an answer, a refusal, or a server that rules out retries."""
        return self.hopeless or self.answer.error_kind != INFRASTRUCTURE


class ChatClient:
    """One HTTP client for a whole job, used as an async context manager; `ask` may run many times at once."""

    def __init__(
        self,
        url: str,
        model: str,
        decode: DecodeSpec,
        client: ClientSpec,
        retry: RetryPolicy | None = None,
        slots: int | None = None,
        api_key: str = NO_KEY,
    ) -> None:
        """`slots`: requests that the workers decode at the same time; None = as many as the client may send."""
        self._server = client.server
        base = f"{url.rstrip('/')}/v1" if client.server is None else client.server.url
        self._url = base
        self._endpoint = f"{base}/chat/completions"
        self._timeout_s = client.request_timeout_s
        self._model = model
        self._decode = decode
        self._retry = retry or RetryPolicy()
        at_once = client.max_concurrent_requests if slots is None else most_at_once(client, slots)
        self._turns = asyncio.Semaphore(at_once)
        # A request may have to wait until one that is being decoded has ended, which has the same time for itself.
        rounds = 1 if slots is None else math.ceil(at_once / slots)
        limits = httpx.Limits(max_connections=CONNECTIONS_PER_POOL, max_keepalive_connections=CONNECTIONS_PER_POOL)
        self._pools = [
            httpx.AsyncClient(
                timeout=httpx.Timeout(rounds * client.request_timeout_s, connect=30.0, pool=None),
                limits=limits,
                headers={"Authorization": f"Bearer {api_key}"} if client.server is None else headers(client.server),
                trust_env=client.server is not None and not is_loopback(base),
            )
            for _ in range(0, at_once, CONNECTIONS_PER_POOL)
        ]
        self._free = [pool for pool in self._pools for _ in range(CONNECTIONS_PER_POOL)]

    async def __aenter__(self) -> ChatClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for pool in self._pools:
            await pool.aclose()

    async def ask(self, name: str, prompt: str, seed: int) -> Answer:
        """Sends one prompt until it gets an answer or a refusal (4xx), or until no attempt is left.

        `name` stands in for a missing reply id; `seed` is that of the sample. Raises WorkerError if a server refuses
        what every request has: key, model, address.
        """
        content = json.dumps(self._body(prompt, seed)).encode()
        failures = timeouts = busy = 0
        while True:
            async with self._turns:
                attempt = await self._attempt(name, content, time.time())
            if attempt.is_last:
                return attempt.answer
            failures += not attempt.busy
            timeouts += attempt.timed_out
            busy += attempt.busy
            policy = self._retry
            if failures >= policy.attempts or timeouts >= policy.timeouts or busy >= policy.refused_as_busy:
                return attempt.answer
            await asyncio.sleep(max(attempt.wait_s, policy.delay_s(failures + busy)))

    def _body(self, prompt: str, seed: int) -> dict[str, object]:
        if self._server is None:
            return request_body(self._decode, self._model, prompt, seed)
        return server_body(self._server, self._decode, self._model, prompt, seed)

    async def _attempt(self, name: str, content: bytes, started: float) -> _Attempt:
        pool = self._free.pop() if self._free else self._pools[0]
        try:
            response = await pool.post(self._endpoint, content=content, headers={"Content-Type": "application/json"})
        except httpx.ReadTimeout:
            late = f"no answer within the request timeout ({self._timeout_s:g} s, client.request_timeout_s)"
            return _Attempt(_failure(name, started, late, INFRASTRUCTURE), timed_out=True)
        except httpx.TransportError as error:
            return _Attempt(_failure(name, started, explain_transport(self._url, error), INFRASTRUCTURE))
        finally:
            self._free.append(pool)
        if response.status_code != httpx.codes.OK:
            return self._refusal(name, response, started)
        try:
            answer = read_reply(response.json(), name, started)
        except (ValueError, KeyError, IndexError, TypeError) as error:
            return _Attempt(_failure(name, started, f"not a chat completion: {no_reply(error)}", INFRASTRUCTURE))
        return _Attempt(answer if self._server is None else seen_from_outside(answer))

    def _refusal(self, name: str, response: httpx.Response, started: float) -> _Attempt:
        """Returns the outcome of a status other than 200. Raises WorkerError if all requests would get the same."""
        status, later = response.status_code, False
        text = f"HTTP {status}: {error_message(response.text)}"
        if self._server is not None:
            text = explain_status(self._server, status, response.text, response.headers.get("location", ""))
            if status in FATAL:
                raise WorkerError(text)
            later = status in LATER_STATUSES
        kind = INFRASTRUCTURE if later or _is_retried(status) else REQUEST
        hopeless = later or response.headers.get("x-should-retry", "").lower() == "false"
        busy = status == httpx.codes.TOO_MANY_REQUESTS
        failure = _failure(name, started, text, kind)
        return _Attempt(failure, wait_s=_retry_after_s(response), busy=busy, hopeless=hopeless)


def no_reply(error: Exception) -> str:
    """Returns why a body is no chat completion."""
    if isinstance(error, json.JSONDecodeError):
        return f"the body is no JSON ({error})"
    if isinstance(error, IndexError):
        return "it has no choices"
    return f"{type(error).__name__}: {error}"


def seen_from_outside(answer: Answer) -> Answer:
    """Returns the answer of a server with the time that the client measured, where its usage has none."""
    if answer.cost.total_s > 0:
        return answer
    return replace(answer, cost=replace(answer.cost, total_s=round(answer.ended_at - answer.started_at, 6)))


def read_reply(reply: dict[str, object], name: str, started: float) -> Answer:
    """The answer in a chat completion. Raises KeyError, IndexError, TypeError or ValueError when it is none."""
    choice = reply["choices"][0]  # type: ignore[index]
    usage: dict[str, object] = reply.get("usage") or {}  # type: ignore[assignment]
    details: dict[str, object] = usage.get("completion_tokens_details") or {}  # type: ignore[assignment]
    message = choice["message"]
    reasoning_tokens = details.get("reasoning_tokens")
    return Answer(
        request_id=str(reply.get("id") or name),
        text=message.get("content") or "",
        reasoning=message.get("reasoning_content") or message.get("reasoning"),
        finish_reason=choice.get("finish_reason") or "stop",
        cost=Cost(
            prompt_tokens=_integer(usage.get("prompt_tokens")),
            completion_tokens=_integer(usage.get("completion_tokens")),
            forwards=dict(usage.get("forwards") or {}),  # type: ignore[call-overload]
            forwards_saved=_integer(usage.get("forwards_saved")),
            nfe=_integer(usage["nfe"]) if usage.get("nfe") is not None else None,
            acceptance_lengths=list(usage.get("acceptance_lengths") or []),  # type: ignore[call-overload]
            continuations=_integer(usage.get("continuations")),
            widths=dict(usage.get("widths") or {}),  # type: ignore[call-overload]
            fixed_tokens=dict(usage.get("fixed_tokens") or {}),  # type: ignore[call-overload]
            queue_s=_seconds(usage.get("queue_s")),
            first_token_s=_seconds(usage.get("first_token_s")),
            total_s=_seconds(usage.get("total_s")),
        ),
        reasoning_tokens=None if reasoning_tokens is None else _integer(reasoning_tokens),
        started_at=started,
        ended_at=time.time(),
    )


def _failure(name: str, started: float, error: str, kind: str) -> Answer:
    ended = time.time()
    return Answer(
        request_id=name,
        cost=replace(NO_COST, total_s=round(ended - started, 6)),
        started_at=started,
        ended_at=ended,
        error=error,
        error_kind=kind,
    )


def _is_retried(status: int) -> bool:
    return status >= httpx.codes.INTERNAL_SERVER_ERROR or status in RETRIED_STATUSES


def _retry_after_s(response: httpx.Response) -> float:
    try:
        return min(120.0, max(0.0, float(response.headers.get("retry-after", "0"))))
    except ValueError:
        return 0.0


def _integer(value: object) -> int:
    return int(value) if isinstance(value, int | float) else 0


def _seconds(value: object) -> float:
    return float(value) if isinstance(value, int | float) else 0.0
