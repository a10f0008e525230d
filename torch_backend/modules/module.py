"""`MetaModule`: a module whose forward pass takes its parameters from outside."""

from collections.abc import Iterator, Mapping

from torch import Tensor, nn

from metabridge.adaptation.names import select_subdict

__all__ = ["MetaModule"]


class MetaModule(nn.Module):
    """A module with `forward(..., params=None)`, as Torchmeta defines it.

    With `params=None` it is the ordinary module. With `params`, a mapping from the names of
    `meta_named_parameters()` to tensors, those tensors take the place of the stored parameters, and gradients
    flow through them. Every parameter must be there and no other name (contract C10); a partial mapping is an
    error, never a silent use of unadapted parameters.

    A subclass hands each child its part:

        class Model(MetaModule):
            def __init__(self):
                super().__init__()
                self.features = MetaSequential(MetaLinear(1, 40), nn.ReLU())
                self.head = MetaLinear(40, 1)

            def forward(self, inputs, params=None):
                features = self.features(inputs, params=self.get_subdict(params, "features"))
                return self.head(features, params=self.get_subdict(params, "head"))

    `as_meta_module` makes one of a module that is already written.
    """

    _owns_all = False
    """Whether the parameters of ordinary modules inside are this module's own, to be given in `params`."""

    def meta_named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters owned by this MetaModule and the MetaModules below it, each tensor once.

        The parameters of an ordinary module inside are not among them: they are not adapted.
        """
        return _meta_named_parameters(self, prefix, recurse)

    def meta_parameters(self, recurse: bool = True) -> Iterator[nn.Parameter]:
        """The parameters of `meta_named_parameters`."""
        return (parameter for _, parameter in self.meta_named_parameters(recurse=recurse))

    def meta_named_buffers(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, Tensor]]:
        """Names and values of all buffers, such as running statistics; `call_with_buffers` takes and returns them."""
        return self.named_buffers(prefix, recurse)

    def get_subdict(self, params: Mapping[str, Tensor] | None, key: str | None = None) -> dict[str, Tensor] | None:
        """The part of `params` for the submodule `key`, with the prefix `key.` removed.

        Args:
            params: name → tensor for all parameters of this module, or `None`.
            key: dotted name of a submodule; `None` checks and returns all of `params`.

        Returns:
            `None` if `params` is `None`; an empty dictionary if the submodule has no meta-parameters, which is still
            a call with `params`.

        Raises:
            ValueError: if a name is unknown or missing, or there is no submodule `key`.
        """
        if params is None:
            return None
        names = {parameter: name for name, parameter in self.meta_named_parameters()}
        try:
            child = self.get_submodule(key or "")
        except AttributeError:
            children = ", ".join(name for name, _ in self.named_children())
            raise ValueError(f"{type(self).__name__} has no submodule {key!r}; it has {children or 'none'}.") from None
        parts = (key or "").split(".")
        above = (self.get_submodule(".".join(parts[:depth])) for depth in range(len(parts)))
        whole = any(isinstance(each, MetaModule) and each._owns_all for each in above)
        inside = _meta_named_parameters(child, whole=whole)
        wanted = {name: names[parameter] for name, parameter in inside}
        return select_subdict(params, wanted, names.values(), type(self).__name__)


def _meta_named_parameters(
    module: nn.Module, prefix: str = "", recurse: bool = True, whole: bool = False
) -> Iterator[tuple[str, nn.Parameter]]:
    """Parameters of the MetaModules in `module` (`whole`: of everything in it), each tensor once, by its first name."""
    seen: set[nn.Parameter] = set()
    for path, each in module.named_modules(prefix=prefix) if recurse else [(prefix, module)]:
        if isinstance(each, MetaModule) or whole:
            inside = recurse and (whole or each._owns_all)
            for name, parameter in each.named_parameters(path, recurse=bool(inside)):
                if parameter not in seen:
                    seen.add(parameter)
                    yield name, parameter
