"""Recurrent cells and layers."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_backend.modules.exact.context import Context
from torch_backend.modules.exact.transforms import active_transforms

__all__ = ["gru_cell", "lstm_cell", "recurrent_layer", "simple_cell"]


def simple_cell(nonlinearity: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    """One step of a simple recurrent network with this nonlinearity."""

    def cell(
        mode: Context,
        input: Tensor,
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        del mode
        return nonlinearity(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))

    return cell


def lstm_cell(
    mode: Context,
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """One step of a long short-term memory."""
    del mode
    hidden, cell = hx
    gates = F.linear(input, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
    enter, forget, candidate, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def gru_cell(
    mode: Context,
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    """One step of a gated recurrent unit."""
    del mode
    reset_in, update_in, new_in = F.linear(input, w_ih, b_ih).chunk(3, -1)
    reset_hidden, update_hidden, new_hidden = F.linear(hx, w_hh, b_hh).chunk(3, -1)
    reset, update = (reset_in + reset_hidden).sigmoid(), (update_in + update_hidden).sigmoid()
    new = (new_in + reset * new_hidden).tanh()
    return new + update * (hx - new)


def recurrent_layer(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    """A recurrent layer without cuDNN; an error under `vmap`."""
    if "Vmap" in active_transforms():
        raise RuntimeError(
            f"torch's recurrent layers (here {func.__name__}) do not work under torch.func.vmap; go through the tasks "
            "one by one (task_map='sequential'), or use MetaLSTMCell, MetaGRUCell or MetaRNNCell."
        )
    with torch.backends.cudnn.flags(enabled=False):
        return func(*args, **kwargs)
