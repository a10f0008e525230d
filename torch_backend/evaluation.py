"""The quality of a trained algorithm on test episodes."""

import functools
from collections.abc import Callable
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from metabridge.adaptation.steps import check_scalar
from metabridge.adaptation.trees import flatten
from metabridge.checks import check_callable
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.runs.evaluation import Evaluation, check_algorithm, evaluation_loader, ignored_target, measure_name
from metabridge.runs.progress import no_progress, progress_bar
from torch_backend.algorithms import Algorithm
from torch_backend.data import feed
from torch_backend.functional import accuracy, mean_squared_error
from torch_backend.functional.losses import is_integer
from torch_backend.tasks import Batch

__all__ = ["Measure", "evaluate", "task_qualities"]

Measure = Callable[[Tensor, Tensor], Tensor]
"""A function `(outputs, targets)` → scalar of one task's query set."""


def evaluate(
    algorithm: Algorithm,
    params: Any,
    dataset: MetaDataset,
    *,
    episodes: int = 1000,
    batch_size: int = 25,
    steps: int | None = None,
    measure: Measure | None = None,
    seed: int | None = None,
    progress: bool = False,
) -> Evaluation:
    """The quality on the query sets of the episodes 0 to `episodes` − 1, after adapting to their support sets.

        print(evaluate(maml, params, meta_test))          # 0.943 ± 0.004

    The episodes depend on `dataset` and `seed` alone. Their values depend on neither the batch size nor the task map,
    up to rounding. Batches go to the device and have the dtype of the first parameter that is no integer. Modules keep
    their mode: call `eval()` before, where dropout or running statistics are to be those of evaluation. Meta-training
    leaves running statistics as they were, so after it keep batch normalisation in training mode.

    Args:
        algorithm: of `torch_backend.algorithms`, or one's own.
        params: its meta-parameters.
        dataset: a meta-dataset with support and query sets, most often of meta-test classes.
        episodes: how many.
        batch_size: episodes that are loaded together.
        steps: inner steps; `None` for the algorithm's own number, 0 for the quality before adaptation.
        measure: a function `(outputs, targets)` → scalar of one task; `None` is accuracy for integer targets, else the
            mean squared error. In episodes of unequal sizes targets of padding are −100.
        seed: seed of the episodes; `None` takes the dataset's.
        progress: show a progress bar on standard error.

    Returns:
        The value of every episode, with mean and 95 % confidence interval.

    Raises:
        TypeError: if `algorithm` is no algorithm, `dataset` no meta-dataset, or `measure` no function.
        ValueError: for counts below 1, `steps` of an algorithm without inner steps, a meta-dataset without support and
            query sets, or a `measure` that is no scalar.
    """
    check_algorithm(algorithm)
    loader = evaluation_loader(dataset, episodes, batch_size, seed)
    show = progress_bar if progress else no_progress
    batches = show(feed(loader, *_place(params)), "test episodes", len(loader))
    if measure is None:
        measure = _usual_measure(dataset)
    values = (task_qualities(algorithm, params, batch, steps, measure) for batch in batches)
    return Evaluation.of(values, episodes, measure_name(measure))


def task_qualities(
    algorithm: Algorithm, params: Any, batch: Batch, steps: int | None = None, measure: Measure | None = None
) -> npt.NDArray[np.float64]:
    """`(B,)` quality of each task of a batch on the device; arguments as in `evaluate`."""
    check_algorithm(algorithm)
    if measure is not None:
        check_callable(measure, "measure")
    outputs, targets = algorithm.predict(params, batch, steps), batch["test"][1]
    if measure is None:
        measure = accuracy if is_integer(targets) else mean_squared_error
    values = [measure(output, target) for output, target in zip(outputs, targets, strict=True)]
    check_scalar(values[0], "measure")
    return torch.stack(values).detach().cpu().double().numpy()


def _usual_measure(dataset: MetaDataset) -> Measure:
    """Accuracy where tasks have classes, else the mean squared error."""
    if dataset.num_classes_per_task is None:
        return mean_squared_error
    return functools.partial(accuracy, ignore_index=ignored_target(dataset))


def _place(params: Any) -> tuple[torch.device | None, torch.dtype | None]:
    """Device and dtype of the first parameter that is no integer."""
    first = next(
        (leaf for leaf in flatten(params).values() if isinstance(leaf, Tensor) and leaf.is_floating_point()), None
    )
    return (None, None) if first is None else (first.device, first.dtype)
