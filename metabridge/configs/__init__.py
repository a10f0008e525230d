"""Frozen records of every choice a run makes; they validate themselves and go to and from JSON."""

from metabridge.configs.algorithms import (
    ALGORITHMS,
    AlgorithmConfig,
    ANILConfig,
    FOMAMLConfig,
    ImplicitMAMLConfig,
    LRD2Config,
    MAMLConfig,
    MatchingConfig,
    MetaOptNetConfig,
    MetaSGDConfig,
    PrototypicalConfig,
    R2D2Config,
    RelationConfig,
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
    "EpisodeConfig",
    "FOMAMLConfig",
    "ImplicitMAMLConfig",
    "LRD2Config",
    "MAMLConfig",
    "MatchingConfig",
    "MetaOptNetConfig",
    "MetaSGDConfig",
    "ModelConfig",
    "OptimiserConfig",
    "PrototypicalConfig",
    "R2D2Config",
    "RelationConfig",
    "RunConfig",
    "algorithm_record",
]
