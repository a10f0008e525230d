"""Recurrent cells as MetaModules."""

from collections.abc import Mapping

from torch import Tensor, nn

from torch_backend.modules.layer import MetaLayer

__all__ = ["MetaGRUCell", "MetaLSTMCell", "MetaRNNCell"]


class MetaRNNCell(MetaLayer, nn.RNNCell):
    """`torch.nn.RNNCell` with `forward(input, hx=None, params=None)`: `tanh(W x + b + U h + c)`.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.RNNCell`. `params` holds `weight_ih`
    `(hidden_size, input_size)`, `weight_hh` `(hidden_size, hidden_size)` and, unless `bias=False`,
    `bias_ih` and `bias_hh`, both `(hidden_size,)`.

    Raises:
        ValueError: in `forward`, for an input or state of other axes, or if `params` has a missing, unknown or
            mis-shaped entry.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, input_size)` and the state `(batch, hidden_size)`, zero if not given, to the next state."""
        return self._meta_run(params, input, hx)


class MetaLSTMCell(MetaLayer, nn.LSTMCell):
    """`torch.nn.LSTMCell` with `forward(input, hx=None, params=None)`: a cell of Hochreiter & Schmidhuber 1997.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.LSTMCell`. `params` holds `weight_ih`
    `(4 · hidden_size, input_size)`, `weight_hh` `(4 · hidden_size, hidden_size)` and, unless `bias=False`,
    `bias_ih` and `bias_hh`, both `(4 · hidden_size,)`.

    Raises:
        ValueError: in `forward`, for an input or state of other axes, or if `params` has a missing, unknown or
            mis-shaped entry.
    """

    def forward(
        self, input: Tensor, hx: tuple[Tensor, Tensor] | None = None, params: Mapping[str, Tensor] | None = None
    ) -> tuple[Tensor, Tensor]:
        """Map `(batch, input_size)` and the state, two of `(batch, hidden_size)`, zero if not given, to the next."""
        return self._meta_run(params, input, hx)


class MetaGRUCell(MetaLayer, nn.GRUCell):
    """`torch.nn.GRUCell` with `forward(input, hx=None, params=None)`: a cell of Cho et al. 2014.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.GRUCell`. `params` holds `weight_ih`
    `(3 · hidden_size, input_size)`, `weight_hh` `(3 · hidden_size, hidden_size)` and, unless `bias=False`,
    `bias_ih` and `bias_hh`, both `(3 · hidden_size,)`.

    Raises:
        ValueError: in `forward`, for an input or state of other axes, or if `params` has a missing, unknown or
            mis-shaped entry.
    """

    def forward(self, input: Tensor, hx: Tensor | None = None, params: Mapping[str, Tensor] | None = None) -> Tensor:
        """Map `(batch, input_size)` and the state `(batch, hidden_size)`, zero if not given, to the next state."""
        return self._meta_run(params, input, hx)
