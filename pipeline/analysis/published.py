"""Published results of the released checkpoints, shown beside measured ones and always marked as quoted.

Source: the Nemotron-Labs-Diffusion report, arXiv 2607.05722, instruct models, non-thinking: accuracy and TPF per mode,
and TPF per task of linear speculation. The report does not state block length and threshold of its diffusion rows.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

SOURCE = "arXiv 2607.05722"

BENCHMARKS = (
    "gpqa",
    "ifeval",
    "human-eval",
    "mbpp",
    "math-500",
    "gsm8k",
    "aime24",
    "aime25",
    "mmlu",
    "livecodebench-cpp",
)
"""Order of the columns below."""

_CHECKPOINT = re.compile(r"Nemotron-Labs-Diffusion-(3B|8B|14B)(?![-\w])", re.IGNORECASE)

_ACCURACY = {
    ("3B", "ar"): (39.39, 69.39, 76.22, 71.16, 77.60, 87.87, 23.33, 16.67, 71.70, 21.37),
    ("3B", "dlm"): (33.84, 68.93, 74.39, 73.54, 74.80, 88.40, 16.67, 10.00, 72.06, 16.30),
    ("3B", "linear_spec+lora"): (35.86, 68.96, 75.00, 70.11, 77.40, 87.79, 26.67, 16.67, 71.89, 20.04),
    ("8B", "ar"): (44.44, 68.65, 80.49, 85.19, 88.00, 94.01, 33.33, 33.33, 79.85, 28.85),
    ("8B", "dlm"): (43.94, 68.32, 78.66, 83.86, 85.80, 93.03, 46.67, 26.67, 78.71, 26.16),
    ("8B", "linear_spec+lora"): (40.40, 69.13, 81.71, 84.92, 87.60, 93.78, 36.67, 30.00, 79.01, 24.89),
    ("14B", "ar"): (54.55, 68.50, 86.59, 85.19, 88.40, 91.36, 46.67, 43.33, 82.51, 27.48),
    ("14B", "dlm"): (48.99, 69.03, 83.54, 82.80, 85.80, 93.71, 43.33, 50.00, 82.17, 25.77),
    ("14B", "linear_spec+lora"): (47.47, 70.06, 85.37, 84.66, 86.60, 92.04, 50.00, 40.00, 81.11, 26.32),
}
_MEAN_ACCURACY = {
    ("3B", "ar"): 55.50,
    ("3B", "dlm"): 52.90,
    ("3B", "linear_spec"): 55.00,
    ("3B", "linear_spec+lora"): 55.00,
    ("8B", "ar"): 63.61,
    ("8B", "dlm"): 63.18,
    ("8B", "linear_spec"): 62.88,
    ("8B", "linear_spec+lora"): 62.81,
    ("14B", "ar"): 67.46,
    ("14B", "dlm"): 66.51,
    ("14B", "linear_spec"): 66.35,
    ("14B", "linear_spec+lora"): 66.36,
}
_TPF = {
    ("3B", "linear_spec"): (3.07, 2.97, 4.77, 3.74, 4.94, 4.01, 4.33, 4.53, 2.42, 3.34),
    ("3B", "linear_spec+lora"): (3.57, 3.30, 5.56, 4.23, 5.63, 4.55, 4.99, 5.11, 2.74, 3.95),
    ("8B", "linear_spec"): (5.10, 4.32, 4.62, 3.44, 5.43, 4.47, 5.38, 5.05, 3.25, 4.14),
    ("8B", "linear_spec+lora"): (6.64, 5.52, 5.82, 4.44, 7.36, 5.89, 7.44, 6.92, 4.08, 5.70),
    ("14B", "linear_spec"): (5.31, 3.86, 6.75, 4.42, 5.01, 4.54, 4.47, 3.92, 4.95, 3.42),
    ("14B", "linear_spec+lora"): (6.07, 4.74, 8.11, 5.22, 6.72, 5.79, 5.88, 5.41, 7.22, 4.46),
}
_MEAN_TPF = {
    ("3B", "ar"): 1.00,
    ("3B", "dlm"): 1.91,
    ("3B", "linear_spec"): 3.81,
    ("3B", "linear_spec+lora"): 4.36,
    ("8B", "ar"): 1.00,
    ("8B", "dlm"): 2.57,
    ("8B", "linear_spec"): 4.52,
    ("8B", "linear_spec+lora"): 5.99,
    ("14B", "ar"): 1.00,
    ("14B", "dlm"): 2.74,
    ("14B", "linear_spec"): 4.67,
    ("14B", "linear_spec+lora"): 5.96,
}


@dataclass(frozen=True, slots=True)
class Quoted:
    """Published results of one checkpoint in one mode: accuracies in percent, TPF in tokens per forward."""

    size: str
    label: str
    accuracy: dict[str, float]
    """By benchmark; empty where only the mean is published."""
    tpf: dict[str, float]
    mean_accuracy: float
    """Over the ten benchmarks."""
    mean_tpf: float


def checkpoint_size(path: str) -> str | None:
    """Returns 3B, 8B or 14B if `path` (a folder or hub id) names a released instruct checkpoint, else None."""
    match = _CHECKPOINT.search(path)
    return match[1].upper() if match else None


def quoted(size: str, label: str) -> Quoted | None:
    """Returns what is published of that size in that mode (`ar`, ..., `linear_spec+lora`), or None."""
    key = (size, label)
    if key not in _MEAN_ACCURACY:
        return None
    accuracy = dict(zip(BENCHMARKS, _ACCURACY.get(key, ()), strict=False))
    tpf = dict(zip(BENCHMARKS, _TPF.get(key, ()), strict=False))
    return Quoted(size, label, accuracy, tpf, _MEAN_ACCURACY[key], _MEAN_TPF[key])
