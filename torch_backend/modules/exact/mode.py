"""The mode in which torch's operations have right derivatives of second order."""

from typing import Any

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

from torch_backend.modules.exact.checkpoints import refuse_checkpoint, saved_tensor_hooks
from torch_backend.modules.exact.recurrence import recurrent_layer
from torch_backend.modules.exact.table import MISSING, RECURRENT_LAYERS, REWRITTEN, WITHOUT_FUSED_ATTENTION

__all__ = ["ExactDerivatives"]


class ExactDerivatives(TorchFunctionMode):
    """While it is active, the functions of this table have right derivatives of second order, under `torch.func` too.

    | function | torch 2.14 without this |
    | --- | --- |
    | batch, layer and instance normalisation with a weight | wrong by 10 to 30 % under grad(vmap(grad)), no error |
    | embedding with `padding_idx` | the padding's row gets a gradient under vmap, no error |
    | embedding bags | the derivative is not implemented |
    | fused attention | the derivative is not implemented |
    | bilinear map | task by task under vmap, with a warning |
    | PReLU | wrong at exactly 0 |
    | weight normalisation | wrong, without `torch.func` too |
    | hard sigmoid | the derivative is not implemented |
    | recurrent cells | an error under vmap |
    | recurrent layers | the derivative is not implemented in cuDNN |

    Running statistics are not written.

    Args:
        frozen: whether normalisation uses the running statistics in training mode too.
        observing: whether to compute new running statistics and put them aside; read them with `latest`.
        missing_only: whether to help only where torch has no second derivative at all, and leave the rest to it,
            running statistics included. That is for calls without `params`.
        follows_model: whether a module inside that has a policy of its own keeps it.
    """

    def __init__(
        self,
        frozen: bool = False,
        observing: bool = False,
        missing_only: bool = False,
        follows_model: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        self.observing = observing
        self.missing_only = missing_only
        self.follows_model = follows_model
        # By identity; the old statistic is kept so that no other tensor can take its identity.
        self.statistics: dict[int, tuple[Tensor, Tensor]] = {}

    def __enter__(self) -> "ExactDerivatives":
        self._outer_hooks = saved_tensor_hooks()
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the rewritten function if there is one."""
        if not self.missing_only and saved_tensor_hooks() is not self._outer_hooks:
            refuse_checkpoint(saved_tensor_hooks())
        if func in REWRITTEN and (func in MISSING or not self.missing_only):
            return REWRITTEN[func](self, *args, **(kwargs or {}))
        if func in WITHOUT_FUSED_ATTENTION:
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **(kwargs or {}))
        if func in RECURRENT_LAYERS:
            return recurrent_layer(func, *args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))

    def latest(self, statistic: Tensor) -> Tensor:
        """The running statistic that takes the place of a given one."""
        return self.statistics.get(id(statistic), (statistic, statistic))[1]

    def has_observed(self, statistic: Tensor) -> bool:
        """Whether a batch has moved this running statistic."""
        return id(statistic) in self.statistics

    def update(self, statistic: Tensor, observed: Tensor, momentum: float) -> None:
        """Put a running statistic aside; it is data, no gradient goes through it."""
        latest = torch.lerp(self.latest(statistic), observed.detach().to(statistic.dtype), momentum)
        self.statistics[id(statistic)] = statistic, latest
