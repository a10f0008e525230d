"""The user's own meta-splits of a source: by lists of classes, or by fractions and a seed."""

from collections.abc import Collection, Mapping, Sequence
from fractions import Fraction

import numpy as np

from metabridge.checks import check_share
from metabridge.sources.base import ClassSource, check_source
from metabridge.streams import philox_words, stream_key

__all__ = ["USUAL_FRACTIONS", "split_classes"]

USUAL_FRACTIONS = {"train": 0.6, "val": 0.2, "test": 0.2}
"""Meta-split → share of the classes of data of one's own."""

_ROUNDING = Fraction(1, 10**9)  # three times 0.333333333 is meant to be all


def split_classes(
    source: ClassSource,
    classes: Mapping[str, Sequence[str]] | None = None,
    fractions: Mapping[str, float] | None = None,
    seed: int = 0,
) -> dict[str, ClassSource]:
    """Meta-splits without a common class, each a source over the same examples.

    >>> import numpy as np
    >>> from metabridge.sources import ArraySource
    >>> source = ArraySource.from_classes({name: np.zeros((4, 2)) for name in "abcdefghij"})
    >>> parts = split_classes(source, fractions={"train": 0.6, "val": 0.2, "test": 0.2}, seed=0)
    >>> {name: len(part) for name, part in parts.items()}
    {'train': 6, 'val': 2, 'test': 2}

    Args:
        source: any source.
        classes: meta-split → names of its classes, in the order they shall have. Classes that stand nowhere are
            left out.
        fractions: meta-split → share of the classes, read as the decimal number that it prints as. Which classes
            these are is drawn from the stream of `seed`; they keep the source's order. The same seed and the same
            number of classes always give the same split; a share less than all leaves classes out.
        seed: any integer; used with `fractions` alone.

    Raises:
        TypeError: unless exactly one of `classes` and `fractions` is given, and is a mapping.
        ValueError: if a class is unknown or in two meta-splits, if fractions are not positive or sum to more than
            1, or if a meta-split would have no class.
    """
    check_source(source)
    if (classes is None) == (fractions is None):
        raise TypeError("`split_classes` takes either `classes` or `fractions`; pass exactly one of them.")
    for name, given in (("classes", classes), ("fractions", fractions)):
        if given is not None and not isinstance(given, Mapping):
            raise TypeError(f"`{name}` must map meta-splits to their {name}, got {type(given).__name__}.")
    if classes is not None:
        return {name: source.select(ids) for name, ids in _listed(source, classes).items()}
    assert fractions is not None
    wanted = list(fractions)
    number = len(source.class_sizes)
    # In an order of their own, so that two mappings that are equal give equal splits.
    fractions = {name: fractions[name] for name in sorted(fractions, key=_rank)}
    ends = _ends(fractions, number)
    words = philox_words(stream_key("class split", seed, "all"), [0], number)[0]
    order = np.argsort(words, kind="stable")  # a random permutation, whatever the number of classes
    starts = [0, *ends[:-1]]
    parts = {name: np.sort(order[start:end]) for name, start, end in zip(fractions, starts, ends, strict=True)}
    return {name: source.select(parts[name]) for name in wanted}


_USUAL = ("train", "val", "test")


def _rank(name: str) -> tuple[int, str]:
    """Meta-train, meta-val, meta-test, then the others by name."""
    return _USUAL.index(name) if name in _USUAL else len(_USUAL), name


def _listed(source: ClassSource, classes: Mapping[str, Sequence[str]]) -> dict[str, list[int]]:
    ids = {name: i for i, name in enumerate(source.class_names)}
    owner: dict[str, str] = {}
    for meta_split, names in classes.items():
        if isinstance(names, str) or not isinstance(names, Collection) or not len(names):
            raise ValueError(f"`classes[{meta_split!r}]` must be a list of at least one class, got {names!r}.")
        for name in names:
            if not isinstance(name, str) or name not in ids:
                raise ValueError(
                    f"`classes[{meta_split!r}]` must hold names of classes, no class is called {name!r}; "
                    f"the first one is {source.class_names[0]!r}."
                )
            if name in owner:
                raise ValueError(f"a class must be in one meta-split only, {name!r} is in {owner[name]!r} and here, "
                                 f"in {meta_split!r}.")  # fmt: skip
            owner[name] = meta_split
    if not classes:
        raise ValueError("`classes` must name at least one meta-split, got none.")
    return {meta_split: [ids[name] for name in names] for meta_split, names in classes.items()}


def _ends(fractions: Mapping[str, float], number: int) -> list[int]:
    """Where each meta-split ends in the permuted list of `number` classes: shares are rounded, and lose nothing."""
    if not fractions:
        raise ValueError("`fractions` must name at least one meta-split, got none.")
    total, ends = Fraction(0), []
    for name, value in fractions.items():
        total += Fraction(str(check_share(value, f"fractions[{name!r}]")))
        if total > 1 + _ROUNDING:
            raise ValueError(f"`fractions` must sum to at most 1, got {dict(fractions)!r}.")
        ends.append(min(number, int(total * number + Fraction(1, 2))))
    for name, start, end in zip(fractions, [0, *ends[:-1]], ends, strict=True):
        if start == end:
            raise ValueError(f"`fractions[{name!r}]` = {fractions[name]} of {number} classes is no class; raise it.")
    return ends
