"""Class sources made of class sources: together, some of their classes, other names. No example is copied."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.checks import check_callable, check_count
from metabridge.digests import DIGEST_BYTES, Digest
from metabridge.sources.base import ClassIds, ClassSource, Digests, check_source, content_fingerprint
from metabridge.sources.tables import NO_CLASS, check_distinct, check_positions, positions_of

__all__ = ["filter_classes", "rename_classes", "union"]


def union(*sources: ClassSource) -> ClassSource:
    """The classes of all `sources`, one after another.

    The fingerprint is that of the same classes in one array; where a source has no digests of its examples, such as
    an image folder, it is of the sources' fingerprints.

    Raises:
        TypeError: without any source.
        ValueError: if their examples differ in shape or dtype, or two classes have one name.
    """
    if not sources:
        raise TypeError("`union` needs at least one source, got none.")
    for number, source in enumerate(sources):
        check_source(source, f"sources[{number}]")
    for other in sources[1:]:
        ours, theirs = (f"{each.example_shape} {each.dtype}" for each in (sources[0], other))
        if ours != theirs:
            raise ValueError(
                f"`sources` must have examples of one shape and dtype, got {ours} and {theirs}; "
                "open them with the same resize=(height, width) and mode."
            )
    parts = np.repeat(np.arange(len(sources)), [len(source.class_sizes) for source in sources])
    ids = np.concatenate([np.arange(len(source.class_sizes)) for source in sources])
    try:
        return _together(sources, parts, ids)
    except ValueError as error:
        raise ValueError(f"{error} Give one of them another name, with rename_classes(source, …).") from None


def filter_classes(
    source: ClassSource, keep: Callable[[str], bool] | None = None, min_examples: int = 1
) -> ClassSource:
    """The classes that `keep(name)` accepts and that have at least `min_examples`, in the source's order.

    Raises:
        TypeError: if `keep` is no function.
        ValueError: if none is left.
    """
    check_source(source)
    check_count(min_examples, "min_examples", least=0)
    if keep is not None and not callable(keep):
        raise TypeError(
            f"`keep` must be a function of a class name, got {type(keep).__name__}; of a list write "
            "keep=set(names).__contains__."
        )
    kept = source.class_sizes >= min_examples
    if keep is not None:
        kept &= np.fromiter((bool(keep(name)) for name in source.class_names), dtype=bool, count=len(kept))
    ids = np.flatnonzero(kept)
    if not len(ids):
        raise ValueError(
            f"`keep` and `min_examples`={min_examples} leave none of the {len(kept)} classes, whose largest has "
            f"{source.class_sizes.max()} examples; the first one is {source.class_names[0]!r}."
        )
    return source.select(ids)


def rename_classes(source: ClassSource, names: Mapping[str, str] | Callable[[str], str]) -> ClassSource:
    """The same classes under other names.

    Args:
        source: any source.
        names: old name → new name, for some of the classes or all; or a function from old to new.

    Raises:
        ValueError: if `names` holds a name that no class has, or two classes would have one name.
    """
    check_source(source)
    if isinstance(names, Mapping):
        unknown = sorted(set(names).difference(source.class_names))
        if unknown:
            raise ValueError(f"`names` must hold names of classes, no class is called {unknown[0]!r}.")
        return _Renamed(source, tuple(names.get(name, name) for name in source.class_names))
    check_callable(names, "names", "pass a mapping old → new, or a function")
    return _Renamed(source, tuple(names(name) for name in source.class_names))


class _View(ABC):
    """The base of all views."""

    class_names: tuple[str, ...]
    class_sizes: npt.NDArray[np.int64]
    example_shape: tuple[int, ...]
    dtype: np.dtype[Any]

    @cached_property
    def fingerprint(self) -> str:
        """The fingerprint of the same content in one array; one of their fingerprints where digests are missing."""
        digests = self.class_digests
        if digests is None:
            return self._fingerprint_of_parts()
        return content_fingerprint(self.class_names, self.class_sizes, self.example_shape, self.dtype, digests)

    @property
    @abstractmethod
    def class_digests(self) -> Digests | None:
        """`(C, 16)` uint8: one digest per class, of its examples; `None` where a source has none."""

    @abstractmethod
    def _fingerprint_of_parts(self) -> str:
        """Hexadecimal BLAKE2b of the sources' fingerprints and of what the view makes of them."""

    def __len__(self) -> int:
        return len(self.class_sizes)

    def __repr__(self) -> str:
        total = int(self.class_sizes.sum())
        return f"<{len(self)} classes, {total} examples of shape {self.example_shape}, {self.dtype}>"


