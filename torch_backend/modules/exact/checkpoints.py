"""Gradient checkpoints inside a call with `params`."""

from typing import Any

import torch

__all__ = ["refuse_checkpoint", "saved_tensor_hooks"]


def saved_tensor_hooks() -> Any:
    """The hook that packs what backward needs, of whatever context is innermost; `None` if there is none."""
    ask = getattr(getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None)
    if ask is None or torch.compiler.is_compiling():
        return None
    hooks = ask(True)
    return hooks[0] if hooks else None


def refuse_checkpoint(hook: Any) -> None:
    """A checkpoint inside the call would compute again when the module has its stored parameters back."""
    if "_checkpoint_hook" in getattr(hook, "__qualname__", ""):
        raise RuntimeError(
            "gradient checkpointing inside a call with `params` would go back to the stored parameters; checkpoint "
            "the call itself: checkpoint(lambda x, p: model(x, params=p), inputs, params, use_reentrant=False)."
        )
