"""Embeddings and bags of embeddings."""

import torch
import torch.nn.functional as F
from torch import Tensor

from torch_backend.modules.exact.context import Context
from torch_backend.modules.exact.transforms import active_transforms

__all__ = ["embedding", "embedding_bag"]


def embedding(
    mode: Context,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    """`F.embedding` whose padding row gets no gradient, under `vmap` too."""
    del mode, norm_type, sparse  # a sparse gradient cannot be differentiated again; a dense one is the same numbers
    _refuse_renormalisation(max_norm)
    _refuse_scaling(scale_grad_by_freq)
    rows = F.embedding(input, weight)
    if padding_idx is None:
        return rows
    return torch.where((input == padding_idx % len(weight))[..., None], rows.detach(), rows)


def embedding_bag(
    context: Context,
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    mode: str = "mean",
    sparse: bool = False,
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """`F.embedding_bag` with a second derivative."""
    if context.missing_only and (max_norm is not None or scale_grad_by_freq or sparse):
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    _refuse_renormalisation(max_norm)
    _refuse_scaling(scale_grad_by_freq)
    if context.missing_only and not active_transforms():
        with torch.no_grad():  # torch's own checks of the offsets, which look at their values
            F.embedding_bag(
                input, weight, offsets, mode=mode, per_sample_weights=per_sample_weights,
                include_last_offset=include_last_offset, padding_idx=padding_idx,
            )  # fmt: skip
    if per_sample_weights is not None and mode != "sum":
        raise NotImplementedError(f"`per_sample_weights` goes with mode='sum' alone, as in torch, got {mode!r}.")
    if offsets is not None and input.ndim != 1:
        raise ValueError(f"`offsets` go with a one-dimensional `input` alone, got shape {tuple(input.shape)}.")
    counted = torch.ones_like(input, dtype=torch.bool)
    if padding_idx is not None:
        counted = input != padding_idx % len(weight)
    rows = F.embedding(input, weight)
    shares = counted.to(rows.dtype) if per_sample_weights is None else per_sample_weights * counted
    if input.ndim == 2:
        counts = counted.sum(1)
        chosen = rows.masked_fill(~counted[..., None], -torch.inf).max(1).values if mode == "max" else None
        total = (rows * shares[..., None]).sum(1)
    elif offsets is None:
        raise ValueError("`offsets` must be given with a one-dimensional `input`: where each bag starts.")
    else:
        starts = offsets.new_zeros(len(input) + 1).index_add(0, offsets, torch.ones_like(offsets))
        bag = starts.cumsum(0)[:-1] - 1
        counts = offsets.new_zeros(len(offsets)).index_add(0, bag, counted.to(offsets.dtype))
        chosen = _largest_of_bags(rows, counted, bag, len(offsets)) if mode == "max" else None
        total = rows.new_zeros(len(offsets), rows.shape[1]).index_add(0, bag, rows * shares[:, None])
    if chosen is not None:
        total = chosen.masked_fill(counts[:, None] == 0, 0.0)
    if mode == "mean":
        total = total / counts.clamp(min=1)[:, None]
    return total[:-1] if include_last_offset else total  # the last offset is where the last bag ends


def _largest_of_bags(rows: Tensor, counted: Tensor, bag: Tensor, bags: int) -> Tensor:
    """Largest entries `(bags, width)` of the rows of each bag, the first of equals; anything for an empty bag."""
    index = bag[:, None].expand_as(rows)
    values = rows.detach().masked_fill(~counted[:, None], -torch.inf)
    largest = values.new_full((bags, rows.shape[1]), -torch.inf).scatter_reduce(0, index, values, "amax")
    places = torch.arange(len(rows), device=rows.device)[:, None].expand_as(rows)
    candidates = torch.where(counted[:, None] & (values == largest.gather(0, index)), places, len(rows) - 1)
    first = torch.full_like(largest, len(rows) - 1, dtype=torch.int64).scatter_reduce(0, index, candidates, "amin")
    return rows.gather(0, first)


def _refuse_renormalisation(max_norm: float | None) -> None:
    if max_norm is not None:
        raise ValueError(
            f"`max_norm` must be None with `params`, got {max_norm}: torch would write into the given parameters; "
            "renormalise them before the call."
        )


def _refuse_scaling(scale_grad_by_freq: bool) -> None:
    if scale_grad_by_freq:
        raise ValueError(
            "`scale_grad_by_freq` must be False with `params`, got True: gradients scaled by frequency belong to no "
            "function, so they have no derivative, and under `vmap` torch counts over all tasks; leave it False."
        )
