"""The episode loader: episode indices in order, planned ahead in chunks, gathered batch by batch."""

import copy
import math
import sys
import warnings
from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property
from typing import Any, TypeVar

import numpy as np

from metabridge.checks import check_count, is_count, require
from metabridge.episodes.batches import EpisodeBatch
from metabridge.episodes.metadatasets import MetaDataset
from metabridge.episodes.plans import EpisodePlan

__all__ = ["EpisodeLoader", "check_meta_dataset"]

T = TypeVar("T")

_STATE_VERSION = 1
_MOST_EPISODES = 2**31  # in a batch of all ranks together
_CHUNK_EPISODES = 256  # planning costs 3 times less per episode in chunks of 256 than of 16


class EpisodeLoader:
    """Batches of the episodes 0, 1, 2, … of a seed.

    Batch *b* of rank *r* holds the episodes `start + (b · batch_size + j) · world + r` for j < batch_size: the
    union over the ranks is the stream of a single process, whatever the batch size.

    `for batch in loader` yields `num_batches` batches, and the next loop the next `num_batches`: an epoch never
    repeats episodes. `loader.seek(loader.start)` goes back, for an evaluation on fixed tasks. A loop that was
    left early, or a restored state, goes on where it stopped and ends where the epoch would have ended.

    >>> from metabridge.toy.helpers import sinusoid
    >>> loader = EpisodeLoader(sinusoid(shots=5, test_shots=10), batch_size=4, num_batches=3, seed=0)
    >>> [len(batch.plan) for batch in loader], loader.position
    ([4, 4, 4], 12)

    Args:
        dataset: a meta-dataset, to which nothing is done afterwards: the loader refuses to go on if it was seeded or
            got another splitter since.
        batch_size: episodes per batch and rank.
        num_batches: batches per epoch, or `math.inf` for an endless stream. `None` takes as many as make the episodes
            of an epoch, over all ranks, at least as many as there are tasks: `⌈num_tasks / (batch_size · world)⌉`.
            Every batch is full.
        seed: seed of the episodes; `None` takes the dataset's. If that was never set, a warning says once that a
            second loader over equal tasks repeats the episodes of the first one.
        shard: `(rank, world)`.
        start: index of the first episode; the same on all ranks.

    Raises:
        TypeError: if `dataset` is no meta-dataset, or `seed` no integer.
        ValueError: for values outside these ranges.
    """

    def __init__(
        self,
        dataset: MetaDataset,
        batch_size: int,
        num_batches: int | float | None = None,
        seed: int | None = None,
        shard: tuple[int, int] = (0, 1),
        start: int = 0,
    ) -> None:
        check_meta_dataset(dataset)
        self.batch_size = check_count(batch_size, "batch_size")
        require(batch_size < _MOST_EPISODES, "batch_size", "below 2**31", batch_size)
        rank, world = shard if isinstance(shard, (tuple, list)) and len(shard) == 2 else (None, None)
        is_shard = is_count(rank, 0) and is_count(world) and rank < world < _MOST_EPISODES
        require(is_shard, "shard", "integers (rank, world) with 0 <= rank < world", shard)
        if num_batches is None:
            num_batches = -(-dataset.num_tasks // (self.batch_size * int(world)))
        is_endless = num_batches == math.inf
        allowed = "a positive integer, or math.inf for an endless stream, or None for as many as there are tasks"
        require(is_endless or is_count(num_batches), "num_batches", allowed, num_batches)
        self.num_batches = math.inf if is_endless else int(num_batches)
        self._given = dataset
        self.dataset = copy.copy(dataset)  # a change must not reach a running loader
        self._is_seeded = seed is not None
        seed = dataset.current_seed if seed is None else seed
        dataset.episode_key(seed)  # refuses what is no integer
        self.episode_seed = int(seed)
        if not (self._is_seeded or dataset.is_seeded):
            _warn_of_repetition(dataset)
        self.shard = (int(rank), int(world))
        self.start = self.position = _check_position("start", start)

    @property
    def stride(self) -> int:
        """Episodes that one batch of all ranks together takes."""
        return self.batch_size * self.shard[1]

    def seek(self, position: int) -> None:
        """Make `position`, at least `start`, the index of the next episode of all ranks together."""
        if _check_position("position", position) < self.start:
            raise ValueError(f"`position` must be at least `start`, which is {self.start}, got {position}.")
        self.position = int(position)

    def plans(self) -> Iterator[EpisodePlan]:
        """The plans of the rest of this epoch, without moving the position.

        Computed in chunks: they need no example, so any process may gather them in any order.

        Raises:
            RuntimeError: if the meta-dataset was changed since the loader was made.
        """
        self._check_unchanged()
        rank, world = self.shard
        first, remaining = self.position, self._remaining_batches()
        batches_per_chunk = max(1, _CHUNK_EPISODES // self.batch_size)
        while remaining > 0:
            batches = int(min(batches_per_chunk, remaining))
            require(first <= 2**63 - batches * self.stride, "position", "an episode index below 2**63", first)
            indices = first + np.arange(batches * self.batch_size) * world + rank
            chunk = self.dataset.plan(self.episode_seed, indices)
            for b in range(batches):
                yield chunk[b * self.batch_size : (b + 1) * self.batch_size]
            first += batches * self.stride
            remaining -= batches

    def _check_unchanged(self) -> None:
        """Raise `RuntimeError` if the meta-dataset would plan other episodes than when the loader was made."""
        now, kind = vars(self._given), type(self.dataset)
        changed = {
            name
            for name, value in vars(self.dataset).items()
            if not _is_same(now.get(name, value), value) and not isinstance(getattr(kind, name, None), cached_property)
        } - {"_sampled"}
        if self._is_seeded and self._given.family == self.dataset.family:
            changed.discard("_seeding")
        if changed:
            words = sorted({"_seeding": "seed", "_attached": "splitter"}.get(name, name.strip("_")) for name in changed)
            raise RuntimeError(
                f"the meta-dataset was changed ({', '.join(words)}) after this loader was made, which does not reach "
                "the loader; make the loader afterwards, and to keep its episodes give it a `seed` of its own."
            )

    def _remaining_batches(self) -> float:
        if self.num_batches == math.inf:
            return math.inf
        done = (self.position - self.start) // self.stride
        return self.num_batches - done % self.num_batches

    def __iter__(self) -> Iterator[EpisodeBatch]:
        return self.deliver(self.dataset.gather(plan) for plan in self.plans())

    def deliver(self, batches: Iterable[T]) -> Iterator[T]:
        """Hand on `batches`, which were made from `plans()` in order, and move the position with each.

        Raises:
            RuntimeError: while handing on, if the position was moved by something else.
        """
        return self._deliver(batches, self.position)

    def _deliver(self, batches: Iterable[T], expected: int) -> Iterator[T]:
        for batch in batches:
            if self.position != expected:
                raise RuntimeError(
                    f"the loader was moved from episode {expected} to {self.position} inside a loop over it; "
                    "leave the loop and start another one."
                )
            self.position = expected = expected + self.stride
            yield batch

    def __len__(self) -> int:
        if self.num_batches == math.inf:
            raise TypeError("this loader is endless; give `num_batches` a number to give it a length.")
        if self.num_batches > sys.maxsize:
            raise OverflowError("`len` cannot hold the number of batches of this loader; give it a `num_batches`.")
        return int(self.num_batches)

    def state_dict(self) -> dict[str, Any]:
        """The position in the stream and what identifies the stream, as JSON-ready values.

        Valid for any batch size, number of ranks and number of workers; another batch size or number of ranks
        moves the end of the epoch.
        """
        return {"version": _STATE_VERSION, "position": self.position, **self._identity()}

    def _identity(self) -> dict[str, Any]:
        return {"seed": self.episode_seed, "start": self.start, "episodes": self.dataset.description}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue where `state_dict` was taken.

        Raises:
            TypeError: if the state is no mapping.
            ValueError: if the state is of another stream of episodes; the message shows both sides.
        """
        if not isinstance(state, Mapping):
            raise TypeError(f"`state` must be what `state_dict()` returned, got {state!r}.")
        if state.get("version") != _STATE_VERSION:
            raise ValueError(f"the loader state must be of version {_STATE_VERSION}, got {state.get('version')!r}.")
        for name, own in self._identity().items():
            if state.get(name) != own:
                raise ValueError(
                    f"the loader state belongs to other episodes: its `{name}` differs.\n  state:  {state.get(name)}\n"
                    f"  loader: {own}\nBuild the loader with the state's dataset, splitter and seed."
                )
        self.seek(state.get("position", -1))

    def __repr__(self) -> str:
        return (
            f"EpisodeLoader({self.dataset!r}, batch_size={self.batch_size}, num_batches={self.num_batches}, "
            f"seed={self.episode_seed}, shard={self.shard}, position={self.position})"
        )


def _is_same(now: object, then: object) -> bool:
    """Whether an attribute was not assigned again; numbers and words are the same wherever they came from."""
    return now is then or (isinstance(then, (int, float, str)) and now == then)


def check_meta_dataset(dataset: object) -> None:
    """Raise `TypeError` for anything but a meta-dataset; the message says how to make one."""
    if isinstance(dataset, MetaDataset):
        return
    advice = "pass for example sinusoid(shots=10) of metabridge.toy.helpers"
    if hasattr(dataset, "class_sizes"):
        advice = "make tasks of a source with CombinationMetaDataset(source, num_classes_per_task=5)"
    raise TypeError(f"`dataset` must be a meta-dataset, got {type(dataset).__name__}; {advice}.")


_unseeded: dict[tuple[Any, ...], int] = {}
"""Families of tasks over which loaders without a seed were made, and how many."""


def _warn_of_repetition(dataset: MetaDataset) -> None:
    """Warn, once for each family of tasks, of a second loader without a seed."""
    if not dataset.family:
        return
    tasks = dataset.family, dataset.num_classes_per_task, dataset.episode_key(dataset.current_seed)
    _unseeded[tasks] = _unseeded.get(tasks, 0) + 1
    if _unseeded[tasks] == 2:
        warnings.warn(
            f"this loader repeats the episodes of an earlier one over the same tasks, {dataset!r}: neither has a seed. "
            "Give one of them seed=1, or the meta-datasets meta_train=True and meta_test=True.",
            stacklevel=3,
        )


def _check_position(name: str, position: Any) -> int:
    require(is_count(position, 0), name, "a non-negative episode index", position)
    require(position < 2**63, name, "an episode index below 2**63", position)
    return int(position)
