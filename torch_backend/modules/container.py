"""Containers of MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaModule

__all__ = ["MetaModuleDict", "MetaModuleList", "MetaSequential"]


class MetaSequential(nn.Sequential, MetaModule):
    """`torch.nn.Sequential` with `forward(input, params=None)`.

    Pass `input` through every child in order.

    `params` holds the parameters of the MetaModules inside, named `<child>.<parameter>`, for example `"0.weight"`.
    Ordinary modules keep their own parameters.
    """


class MetaModuleList(nn.ModuleList, MetaModule):
    """`torch.nn.ModuleList`; its parameters are named `"0.weight"`, `"1.weight"`, …. It has no forward pass."""


class MetaModuleDict(nn.ModuleDict, MetaModule):
    """`torch.nn.ModuleDict`; its parameters are named `"<key>.weight"`. It has no forward pass."""
