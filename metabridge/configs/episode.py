"""The record of an episode's size."""

from dataclasses import dataclass

from metabridge.checks import is_count, require
from metabridge.configs.record import Config

__all__ = ["EpisodeConfig"]


@dataclass(frozen=True)
class EpisodeConfig(Config):
    """Size of an episode.

    Attributes:
        ways: N, classes per task; `None` for regression.
        shots: support examples per class.
        test_shots: query examples per class.
    """

    ways: int | None = 5
    shots: int = 1
    test_shots: int = 15

    def __post_init__(self) -> None:
        require(
            self.ways is None or is_count(self.ways, 2),
            "ways",
            "an integer of at least 2, or None",
            self.ways,
        )
        require(is_count(self.shots), "shots", "a positive integer", self.shots)
        require(is_count(self.test_shots), "test_shots", "a positive integer", self.test_shots)
