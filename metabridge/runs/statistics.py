"""Statistics over episodes."""

import math

import numpy as np
import numpy.typing as npt

__all__ = ["mean_and_ci95"]


def mean_and_ci95(values: npt.ArrayLike) -> tuple[float, float]:
    """Mean over episodes and the half-width of its 95 % confidence interval, `1.96 · s / √n`.

    `s` is the sample standard deviation (n − 1 in the denominator); one episode alone has an infinite interval.
    The convention of the few-shot literature, which reports it over 600 or more test episodes.
    """
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or not len(array):
        raise ValueError(f"`values` must hold one number per episode, got shape {array.shape}.")
    half_width = 1.96 * float(array.std(ddof=1)) / math.sqrt(len(array)) if len(array) > 1 else math.inf
    return float(array.mean()), half_width
