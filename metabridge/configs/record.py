"""`Config`: a frozen record that goes to and from JSON."""

from collections.abc import Mapping
from dataclasses import fields
from typing import Any, Self

from metabridge.checks import check_mapping

__all__ = ["Config"]


class Config:
    """To and from JSON-ready dictionaries."""

    def to_dict(self) -> dict[str, Any]:
        """The record as nested dictionaries of JSON-ready values."""
        members = {each.name: getattr(self, each.name) for each in fields(self)}  # type: ignore[arg-type]  # dataclasses
        return {name: _plain(value) for name, value in members.items()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Self:
        """The record of a mapping from `to_dict`, also after a round trip through JSON.

        Raises:
            ValueError: for an unknown field, naming the known ones.
        """
        check_mapping(values, "values", "pass what `to_dict` returned")
        known = {each.name: each for each in fields(cls)}  # type: ignore[arg-type]
        unknown = [name for name in values if name not in known]
        if unknown:
            raise ValueError(f"{cls.__name__} has no field {unknown[0]!r}; it has {', '.join(known)}.")
        return cls(**{name: _restore(known[name].type, value) for name, value in values.items()})


def _plain(value: Any) -> Any:
    """The same value in Python's own types: an argument may be a number of NumPy, which JSON does not know."""
    if isinstance(value, Config):
        return value.to_dict()
    if isinstance(value, tuple):
        return tuple(map(_plain, value))
    return value.item() if hasattr(value, "item") else value


def _restore(kind: Any, value: Any) -> Any:
    if isinstance(kind, type) and issubclass(kind, Config):
        return kind.from_dict(value)
    return tuple(value) if isinstance(value, list) else value
