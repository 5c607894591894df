"""Where each benchmark's raw files come from: URLs, checksums, and the names they have in a data folder.

Checksums are those of the content, after gunzip for a .gz.
"""

from __future__ import annotations

from dataclasses import dataclass

_HUB = "https://huggingface.co/datasets"
_RAW = "https://raw.githubusercontent.com"
_NEMO = f"{_RAW}/NVIDIA-NeMo/Skills/0b012df8a09cd4730d31b16e90a0d8f13d145fb8/nemo_skills/dataset"
_LCB = f"{_HUB}/livecodebench/code_generation_lite/resolve/main"


@dataclass(frozen=True, slots=True, kw_only=True)
class RawFile:
    """One file to download."""

    name: str
    """Path inside `<data_dir>/<benchmark>/`."""
    urls: tuple[str, ...]
    """Tried in order."""
    sha256: str | None = None
    """None: no checksum is published and the file may change."""
    terms: str | None = None
    """Page where the user must accept terms first. The download then needs a token."""


def _lcb_files() -> tuple[RawFile, ...]:
    """Returns the six files of release v6. A problem of the split may be in any of them."""
    names = ("test.jsonl", *(f"test{index}.jsonl" for index in range(2, 7)))
    return tuple(RawFile(name=f"code_generation_lite/{name}", urls=(f"{_LCB}/{name}",)) for name in names)


SOURCES: dict[str, tuple[RawFile, ...]] = {
    "gsm8k": (
        RawFile(
            name="test_original.jsonl",
            urls=(f"{_RAW}/openai/grade-school-math/master/grade_school_math/data/test.jsonl",),
            sha256="3730d312f6e3440559ace48831e51066acaca737f6eabec99bccb9e4b3c39d14",
        ),
    ),
    "math-500": (
        RawFile(
            name="test_original.jsonl",
            urls=("https://github.com/openai/prm800k/raw/main/prm800k/math_splits/test.jsonl",),
            sha256="35dc41080a3680858b27fa7e0533d2d547825316fc5dafe5d316f4ccc5a06132",
        ),
    ),
    "aime24": (
        RawFile(
            name="test_ns.jsonl",
            urls=(f"{_NEMO}/aime24/test.txt",),
            sha256="e428f83ec735201c9db2a232727f4c20dbce87079ed386b6e3fb7f756d078756",
        ),
    ),
    "aime25": (
        RawFile(
            name="test_ns.jsonl",
            urls=(f"{_NEMO}/aime25/test.txt",),
            sha256="b672f9c6660b68dd42f5fc705b17405f24eaa9991c98991d63463c6b683468a8",
        ),
    ),
    "gpqa": (
        RawFile(
            name="gpqa_diamond.csv",
            urls=(f"{_HUB}/Idavidrein/gpqa/resolve/main/gpqa_diamond.csv",),
            terms=f"{_HUB}/Idavidrein/gpqa",
        ),
    ),
    "mmlu": (
        RawFile(
            name="data.tar",
            urls=("https://people.eecs.berkeley.edu/~hendrycks/data.tar", f"{_HUB}/cais/mmlu/resolve/main/data.tar"),
            sha256="bec563ba4bac1d6aaf04141cd7d1605d7a5ca833e38f994051e818489592989b",
        ),
    ),
    "mmlu-pro": (
        RawFile(
            name="test-00000-of-00001.parquet",
            urls=(f"{_HUB}/TIGER-Lab/MMLU-Pro/resolve/main/data/test-00000-of-00001.parquet",),
        ),
    ),
    "human-eval": (
        RawFile(
            name="HumanEvalPlus-v0.1.9.jsonl.gz",
            urls=("https://github.com/evalplus/humanevalplus_release/releases/download/v0.1.9/HumanEvalPlus.jsonl.gz",),
            sha256="50d50fda1ecf4c9168d762456ae29c1d8b8b922e68c66964f7891c98d93a04b7",
        ),
    ),
    "mbpp": (
        RawFile(
            name="MbppPlus-v0.2.0.jsonl.gz",
            urls=("https://github.com/evalplus/mbppplus_release/releases/download/v0.2.0/MbppPlus.jsonl.gz",),
            sha256="b54e762755248ca411b523c917fa9f93c07b5ff2966bf60b3917b853926a3dad",
        ),
    ),
    "ifeval": (
        RawFile(
            name="input_data.jsonl",
            urls=(
                f"{_RAW}/google-research/google-research/8dadc6c56e2c2e51a9dd7e0d4bf2840922b4b6c0/"
                "instruction_following_eval/data/input_data.jsonl",
            ),
            sha256="67ffeee0fcb87c317c5b08a2de85557b4a7e96ada6178aa645b4954fe4b53d49",
        ),
    ),
    "livecodebench": _lcb_files(),
    "nltk_punkt": (
        RawFile(
            name="punkt_tab.zip",
            urls=(f"{_RAW}/nltk/nltk_data/4f15a3d89eefe9748ec1c05be495d91289197155/packages/tokenizers/punkt_tab.zip",),
            sha256="e57f64187974277726a3417ca6f181ec5403676c717672eef6a748a7b20e0106",
        ),
    ),
}
"""Benchmark -> its files. `nltk_punkt` is the sentence splitter that IFEval's checks use."""
