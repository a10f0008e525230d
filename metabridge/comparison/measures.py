"""Measures of agreement between two backends, and the limits of contract C7."""

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.networks.parameters import Parameters
from metabridge.networks.tables import NETWORKS
from metabridge.streams import normals, philox_words, stream_key

__all__ = ["LIMITS", "Limits", "central_difference_error", "identical_episodes", "random_direction"]


@dataclass(frozen=True)
class Limits:
    """Largest admissible differences between two backends in float64.

    Attributes:
        meta_gradient: relative error ‖a − b‖ / ‖b‖ of the meta-gradients.
        finite_difference: error of a meta-gradient against central differences of its own meta-loss.
        second_order_share: share of the meta-gradient below which it would pass for the first-order one, or one of
            first order for the second-order one.
        loss_difference: absolute difference of the losses of two runs that start alike. Rounding errors grow with
            the number of meta-steps, so this one is for runs of about 20 steps of Conv4 or hundreds of an MLP.
    """

    meta_gradient: float
    finite_difference: float = 1e-6
    second_order_share: float = 1e-6
    loss_difference: float = 1e-8


LIMITS = {name: Limits(network.meta_gradient) for name, network in NETWORKS.items()}
"""Network → limits."""


def identical_episodes(
    sent: Mapping[str, tuple[npt.NDArray[Any], ...]], received: Mapping[str, tuple[npt.NDArray[Any], ...]]
) -> npt.NDArray[np.bool_]:
    """`(B,)`: which episodes a backend received bit for bit.

    Both sides are in the core's layout. A backend that computes in float64 received the float32 numbers exactly
    if its numbers are the bits of their conversion, which is exact.
    """
    count = len(next(iter(sent.values()))[0])
    same = np.full(count, list(sent) == list(received))
    for name in sent.keys() & received.keys():
        for expected, found in zip(sent[name], received[name], strict=True):
            if expected.shape != found.shape or not np.can_cast(expected.dtype, found.dtype):
                return np.zeros(count, dtype=bool)
            same &= (_bits(expected.astype(found.dtype)) == _bits(found)).all(axis=1)
    return same


def _bits(array: npt.NDArray[Any]) -> npt.NDArray[np.uint8]:
    """`(B, bytes)`: comparing bits tells 0.0 from −0.0 and finds equal NaNs equal."""
    return np.ascontiguousarray(array).reshape(len(array), -1).view(np.uint8)


def random_direction(parameters: Parameters, number: int) -> Parameters:
    """A direction of length 1, normally distributed before scaling; `number` chooses it."""
    sizes = {name: math.prod(array.shape) for name, array in parameters.items()}
    words = philox_words(stream_key("direction", 0, "train"), [number], sum(sizes.values()))
    flat = normals(words[0])
    flat /= np.sqrt((flat**2).sum())
    pieces = np.split(flat, np.cumsum(list(sizes.values()))[:-1])
    return {name: piece.reshape(parameters[name].shape) for name, piece in zip(sizes, pieces, strict=True)}


def central_difference_error(
    loss: Callable[[Parameters], float],
    parameters: Parameters,
    gradient: Parameters,
    direction: Parameters,
    steps: tuple[float, ...] = (1e-5, 1e-6, 1e-7),
) -> float:
    """How far `gradient` is from central finite differences of `loss` along `direction`, relative to its length.

    A step that is too long crosses kinks of ReLU and max-pooling, one that is too short drowns in rounding. The chosen
    step is the one with the quotient that changes least from its longer neighbour. This choice does not look at the
    gradient.

    Args:
        loss: neutral float64 parameters → loss.
        parameters: where to differentiate, float64.
        gradient: the gradient to judge.
        direction: of length 1.
        steps: lengths to try, decreasing.
    """
    quotients = [_central_difference(loss, parameters, direction, step) for step in steps]
    changes = [abs(later - earlier) for earlier, later in pairwise(quotients)]
    best = quotients[1 + int(np.argmin(changes))]
    slope = sum(float((gradient[name] * direction[name]).sum()) for name in direction)
    length = math.sqrt(sum(float((array**2).sum()) for array in gradient.values()))
    return abs(best - slope) / length


def _central_difference(
    loss: Callable[[Parameters], float], parameters: Parameters, direction: Parameters, step: float
) -> float:
    ahead = {name: array + step * direction[name] for name, array in parameters.items()}
    behind = {name: array - step * direction[name] for name, array in parameters.items()}
    return (loss(ahead) - loss(behind)) / (2 * step)
