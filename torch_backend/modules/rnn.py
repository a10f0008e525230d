"""Recurrent cells as MetaModules."""

from torch import nn

from torch_backend.modules.module import MetaLayer

__all__ = ["MetaGRUCell", "MetaLSTMCell", "MetaRNNCell"]


class MetaRNNCell(MetaLayer, nn.RNNCell):
    """`torch.nn.RNNCell` with `forward(input, hx=None, params=None)`: `tanh(W x + b + U h + c)`.

    Map `(batch, input_size)` and the state `(batch, hidden_size)`, zero if not given, to the next state.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.RNNCell`. `params` holds `weight_ih`
    `(hidden_size, input_size)`, `weight_hh` `(hidden_size, hidden_size)` and, unless `bias=False`,
    `bias_ih` and `bias_hh`, both `(hidden_size,)`.

    Raises:
        ValueError: in `forward`, for an input or state of other axes.
    """


class MetaLSTMCell(MetaLayer, nn.LSTMCell):
    """`torch.nn.LSTMCell` with `forward(input, hx=None, params=None)`: a cell of Hochreiter & Schmidhuber 1997.

    Map `(batch, input_size)` and the state, two of `(batch, hidden_size)`, zero if not given, to the next.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.LSTMCell`. `params` holds `weight_ih`
    `(4 · hidden_size, input_size)`, `weight_hh` `(4 · hidden_size, hidden_size)` and, unless `bias=False`,
    `bias_ih` and `bias_hh`, both `(4 · hidden_size,)`.

    Raises:
        ValueError: in `forward`, for an input or state of other axes.
    """


class MetaGRUCell(MetaLayer, nn.GRUCell):
    """`torch.nn.GRUCell` with `forward(input, hx=None, params=None)`: a cell of Cho et al. 2014.

    Map `(batch, input_size)` and the state `(batch, hidden_size)`, zero if not given, to the next state.

    Constructor, state dict and behaviour without `params` are those of `torch.nn.GRUCell`. `params` holds `weight_ih`
    `(3 · hidden_size, input_size)`, `weight_hh` `(3 · hidden_size, hidden_size)` and, unless `bias=False`,
    `bias_ih` and `bias_hh`, both `(3 · hidden_size,)`.

    Raises:
        ValueError: in `forward`, for an input or state of other axes.
    """
