"""Policies of batch normalisation while a model adapts to a task.

- `"batch"`: normalise by the statistics of the batch at hand; running statistics are neither used nor changed. That
  is MAML's usual network. (In evaluation mode a layer that has running statistics uses them, as everywhere.)
- `"frozen"`: normalise by the running statistics, which stay as they are.
- `"per-step"`: every inner step has running statistics of its own, and so has the query set after the last one
  (Antoniou, Edwards, Storkey 2019, "How to train your MAML", arXiv 1810.09502, section 4: per-step batch
  normalisation running statistics). In training mode step k normalises by its batch and moves the statistics of
  step k; in evaluation mode it normalises by the statistics of step k.

Under every policy nothing leaks from one task to another, nor from the query set to the support set: a model's own
running statistics never change inside an inner loop.
"""

from collections.abc import Mapping, Sequence
from typing import Literal

__all__ = ["BatchNormPolicy", "check_buffers", "check_function", "check_policy"]

BatchNormPolicy = Literal["batch", "frozen", "per-step"]


def check_policy(policy: str, allowed: Sequence[str]) -> None:
    """Raise `ValueError` unless `policy`, the argument `batch_norm`, is one of the `allowed` ones."""
    if policy not in allowed:
        raise ValueError(f"`batch_norm` must be {' or '.join(map(repr, allowed))}, got {policy!r}.")


def check_buffers(buffers: object, batch_norm: str | None, steps: int) -> None:
    """Raise `ValueError` unless `buffers` fit the policy of batch normalisation.

    With `"per-step"` they are a list of `steps + 1` mappings: one for each inner step and one for the query set.
    Otherwise they are one mapping, or `None` for the model's own.
    """
    if batch_norm != "per-step":
        if buffers is not None and not isinstance(buffers, Mapping):
            raise ValueError(
                f"`buffers` must be a mapping name → array with batch_norm={batch_norm!r}, got "
                f'{type(buffers).__name__}; a list of mappings goes with batch_norm="per-step".'
            )
        return
    fits = isinstance(buffers, Sequence) and all(isinstance(each, Mapping) for each in buffers)
    count = len(buffers) if isinstance(buffers, Sequence) else 0
    if not fits or count != steps + 1:
        raise ValueError(
            f'`buffers` must be a list of steps + 1 = {steps + 1} mappings with batch_norm="per-step", got '
            f"{f'{count} of them' if fits else type(buffers).__name__}; make it with per_step_buffers(model, {steps})."
        )


def check_function(params: object, buffers: object, batch_norm: str | None) -> None:
    """Raise `ValueError` unless these arguments of `adapt` fit a model that is a function: it stores nothing."""
    if params is None:
        raise ValueError("`params` must be given where `model` is a function: it stores none; pass a tree of arrays.")
    if buffers is not None or batch_norm is not None:
        raise ValueError(
            "`buffers` and `batch_norm` must be left out where `model` is a function: it has no buffers; pass the "
            "module itself."
        )
