"""NeMo-Skills' sandbox service, played by a small HTTP server."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import pytest
from trimode.core.errors import ConfigError
from trimode.pipeline.scoring.sandbox.run import Limits, run_program
from trimode.pipeline.scoring.sandbox.service import service_url

REQUESTS: list[dict[str, Any]] = []


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        REQUESTS.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        body = json.dumps({"process_status": "completed", "stdout": "there\n", "stderr": ""}).encode()
        self.send_response(200 if self.path == "/execute" else 404)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        pass


@pytest.fixture
def service() -> Iterator[HTTPServer]:
    server = HTTPServer(("127.0.0.1", 0), Service)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def test_programs_go_to_the_service_when_it_is_named(service: HTTPServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_SANDBOX", "nemo_skills")
    monkeypatch.setenv("NEMO_SKILLS_SANDBOX_PORT", str(service.server_port))
    assert run_program("print('here')", "in", Limits(time_s=7.0)).stdout == "there\n"
    request = REQUESTS[-1]
    assert (request["generated_code"], request["std_input"], request["timeout"]) == ("print('here')", "in", 7.0)


def test_a_silent_service_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_SANDBOX", "http://127.0.0.1:9")
    with pytest.raises(ConnectionError, match=r"127\.0\.0\.1:9 did not answer"):
        run_program("print('here')")


def test_another_choice_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRIMODE_SANDBOX", "docker")
    with pytest.raises(ConfigError, match="got 'docker'; valid: local, nemo_skills"):
        service_url()
