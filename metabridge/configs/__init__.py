"""Frozen records of every choice a run makes; they validate themselves and go to and from JSON."""

from metabridge.configs.algorithms import (
    ALGORITHMS,
    AlgorithmConfig,
    ANILConfig,
    CAVIAConfig,
    FOMAMLConfig,
    MAMLConfig,
    MAMLPlusPlusConfig,
    MetaSGDConfig,
    ProtoMAMLConfig,
    PrototypicalConfig,
    ReptileConfig,
    algorithm_record,
)
from metabridge.configs.episode import EpisodeConfig
from metabridge.configs.network import ModelConfig
from metabridge.configs.optimiser import OptimiserConfig
from metabridge.configs.run import RunConfig

__all__ = [
    "ALGORITHMS",
    "ANILConfig",
    "AlgorithmConfig",
    "CAVIAConfig",
    "EpisodeConfig",
    "FOMAMLConfig",
    "MAMLConfig",
    "MAMLPlusPlusConfig",
    "MetaSGDConfig",
    "ModelConfig",
    "OptimiserConfig",
    "ProtoMAMLConfig",
    "PrototypicalConfig",
    "ReptileConfig",
    "RunConfig",
    "algorithm_record",
]
