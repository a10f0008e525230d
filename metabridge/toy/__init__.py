"""Toy regression problems: no download, every task computed when asked for."""

from metabridge.toy import helpers
from metabridge.toy.base import ToyMetaDataset
from metabridge.toy.harmonic import Harmonic
from metabridge.toy.sinusoid import Sinusoid
from metabridge.toy.sinusoid_line import SinusoidAndLine

__all__ = ["Harmonic", "Sinusoid", "SinusoidAndLine", "ToyMetaDataset", "helpers"]
