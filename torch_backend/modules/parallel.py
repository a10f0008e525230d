"""`DataParallel`: one MetaModule on several GPUs of one process."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn
from torch.nn.parallel import parallel_apply, replicate

from torch_backend.modules.module import MetaModule

__all__ = ["DataParallel"]


class DataParallel(nn.DataParallel, MetaModule):
    """`torch.nn.DataParallel` of a MetaModule, with `forward(*inputs, params=None)`.

    Inputs are split along `dim`, `params` are copied to every GPU with their graph, so that gradients of all parts
    reach the given tensors. Their names may begin with `module.` or not, for all alike. Without a GPU the module
    is called as it is.

    Args:
        module: a MetaModule.
        device_ids: the GPUs; all by default.
        output_device: where outputs are gathered; the first GPU by default.
        dim: the axis of the inputs that is split.

    Raises:
        ValueError: if `module` is no MetaModule.
    """

    _takes_params_itself = True

    def __init__(self, module: MetaModule, device_ids: Any = None, output_device: Any = None, dim: int = 0) -> None:
        if not isinstance(module, MetaModule):
            raise ValueError(
                f"`module` must be a MetaModule, got {type(module).__name__}; make it one with as_meta_module."
            )
        super().__init__(module, device_ids, output_device, dim)

    def forward(self, *inputs: Any, params: Mapping[str, Tensor] | None = None, **options: Any) -> Any:
        """The module's outputs for the whole batch."""
        if params is None:
            return super().forward(*inputs, **options)
        if params and all(not name.startswith("module.") for name in params):
            params = {f"module.{name}": value for name, value in params.items()}
        own = self.get_subdict(params, "module") or {}
        if not self.device_ids:
            return self.module(*inputs, params=own, **options)
        parts, part_options = self.scatter(inputs, options, self.device_ids)
        devices = self.device_ids[: len(parts)]
        for each, device in zip(part_options, devices, strict=True):
            each["params"] = {name: value.to(f"cuda:{device}") for name, value in own.items()}
        replicas = replicate(self.module, devices)
        for replica in replicas:
            _restore_parameters(replica)
        outputs = parallel_apply(replicas, parts, part_options, devices)
        return self.gather(outputs, self.output_device)


def _restore_parameters(replica: nn.Module) -> None:
    """A replica has its parameters as plain attributes, so that no optimiser sees them; here they need their places."""
    for module in replica.modules():
        former: Any = module._former_parameters
        for name, value in former.items():
            del module.__dict__[name]
            module._parameters[name] = value
