"""Toy problems ready for use: one call, with the splitter attached."""

from typing import Any, TypeVar

from metabridge.checks import check_count
from metabridge.episodes.splitters import ClassSplitter
from metabridge.toy.base import ToyMetaDataset
from metabridge.toy.harmonic import Harmonic
from metabridge.toy.sinusoid import Sinusoid
from metabridge.toy.sinusoid_line import SinusoidAndLine

__all__ = ["harmonic", "sinusoid", "sinusoid_and_line"]

Problem = TypeVar("Problem", bound=ToyMetaDataset)


def sinusoid(
    shots: int, shuffle: bool = True, test_shots: int | None = None, seed: int | None = None, **kwargs: Any
) -> Sinusoid:
    """`Sinusoid` with `shots` support and `test_shots` query points per task.

    Args:
        shots: support points (key `"train"`).
        shuffle: draw which points are support at random.
        test_shots: query points (key `"test"`); `None` means as many as `shots`.
        seed: the dataset's seed, which chooses the family of tasks; `None` means 0.
        kwargs: further arguments of `Sinusoid`, for example `noise_std` or `meta_test=True`. Unless given,
            `num_samples_per_task` is `shots + test_shots` (Torchmeta documents this argument and then fails).

    Raises:
        TypeError: for an argument that `Sinusoid` has not, or another splitter as `dataset_transform`.
        ValueError: for counts below 1, or `num_samples_per_task` below `shots + test_shots`.
    """
    return _few_shot(Sinusoid, shots, shuffle, test_shots, seed, kwargs)


def harmonic(
    shots: int, shuffle: bool = True, test_shots: int | None = None, seed: int | None = None, **kwargs: Any
) -> Harmonic:
    """`Harmonic` with `shots` support and `test_shots` query points per task; arguments as in `sinusoid`."""
    return _few_shot(Harmonic, shots, shuffle, test_shots, seed, kwargs)


def sinusoid_and_line(
    shots: int, shuffle: bool = True, test_shots: int | None = None, seed: int | None = None, **kwargs: Any
) -> SinusoidAndLine:
    """`SinusoidAndLine` with `shots` support and `test_shots` query points per task; arguments as in `sinusoid`.

    Torchmeta has the problem but no such helper.
    """
    return _few_shot(SinusoidAndLine, shots, shuffle, test_shots, seed, kwargs)


def _few_shot(
    problem: type[Problem],
    shots: int,
    shuffle: bool,
    test_shots: int | None,
    seed: int | None,
    arguments: dict[str, Any],
) -> Problem:
    shots = check_count(shots, "shots", advice="pass for example 10")
    test_shots = shots if test_shots is None else check_count(test_shots, "test_shots", advice="pass for example 10")
    splitter = ClassSplitter(shuffle=shuffle, num_train_per_class=shots, num_test_per_class=test_shots)
    arguments = {"num_samples_per_task": splitter.examples_per_class, **arguments}
    dataset = problem(**arguments, dataset_transform=splitter)
    dataset.seed(seed)
    return dataset
