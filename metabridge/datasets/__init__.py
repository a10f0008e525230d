"""Benchmarks: how each is fetched, verified, built into a store and split into meta-splits."""

from metabridge.datasets import helpers
from metabridge.datasets.omniglot import Omniglot

__all__ = ["Omniglot", "helpers"]
