"""`MetaModule`: a module whose forward pass takes its parameters from outside."""

from collections.abc import Iterator, Mapping
from typing import Any

from torch import Tensor, nn

from metabridge.adaptation.names import select_subdict
from torch_backend.modules.placement import meta_entries, taking_params

__all__ = ["MetaLayer", "MetaModule"]


class MetaModule(nn.Module):
    """A module whose forward pass takes one more argument, `params=None`, as Torchmeta defines it.

    With `params=None` it is the ordinary module. With `params`, a mapping from the names of
    `meta_named_parameters()` to tensors, those tensors take the place of the stored parameters in the whole tree of
    modules, and gradients flow through them. The call changes no buffer of the tree.

    A subclass is written as any module; children need not be MetaModules themselves, and are called without `params`:

        class Model(MetaModule):
            def __init__(self):
                super().__init__()
                self.features = nn.Sequential(MetaLinear(1, 40), nn.ReLU())
                self.head = MetaLinear(40, 1)

            def forward(self, inputs):
                return self.head(self.features(inputs))

    A `forward` with an argument `params` receives it, and may hand each child its part as in Torchmeta:
    `self.head(features, params=self.get_subdict(params, "head"))`. A child that is given other tensors than those in
    place computes with them. `as_meta_module` makes a MetaModule of a module that is already written.

    Raises:
        ValueError: in a call whose `params` lacks a name, has an unknown one, or holds a value that is no tensor of
            the parameter's shape (contract C10): a partial mapping is an error, never a silent use of unadapted
            parameters. So is a call of a MetaModule that the called module does not hold, which `params` cannot reach.

    Note:
        A call with `params` is not for two threads on one module at once.
    """

    _owns_all = False
    """Whether the parameters of ordinary modules inside are this module's own, to be given in `params`."""
    _takes_params_itself = False
    """Whether its forward pass does with `params` what it likes, so that they are not put in place before it."""
    _meta_is_exact = False
    """Whether torch's own derivatives are right at second order, so that `ExactDerivatives` would only cost time."""
    _meta_lacks_derivatives = False
    """Whether torch may have no second derivative, so that it needs help also for the step that starts from the stored
    parameters."""
    _meta_frozen = False
    """Whether normalisation with `params` uses the running statistics in training mode too."""

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        forward: Any = cls.forward
        if not (forward is nn.Module.forward or hasattr(forward, "takes_params") or cls._takes_params_itself):
            cls.forward = taking_params(forward)

    def meta_named_parameters(self, prefix: str = "", recurse: bool = True) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters owned by this MetaModule and the MetaModules below it, each tensor once.

        The parameters of an ordinary module inside are not among them: they are not adapted. `params` may name them,
        as `OrderedDict(model.named_parameters())` does, where it holds the stored parameters themselves.
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
        return select_subdict(meta_entries(self, params), wanted, names.values(), type(self).__name__)


class MetaLayer(MetaModule):
    """Comes before a torch class among the bases, and all parameters inside are its own."""

    _owns_all = True


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
