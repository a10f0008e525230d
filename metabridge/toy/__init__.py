"""Toy regression problems: no download, every task computed when asked for."""

from metabridge.toy import helpers
from metabridge.toy.base import ToyMetaDataset
from metabridge.toy.sinusoid import Sinusoid

__all__ = ["Sinusoid", "ToyMetaDataset", "helpers"]