class _Renamed(_View):
    """Another source under other names."""

    def __init__(self, source: ClassSource, class_names: tuple[str, ...]) -> None:
        check_distinct(class_names)
        self.source = source
        self.class_names = class_names
        self.class_sizes = source.class_sizes
        self.example_shape = source.example_shape
        self.dtype = source.dtype

    @property
    def class_digests(self) -> Digests | None:
        """The other source's."""
        return getattr(self.source, "class_digests", None)

    def _fingerprint_of_parts(self) -> str:
        return _digest("renamed", [self.source.fingerprint, *self.class_names])

    def gather(self, class_ids: npt.NDArray[np.int64], example_ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copy the examples out of the other source; see `ClassSource.gather`."""
        return self.source.gather(class_ids, example_ids)

    def select(self, class_ids: ClassIds) -> "_Renamed":
        """These classes alone."""
        ids = positions_of(class_ids, len(self))
        return _Renamed(self.source.select(ids), tuple(self.class_names[i] for i in ids.tolist()))


def _together(sources: Sequence[ClassSource], parts: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]) -> ClassSource:
    """Class *c* is class `ids[c]` of `sources[parts[c]]`; sources hold no more than what is used of them."""
    used, numbers = np.unique(parts, return_inverse=True)
    trimmed: list[ClassSource] = []
    inner = np.empty_like(ids)
    for part in used.tolist():
        mine = parts == part
        distinct, inner[mine] = np.unique(ids[mine], return_inverse=True)
        whole = len(distinct) == len(sources[part].class_sizes)
        trimmed.append(sources[part] if whole else sources[part].select(distinct))
    if len(trimmed) == 1:
        return trimmed[0].select(inner)
    return _Union(trimmed, numbers, inner)


class _Union(_View):
    """Class *c* is class `ids[c]` of `sources[parts[c]]`."""

    def __init__(
        self, sources: Sequence[ClassSource], parts: npt.NDArray[np.int64], ids: npt.NDArray[np.int64]
    ) -> None:
        self.sources = tuple(sources)
        self.parts, self.ids = parts, ids
        names = [source.class_names for source in sources]
        self.class_names = tuple(names[part][i] for part, i in zip(parts.tolist(), ids.tolist(), strict=True))
        check_distinct(self.class_names)
        self.class_sizes = np.empty(len(ids), dtype=np.int64)
        for part, source in enumerate(sources):
            self.class_sizes[parts == part] = source.class_sizes[ids[parts == part]]
        self.example_shape = sources[0].example_shape
        self.dtype = sources[0].dtype

    @property
    def class_digests(self) -> Digests | None:
        """Each class's, from the source it is in."""
        found = np.empty((len(self.ids), DIGEST_BYTES), dtype=np.uint8)
        for part, source in enumerate(self.sources):
            digests = getattr(source, "class_digests", None)
            if digests is None:
                return None
            mine = self.parts == part
            found[mine] = digests[self.ids[mine]]
        return found

    def _fingerprint_of_parts(self) -> str:
        table = Digest().add_array(np.stack([self.parts, self.ids]), "<i8")
        return _digest("union", [*(source.fingerprint for source in self.sources), table.hexadecimal()])

    def gather(self, class_ids: npt.NDArray[np.int64], example_ids: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        """Copy the examples out of the sources they are in; see `ClassSource.gather`."""
        check_positions(self.class_sizes, class_ids, example_ids)
        classes, examples = np.broadcast_arrays(class_ids, example_ids)
        found = np.empty((*classes.shape, *self.example_shape), dtype=self.dtype)
        parts, ids = self.parts[classes], self.ids[classes]
        for part, source in enumerate(self.sources):
            mine = parts == part
            if mine.any():
                found[mine] = source.gather(ids[mine], examples[mine])
        return found

    def select(self, class_ids: ClassIds) -> ClassSource:
        """These classes alone."""
        chosen = positions_of(class_ids, len(self))
        if not len(chosen):
            raise ValueError(NO_CLASS)
        return _together(self.sources, self.parts[chosen], self.ids[chosen])


def _digest(kind: str, texts: Sequence[str]) -> str:
    return Digest(f"metabridge {kind}\n").add_texts(texts).hexadecimal()
