"""What containers/spark/serve.sh starts."""

from __future__ import annotations

import shlex
import subprocess
from pathlib import Path

import pytest
from trimode.balancer.settings import parse_settings
from trimode.core.protocol import Mode, Quantization

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.process


def serve(*flags: str) -> subprocess.CompletedProcess[str]:
    command = ["bash", str(ROOT / "containers" / "spark" / "serve.sh"), *flags]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_our_server_is_started_with_flags_that_it_has(tmp_path: Path) -> None:
    done = serve("--dry-run", "--model", str(tmp_path), "--lora", str(tmp_path), "--", "--max-queue", "10")
    words = shlex.split(done.stdout)
    start = words.index("trimode.balancer")
    assert words[1:3] == ["PYTHONSAFEPATH=1", "RAY_memory_monitor_refresh_ms=0"] and words[start - 1] == "-m"
    settings = parse_settings(words[start + 1 :])
    assert settings.worker.quantization == Quantization.w4a16 and settings.default_mode is Mode.linear_spec
    assert (settings.host, settings.port, settings.max_queue) == ("127.0.0.1", 8000, 10)
    assert (settings.worker.kv_cache_gb, settings.worker.max_num_seqs) == (16.0, 8)


@pytest.mark.parametrize(
    ("flags", "algorithm"),
    [
        (("--mode", "ar"), "AR"),
        (("--mode", "dlm"), "FastDiffuser"),
        ((), "LinearSpec-base"),
        (("--lora", "yes"), "LinearSpec"),
    ],
)
def test_sglang_gets_the_knobs_of_its_own_launcher(flags: tuple[str, ...], algorithm: str) -> None:
    done = serve("--dry-run", "--backend", "sglang", "--reference", "/r", "--port", "30000", *flags)
    knobs = f"PORT=30000 ALGO={algorithm} MODEL=nvidia/Nemotron-Labs-Diffusion-8B QUANT=fp8 MAX_REQS=2"
    assert done.stdout == f"env {knobs} bash /r/sglang_spark/launch_server.sh\n"


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--backend", "vllm"), "backends are trimode and sglang: got 'vllm'"),
        (("--mode", "quad"), "modes are ar, dlm and linear_spec: got 'quad'"),
        (("--quantization", "int8"), "--quantization takes w4a16, fp8 and none: got 'int8'"),
        (("--host", "0.0.0.0"), "give --api-key-file"),
        (("--backend", "sglang"), "sglang needs --reference"),
        (("--backend", "sglang", "--reference", "/nowhere"), "no file /nowhere/sglang_spark/launch_server.sh"),
        (("--backend", "sglang", "--quantization", "w4a16"), "sglang: --quantization takes fp8 and none"),
        (("--port",), "the last flag needs a value"),
        (("--fast",), "no flag --fast"),
    ],
)
def test_a_wrong_flag_says_what_is_valid(flags: tuple[str, ...], words: str) -> None:
    done = serve(*flags)
    assert done.returncode == 2
    assert words in done.stderr
