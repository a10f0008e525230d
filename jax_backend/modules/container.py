"""Containers of layers: one after another, numbered, or named."""

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from typing import Any, NoReturn, Self, overload

from jax_backend.modules.module import MetaModule

__all__ = ["MetaModuleDict", "MetaModuleList", "MetaSequential"]

Layer = Callable[..., Any]


class _Container(MetaModule):
    """Layers as attributes, in the order of `child_names`."""

    def __init__(self, layers: Mapping[str, Layer]) -> None:
        self.child_names: tuple[str, ...] = ()
        for name, layer in layers.items():
            self._set(name, layer)

    def __len__(self) -> int:
        return len(self.child_names)

    def _set(self, name: str, layer: Layer) -> None:
        if name not in self.child_names:
            if not name or "." in name or hasattr(self, name):
                raise ValueError(
                    f"{type(self).__name__} cannot call a layer {name!r}: a name must not be empty, hold a dot or be "
                    "that of an attribute; choose another."
                )
            self.child_names = (*self.child_names, name)
        setattr(self, name, layer)

    def _layers(self) -> dict[str, Layer]:
        return {name: getattr(self, name) for name in self.child_names}

    def _refuse_call(self) -> NoReturn:
        raise NotImplementedError(
            f"{type(self).__name__} only holds layers and cannot be called; call them one by one or use MetaSequential."
        )


class _Ordered(_Container):
    """Layers by position."""

    def __iter__(self) -> Iterator[Layer]:
        return iter(self._layers().values())

    def _name_at(self, position: int) -> str:
        if not -len(self) <= position < len(self):
            raise IndexError(f"{type(self).__name__} has {len(self)} layers, got the index {position}.")
        return self.child_names[position]


class MetaSequential(_Ordered):
    """Calls its layers in order; the mirror of `torch_backend.modules.MetaSequential`.

    `params` holds the parameters of the MetaModules inside, named `<child>.<parameter>`, for example `"0.weight"`.
    Other layers may be any callables. It has a length, and indices, slices and iteration over layers.

    Args:
        args: layers, named `"0"`, `"1"`, …; or one mapping name → layer.

    Raises:
        ValueError: for a name that no layer can have.
    """

    def __init__(self, *args: Layer | Mapping[str, Layer]) -> None:
        if len(args) == 1 and isinstance(args[0], Mapping):
            layers: dict[str, Any] = dict(args[0])
        else:
            layers = {str(position): layer for position, layer in enumerate(args)}
        super().__init__(layers)

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> "MetaSequential": ...
    def __getitem__(self, index: int | slice) -> "Layer | MetaSequential":
        if isinstance(index, slice):
            return MetaSequential({name: getattr(self, name) for name in self.child_names[index]})
        return getattr(self, self._name_at(index))

    def __call__(self, input: Any) -> Any:
        """Pass `input` through every child in order."""
        for layer in self._layers().values():
            input = layer(input)
        return input


class MetaModuleList(_Ordered):
    """A list of layers, as `torch.nn.ModuleList`; their parameters are named `"0.weight"`, ….

    It has a length, and indices, slices (a new list of the same layers) and iteration. It cannot be called.

    Args:
        modules: layers, which may be any callables.

    Raises:
        IndexError: for a position that is not there.
        NotImplementedError: in the call.
    """

    _takes_params_itself = True

    def __init__(self, modules: Iterable[Layer] | None = None) -> None:
        super().__init__({})
        self.extend(modules or ())

    @overload
    def __getitem__(self, index: int) -> Layer: ...
    @overload
    def __getitem__(self, index: slice) -> "MetaModuleList": ...
    def __getitem__(self, index: int | slice) -> "Layer | MetaModuleList":
        if isinstance(index, slice):
            return MetaModuleList(getattr(self, name) for name in self.child_names[index])
        return getattr(self, self._name_at(index))

    def __setitem__(self, index: int, module: Layer) -> None:
        self._set(self._name_at(index), module)

    def append(self, module: Layer) -> Self:
        """Add a layer at the end; returns the list."""
        self._set(str(len(self)), module)
        return self

    def extend(self, modules: Iterable[Layer]) -> Self:
        """Add layers at the end; returns the list."""
        for module in list(modules):
            self.append(module)
        return self

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a list has no order of computation."""
        self._refuse_call()


class MetaModuleDict(_Container):
    """A dictionary of layers, as `torch.nn.ModuleDict`; their parameters are named `"<key>.weight"`, ….

    It has a length, keys and iteration over them. It cannot be called.

    Args:
        modules: name → layer, which may be any callable.

    Raises:
        KeyError: for a name that is not there.
        ValueError: for a name that no layer can have: an empty one, one with a dot or that of a method.
        NotImplementedError: in the call.
    """

    _takes_params_itself = True

    def __init__(self, modules: Mapping[str, Layer] | Iterable[tuple[str, Layer]] | None = None) -> None:
        super().__init__(dict(modules or {}))

    def __iter__(self) -> Iterator[str]:
        return iter(self.child_names)

    def __contains__(self, key: object) -> bool:
        return key in self.child_names

    def __getitem__(self, key: str) -> Layer:
        if key not in self.child_names:
            raise KeyError(
                f"{key!r} is no layer of this MetaModuleDict; it has {', '.join(self.child_names) or 'none'}"
            )
        return getattr(self, key)

    def __setitem__(self, key: str, module: Layer) -> None:
        self._set(key, module)

    def keys(self) -> KeysView[str]:
        """The names of the layers."""
        return self._layers().keys()

    def values(self) -> ValuesView[Layer]:
        """The layers."""
        return self._layers().values()

    def items(self) -> ItemsView[str, Layer]:
        """Names and layers."""
        return self._layers().items()

    def update(self, modules: Mapping[str, Layer] | Iterable[tuple[str, Layer]]) -> None:
        """Add layers, or put them in the place of those of the same names."""
        for name, module in dict(modules).items():
            self._set(name, module)

    def __call__(self, *args: Any, **kwargs: Any) -> NoReturn:
        """Refuse: a dictionary has no order of computation."""
        self._refuse_call()
