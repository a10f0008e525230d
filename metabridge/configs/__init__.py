"""Frozen records of every choice a run makes; they validate themselves and go to and from JSON."""

from metabridge.configs.algorithms import (
    ALGORITHMS,
    AlgorithmConfig,
    ANILConfig,
    CAVIAConfig,
    FOMAMLConfig,
    ImplicitMAMLConfig,
    LRD2Config,
    MAMLConfig,
    MAMLPlusPlusConfig,
    MatchingConfig,
    MetaOptNetConfig,
    MetaSGDConfig,
    ProtoMAMLConfig,
    PrototypicalConfig,
    R2D2Config,
    RelationConfig,
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
    "ImplicitMAMLConfig",
    "LRD2Config",
    "MAMLConfig",
    "MAMLPlusPlusConfig",
    "MatchingConfig",
    "MetaOptNetConfig",
    "MetaSGDConfig",
    "ModelConfig",
    "OptimiserConfig",
    "ProtoMAMLConfig",
    "PrototypicalConfig",
    "R2D2Config",
    "RelationConfig",
    "ReptileConfig",
    "RunConfig",
    "algorithm_record",
]
