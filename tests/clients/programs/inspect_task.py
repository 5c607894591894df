"""Two samples for inspect_ai."""

from inspect_ai import Task, task
from inspect_ai.dataset import MemoryDataset, Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate
from question import QUESTION


@task
def demo() -> Task:
    samples = [Sample(input=QUESTION.replace("Max", name), target="32") for name in ("Max", "Tom")]
    return Task(dataset=MemoryDataset(samples), solver=generate(), scorer=includes())
