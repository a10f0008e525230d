"""Toy problems ready for use: one call, with the splitter attached."""

from typing import Any

from metabridge.splitters import ClassSplitter
from metabridge.toy.sinusoid import Sinusoid

__all__ = ["sinusoid"]


def sinusoid(
    shots: int, shuffle: bool = True, test_shots: int | None = None, seed: int | None = None, **kwargs: Any
) -> Sinusoid:
    """`Sinusoid` with `shots` support and `test_shots` query points per task.

    Args:
        shots: support points (key `"train"`).
        shuffle: draw which points are support at random.
        test_shots: query points (key `"test"`); `None` means as many as `shots`.
        seed: the dataset's seed, which chooses the family of tasks; `None` means 0.
        kwargs: further arguments of `Sinusoid`, for example `noise_std` or `meta_split`. Unless given,
            `num_samples_per_task` is `shots + test_shots`.
    """
    test_shots = shots if test_shots is None else test_shots
    kwargs.setdefault("num_samples_per_task", shots + test_shots)
    dataset = Sinusoid(**kwargs)
    dataset.seed(seed)
    ClassSplitter(dataset, shuffle=shuffle, num_train_per_class=shots, num_test_per_class=test_shots)
    return dataset
