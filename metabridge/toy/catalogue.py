"""The toy problems by name, and the helper that loads each."""

from collections.abc import Callable
from typing import NamedTuple

from metabridge.toy import helpers
from metabridge.toy.base import ToyMetaDataset

__all__ = ["TOYS", "Toy", "load_toy"]


class Toy(NamedTuple):
    """A toy problem in a list of benchmarks."""

    helper: Callable[..., ToyMetaDataset]
    description: str
    """A few words and the paper."""


TOYS = {
    "sinusoid": Toy(helpers.sinusoid, "regression, Finn et al. 2017"),
    "harmonic": Toy(helpers.harmonic, "two sines, Lacoste et al. 2018"),
    "sinusoid_and_line": Toy(helpers.sinusoid_and_line, "sines and lines, Finn et al. 2018"),
}


def load_toy(name: str, shots: int, test_shots: int, meta_split: str, seed: int | None = None) -> ToyMetaDataset:
    """The toy problem of this name in `TOYS`, by its helper; arguments as in `helpers.sinusoid`."""
    return TOYS[name].helper(shots, test_shots=test_shots, seed=seed, meta_split=meta_split)
