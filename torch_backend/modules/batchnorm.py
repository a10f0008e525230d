"""Batch normalisation as a MetaModule."""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torch_backend.modules.module import MetaModule, check_parameters

__all__ = ["MetaBatchNorm2d"]


class MetaBatchNorm2d(nn.BatchNorm2d, MetaModule):
    """`torch.nn.BatchNorm2d` with `forward(input, params=None)` (Ioffe & Szegedy 2015).

    Constructor, state dict and behaviour without `params` are those of `torch.nn.BatchNorm2d`. `params` holds
    `weight` and `bias`, both `(num_features,)`, if the layer has them.

    With `params`, in training mode, it normalises by the statistics of the given batch (biased variance) and
    leaves the running statistics alone: adapting to a task must not change the meta-model. Torchmeta updates
    them there. In evaluation mode it uses the running statistics, if it has any, as torch does. For statistics
    of the current batch at all times, as MAML's networks use, pass `track_running_stats=False`.

    Raises:
        ValueError: in `forward`, for an input of another number of features or with one value per feature, or if
            `params` has a missing, unknown or mis-shaped entry.
    """

    def forward(self, input: Tensor, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Normalise `(batch, num_features, H, W)` per feature."""
        if params is None:
            return super().forward(input)
        check_parameters(self, params)
        self._check_input(input)
        if self.track_running_stats and not self.training:
            normalised = F.batch_norm(input, self.running_mean, self.running_var, eps=self.eps)
        else:
            normalised = F.batch_norm(input, None, None, training=True, eps=self.eps)
        if not self.affine:
            return normalised
        # A step of its own: given the weight, torch's batch_norm has wrong second derivatives, without an error,
        # under grad(vmap(grad(…))) (seen in torch 2.14, by some per cent).
        per_channel = {name: value[:, None, None] for name, value in params.items()}
        if "bias" not in per_channel:
            return normalised * per_channel["weight"]
        return torch.addcmul(per_channel["bias"], normalised, per_channel["weight"])

    def _check_input(self, input: Tensor) -> None:
        if input.ndim != 4 or input.shape[1] != self.num_features:
            raise ValueError(
                f"`input` must be (batch, {self.num_features} channels, H, W), got shape {tuple(input.shape)}."
            )
