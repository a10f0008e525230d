"""Compiled functions of meta-parameters and a meta-batch, kept until the module they were compiled from changes."""

import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import jax
from flax import nnx

from jax_backend.modules import MetaModule
from jax_backend.modules.placement import substituted
from jax_backend.trees import is_array, named_leaves, split

__all__ = ["MOST_KEPT", "Programs", "platform_of"]

MOST_KEPT = 32
"""Programs that an algorithm keeps."""


class Programs:
    """The compiled functions of one algorithm.

    Leaves of `params` that are no arrays are part of a program, and so are the attributes of the algorithm and the
    settings of the NNX modules among them. After a change of one, as by `eval()`, functions are compiled anew. Arrays
    that the modules store besides the parameters that come from outside, such as running statistics and the state of
    random numbers, are arguments. The programs used last are kept, `MOST_KEPT` of them: where a leaf of `params` is a
    new function at every call, every call compiles.

    Args:
        algorithm: whose methods are compiled. Where its model is a function, what that closes over must not change,
            as in `jax.jit`; nor may an array of NumPy be written to.
    """

    def __init__(self, algorithm: Any) -> None:
        self._algorithm = algorithm
        self._content: list[Any] = []
        self._compiled: OrderedDict[Any, Callable[..., Any]] = OrderedDict()
        self._looked_for_convolutions = False

    def run(self, function: Callable[[Any, Any], Any], params: Any, batch: Any, settings: tuple[Any, ...]) -> Any:
        """`function(params, batch)`, compiled once for equal `settings`.

        Args:
            function: pure; another one for the same settings must compute the same.
            params: any pytree.
            batch: any pytree of arrays.
            settings: hashable, what `function` depends on.

        Raises:
            TypeError: for a leaf of `params` that is neither an array nor hashable.
        """
        self._forget_if_changed()
        parts = split(params, is_array)
        leaves, structure = jax.tree.flatten(params)
        key = (settings, structure, tuple(None if is_array(leaf) else (leaf,) for leaf in leaves))
        stored = [each for each in self._content if isinstance(each, nnx.Variable) and is_array(each.get_value())]
        if not _is_hashable(key):
            raise _unhashable(params)
        if key not in self._compiled:

            def compute(arrays: Any, values: list[Any], batch: Any) -> Any:
                replaced = {id(variable): value for variable, value in zip(stored, values, strict=True)}
                with substituted([], stored, replaced):
                    return function(parts.merge(arrays), batch)

            self._compiled[key] = jax.jit(compute)
            if len(self._compiled) > MOST_KEPT:
                self._compiled.popitem(last=False)
        self._compiled.move_to_end(key)
        return self._compiled[key](parts.chosen, [each.get_value() for each in stored], batch)

    def _forget_if_changed(self) -> None:
        content = list(_content(vars(self._algorithm), set()))
        if len(content) != len(self._content) or not all(map(_is_same, content, self._content)):
            self._content = content
            self._compiled.clear()

    def warn_of_slow_convolutions(self, apply: Callable[[Any, Any], Any], params: Any, inputs: Any) -> None:
        """Warn once if the model computes with XLA's convolutions, whose derivatives are slow on a CPU."""
        if self._looked_for_convolutions:
            return
        self._looked_for_convolutions = True
        parts = split(params, is_array)
        program = jax.make_jaxpr(lambda arrays, inputs: apply(parts.merge(arrays), inputs))(parts.chosen, inputs)
        if "conv_general_dilated" in str(program):
            warnings.warn(
                "the model uses jax.lax's convolutions, whose second derivatives take XLA up to thirty times longer on "
                "a CPU than matrix products; use MetaConv2d of jax_backend.modules, or its function "
                "jax_backend.modules.conv.conv. A GPU runs them well.",
                stacklevel=3,
            )


def _is_hashable(value: Any) -> bool:
    try:
        hash(value)
    except TypeError:
        return False
    return True


def _unhashable(params: Any) -> TypeError:
    """An error that names what of `params` can be neither an argument of a program nor part of its key."""
    leaves = {name: leaf for name, leaf in named_leaves(params).items() if not (is_array(leaf) or _is_hashable(leaf))}
    found = [f"a {type(leaf).__name__} at {name!r}" for name, leaf in leaves.items()] or ["a static field"]
    return TypeError(
        f"`params` holds {found[0]}, which is neither an array nor hashable, so no program can be compiled for it; "
        "register its class as a pytree, or keep it in the model."
    )


def platform_of(params: Any) -> str:
    """`"cpu"`, `"gpu"`, …: where the arrays are, or, while JAX traces, where it computes by default."""
    for leaf in jax.tree.leaves(params):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, jax.core.Tracer):
            return next(iter(leaf.devices())).platform
    return jax.default_backend()


def _content(node: Any, seen: set[int], owned: bool = False) -> Iterator[Any]:
    """Settings and stored variables of an algorithm and its modules, without parameters that `params` replaces."""
    if id(node) in seen:
        return
    seen.add(id(node))
    owned = owned or (isinstance(node, MetaModule) and node._owns_all)
    replaced = owned or isinstance(node, MetaModule)
    for name, value in _entries(node):
        if isinstance(value, nnx.Variable):
            if not (replaced and isinstance(value, nnx.Param)):
                yield value
        elif isinstance(value, (nnx.Pytree, list, tuple, dict)):
            yield from _content(value, seen, owned)
        elif not isinstance(value, Programs):
            yield name
            yield value


def _entries(node: Any) -> Iterable[tuple[Any, Any]]:
    if isinstance(node, (list, tuple)):
        return enumerate(node)
    return (node if isinstance(node, dict) else vars(node)).items()


def _is_same(first: Any, second: Any) -> bool:
    """Whether two entries are one object, or equal settings of one type."""
    equal = isinstance(first, (bool, int, float, str)) and type(first) is type(second) and first == second
    return first is second or equal
