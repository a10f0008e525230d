"""Calls of modules with `params`: the argument itself, and the calls in progress."""

import inspect
import threading
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

__all__ = ["CALLS", "Call", "ParamsArgument", "check_meta_module", "check_model"]


def check_model(model: object, example: str) -> None:
    """Raise `TypeError` unless `model` can be called, or if it is a class.

    Args:
        model: what the caller gave.
        example: a model to propose, for messages.
    """
    if isinstance(model, type):
        raise TypeError(f"`model` must be an instance, got the class {model.__name__}; pass {model.__name__}(…).")
    if not callable(model):
        raise TypeError(
            f"`model` must be a module or a function apply(params, inputs), got {type(model).__name__}, which cannot "
            f"be called; pass for example {example}."
        )


def check_meta_module(model: object, kind: type, backend: str) -> None:
    """Raise `ValueError` unless `model` is of `kind`, the MetaModule of a backend."""
    if not isinstance(model, kind):
        raise ValueError(
            f"`model` must be a MetaModule, got {type(model).__name__}; build it from {backend}.modules, or make it "
            "one with as_meta_module."
        )


class ParamsArgument:
    """The argument `params` of a forward pass, whether its signature has one or not.

    Args:
        forward: a method.

    Attributes:
        signature: that of `forward`, with `params=None` behind its positional arguments if it has none.
    """

    def __init__(self, forward: Callable[..., Any]) -> None:
        signature = inspect.signature(forward)
        self._passes_on = "params" in signature.parameters
        self.signature = signature if self._passes_on else _with_params(signature)
        self._position = _position_of_params(self.signature)

    def split(self, inputs: tuple[Any, ...], options: dict[str, Any]) -> tuple[Any, tuple[Any, ...], dict[str, Any]]:
        """(`params`, positional and named arguments that `forward` itself takes) of a call."""
        position = self._position
        if position is not None and len(inputs) > position:
            params, others = inputs[position], (*inputs[:position], *inputs[position + 1 :])
            return params, inputs if self._passes_on else others, options
        params = options.get("params")
        if not self._passes_on:
            options = {name: value for name, value in options.items() if name != "params"}
        return params, inputs, options


def _with_params(signature: inspect.Signature) -> inspect.Signature:
    before = [each for each in signature.parameters.values() if each.kind <= inspect.Parameter.POSITIONAL_OR_KEYWORD]
    after = list(signature.parameters.values())[len(before) :]
    kind: Any = inspect.Parameter.POSITIONAL_OR_KEYWORD
    if after and after[0].kind is inspect.Parameter.VAR_POSITIONAL:
        before.append(after.pop(0))
        kind = inspect.Parameter.KEYWORD_ONLY
    return signature.replace(parameters=[*before, inspect.Parameter("params", kind, default=None), *after])


def _position_of_params(signature: inspect.Signature) -> int | None:
    """How many arguments come before `params`, without `self`; `None` if it is given by name alone."""
    if signature.parameters["params"].kind is inspect.Parameter.KEYWORD_ONLY:
        return None
    return list(signature.parameters).index("params") - 1


@dataclass(frozen=True)
class Call:
    """A call in progress of a module whose parameters or buffers are replaced.

    Attributes:
        owner: class name of the outermost module.
        members: identities of this module and of all modules inside.
        with_params: whether parameters are replaced, and not buffers alone.
        context: how the backend computes in it.
    """

    owner: str
    members: frozenset[int]
    with_params: bool
    context: Any


class _Calls(threading.local):
    """The calls in progress in a thread.

    Attributes:
        stack: the calls, the innermost last.
    """

    def __init__(self) -> None:
        self.stack: list[Call] = []

    def around(self, module: object) -> Call | None:
        """The innermost call of a module that is `module` or holds it."""
        for call in reversed(self.stack):
            if id(module) in call.members:
                return call
        return None

    def check_reached(self, module: object, names: Iterable[str]) -> None:
        """Raise `ValueError` where a module with parameters would run without those given to the model that calls it.

        Args:
            module: a module that no call in progress holds.
            names: of its parameters.
        """
        owners = [call.owner for call in self.stack if call.with_params]
        if owners and next(iter(names), None) is not None:
            kind = type(module).__name__
            raise ValueError(
                f"{kind} runs inside a call of {owners[-1]} with `params`, but {owners[-1]} does not hold it, so they "
                f"do not reach it; assign the {kind} to an attribute or keep it in a MetaModuleList, or, to run it "
                "unadapted, pass it `params=dict(layer.meta_named_parameters())`."
            )


CALLS = _Calls()
