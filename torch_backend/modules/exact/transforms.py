"""Which `torch.func` transforms are around a call."""

import torch

__all__ = ["active_transforms"]


def active_transforms() -> tuple[str, ...]:
    """Names of the `torch.func` transforms around this. There is no public way to ask; not knowing counts as some."""
    stack = getattr(torch._C._functorch, "get_interpreter_stack", None)
    if torch.compiler.is_compiling() or stack is None:
        return ("unknown",)
    return tuple(each.key().name for each in stack() or ())
