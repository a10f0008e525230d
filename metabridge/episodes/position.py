"""The position in a stream of episodes, for loaders that deliver what an `EpisodeLoader` plans."""

from typing import Any

from metabridge.episodes.loader import EpisodeLoader

__all__ = ["EpisodePosition"]


class EpisodePosition:
    """Length, position and state of a loader whose attribute `episodes` is an `EpisodeLoader`."""

    episodes: EpisodeLoader

    def __len__(self) -> int:
        return len(self.episodes)

    @property
    def position(self) -> int:
        """Index of the next episode of all ranks together; batches that workers prefetched do not count."""
        return self.episodes.position

    def seek(self, position: int) -> None:
        """Make `position` the index of the next episode of all ranks together."""
        self.episodes.seek(position)

    def state_dict(self) -> dict[str, Any]:
        """The position and what identifies the stream; see `EpisodeLoader.state_dict`."""
        return self.episodes.state_dict()

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken; raises `ValueError` for another stream's state."""
        self.episodes.load_state_dict(state)
