"""Recurrent cells as MetaModules."""

from collections.abc import Mapping
from typing import ClassVar

import jax
import jax.numpy as jnp
from flax import nnx

from jax_backend.modules.module import MetaModule, own_parameters, uniform_parameter
from metabridge.checks import check_count

__all__ = ["MetaGRUCell", "MetaLSTMCell", "MetaRNNCell"]

_NONLINEARITIES = {"tanh": jnp.tanh, "relu": jax.nn.relu}


class _Cell(MetaModule):
    """The affine maps of a recurrent cell, `gates` of them side by side; weights have PyTorch's axes."""

    neutral_axes: ClassVar[Mapping[str, tuple[int, ...]]] = {}
    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, *, rngs: nnx.Rngs) -> None:
        check_count(input_size, "input_size", least=0)
        check_count(hidden_size, "hidden_size")
        self.input_size = input_size
        self.hidden_size = hidden_size
        outputs = self.gates * hidden_size
        self.weight_ih = uniform_parameter(rngs, (outputs, input_size), hidden_size)
        self.weight_hh = uniform_parameter(rngs, (outputs, hidden_size), hidden_size)
        if bias:
            self.bias_ih = uniform_parameter(rngs, (outputs,), hidden_size)
            self.bias_hh = uniform_parameter(rngs, (outputs,), hidden_size)

    def _state(self, input: jax.Array, state: jax.Array | None) -> jax.Array:
        """The state after a check of shapes, or zeros if there is none."""
        if input.ndim not in (1, 2) or input.shape[-1] != self.input_size:
            raise ValueError(
                f"`input` must be (batch, {self.input_size} features) or ({self.input_size} features,), "
                f"got shape {input.shape}."
            )
        shape = (*input.shape[:-1], self.hidden_size)
        if state is None:
            return jnp.zeros(shape, input.dtype)
        if state.shape != shape:
            raise ValueError(f"`hx` must have shape {shape} for this input, got {state.shape}.")
        return state

    def _maps(self, input: jax.Array, state: jax.Array) -> tuple[jax.Array, jax.Array]:
        """What the gates take from the input and what they take from the state, each `(..., gates · hidden_size)`."""
        own = own_parameters(self)
        from_input, from_state = input @ own["weight_ih"].T, state @ own["weight_hh"].T
        if "bias_ih" in own:
            return from_input + own["bias_ih"], from_state + own["bias_hh"]
        return from_input, from_state


class MetaRNNCell(_Cell):
    """One step of a simple recurrent network, as `torch.nn.RNNCell` takes it.

    `params` holds `weight_ih` `(hidden_size, input_size)`, `weight_hh` `(hidden_size, hidden_size)` and, unless
    `bias=False`, `bias_ih` and `bias_hh`, both `(hidden_size,)`.

    >>> MetaRNNCell(3, 4, rngs=nnx.Rngs(0)).weight_ih.shape
    (4, 3)

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        bias: whether to add the two biases.
        nonlinearity: `"tanh"` or `"relu"`.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: for an unknown nonlinearity; in the call, for an input or a state of another shape.
    """

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh", *, rngs: nnx.Rngs
    ) -> None:
        if nonlinearity not in _NONLINEARITIES:
            raise ValueError(f"`nonlinearity` must be one of {', '.join(_NONLINEARITIES)}, got {nonlinearity!r}.")
        super().__init__(input_size, hidden_size, bias, rngs=rngs)
        self.nonlinearity = nonlinearity

    def __call__(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        """Map `(batch, input_size)` and the state `(batch, hidden_size)` to the next state; both may lack the batch."""
        from_input, from_state = self._maps(input, self._state(input, hx))
        return _NONLINEARITIES[self.nonlinearity](from_input + from_state)


class MetaLSTMCell(_Cell):
    """One step of a long short-term memory, as `torch.nn.LSTMCell` takes it (Hochreiter & Schmidhuber 1997).

    `params` holds `weight_ih` `(4 · hidden_size, input_size)`, `weight_hh` `(4 · hidden_size, hidden_size)` and,
    unless `bias=False`, `bias_ih` and `bias_hh`, both `(4 · hidden_size,)`: the input, forget, cell and output gates.

    >>> MetaLSTMCell(3, 4, rngs=nnx.Rngs(0)).weight_ih.shape
    (16, 3)

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        bias: whether to add the two biases.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: in the call, for an input or a state of another shape.
    """

    gates = 4

    def __call__(
        self,
        input: jax.Array,
        hx: tuple[jax.Array, jax.Array] | None = None,
    ) -> tuple[jax.Array, jax.Array]:
        """Map `(batch, input_size)` and the state `(h, c)` to the next `(h, c)`; all may lack the batch axis."""
        hidden, memory = (self._state(input, each) for each in hx or (None, None))
        into, forget, cell, out = jnp.split(sum(self._maps(input, hidden)), 4, axis=-1)
        memory = jax.nn.sigmoid(forget) * memory + jax.nn.sigmoid(into) * jnp.tanh(cell)
        return jax.nn.sigmoid(out) * jnp.tanh(memory), memory


class MetaGRUCell(_Cell):
    """One step of a gated recurrent unit, as `torch.nn.GRUCell` takes it (Cho et al. 2014).

    `params` holds `weight_ih` `(3 · hidden_size, input_size)`, `weight_hh` `(3 · hidden_size, hidden_size)` and,
    unless `bias=False`, `bias_ih` and `bias_hh`, both `(3 · hidden_size,)`: the reset, update and new gates. Like
    PyTorch, it applies the reset gate after the product with the state.

    >>> MetaGRUCell(3, 4, rngs=nnx.Rngs(0)).weight_ih.shape
    (12, 3)

    Args:
        input_size: features of the input.
        hidden_size: features of the state.
        bias: whether to add the two biases.
        rngs: where the initial parameters come from.

    Raises:
        ValueError: in the call, for an input or a state of another shape.
    """

    gates = 3

    def __call__(self, input: jax.Array, hx: jax.Array | None = None) -> jax.Array:
        """Map `(batch, input_size)` and the state `(batch, hidden_size)` to the next state; both may lack the batch."""
        state = self._state(input, hx)
        from_input, from_state = (jnp.split(each, 3, axis=-1) for each in self._maps(input, state))
        reset, update = (jax.nn.sigmoid(from_input[gate] + from_state[gate]) for gate in (0, 1))
        new = jnp.tanh(from_input[2] + reset * from_state[2])
        return new + update * (state - new)
