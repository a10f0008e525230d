"""Benchmarks: how each is fetched, verified, built into a store and split into meta-splits."""

from metabridge.datasets import helpers
from metabridge.datasets.cifar import CIFARFS, FC100
from metabridge.datasets.cub import CUB
from metabridge.datasets.miniimagenet import MiniImagenet
from metabridge.datasets.multimnist import DoubleMNIST, TripleMNIST
from metabridge.datasets.omniglot import Omniglot
from metabridge.datasets.pascal5i import Pascal5i
from metabridge.datasets.tabular import Bach, Letter, PlantsMargin, PlantsShape, PlantsTexture
from metabridge.datasets.tieredimagenet import TieredImagenet

__all__ = [
    "Bach",
    "CIFARFS",
    "CUB",
    "DoubleMNIST",
    "FC100",
    "Letter",
    "MiniImagenet",
    "Omniglot",
    "Pascal5i",
    "PlantsMargin",
    "PlantsShape",
    "PlantsTexture",
    "TieredImagenet",
    "TripleMNIST",
    "helpers",
]
