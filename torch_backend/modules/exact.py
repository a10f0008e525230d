"""torch operations whose second derivatives are missing or wrong, rewritten with operations where they are right."""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.overrides import TorchFunctionMode

__all__ = ["ExactDerivatives", "active_transforms"]


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
        observing: whether to compute new running statistics and put them aside, to be had from `latest`.
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
        self._outer_hooks = _saved_tensor_hooks()
        return super().__enter__()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the rewritten function if there is one."""
        if not self.missing_only and _saved_tensor_hooks() is not self._outer_hooks:
            _refuse_checkpoint(_saved_tensor_hooks())
        if func in _REWRITTEN and (func in _MISSING or not self.missing_only):
            return _REWRITTEN[func](self, *args, **(kwargs or {}))
        if func in _WITHOUT_FUSED_ATTENTION:
            with sdpa_kernel(SDPBackend.MATH):
                return func(*args, **(kwargs or {}))
        if func in _RECURRENT_LAYERS:
            return _recurrent_layer(func, *args, **(kwargs or {}))
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


def _saved_tensor_hooks() -> Any:
    """The hook that packs what backward needs, of whatever context is innermost; `None` if there is none."""
    ask = getattr(getattr(torch._C, "_autograd", None), "_top_saved_tensors_default_hooks", None)
    if ask is None or torch.compiler.is_compiling():
        return None
    hooks = ask(True)
    return hooks[0] if hooks else None


def _refuse_checkpoint(hook: Any) -> None:
    """A checkpoint inside the call would compute again when the module has its stored parameters back."""
    if "_checkpoint_hook" in getattr(hook, "__qualname__", ""):
        raise RuntimeError(
            "gradient checkpointing inside a call with `params` would go back to the stored parameters; checkpoint "
            "the call itself: checkpoint(lambda x, p: model(x, params=p), inputs, params, use_reentrant=False)."
        )


def _batch_norm(
    mode: ExactDerivatives,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    _check_features(input, running_mean, weight, bias)
    tracked = running_mean is not None and running_var is not None
    inside, outside = _inside_and_outside(weight, bias)
    if training and not (mode.frozen and tracked):
        normalised = F.batch_norm(input, None, None, *inside, training=True, eps=eps)
        if tracked and mode.observing:
            axes = [axis for axis in range(input.ndim) if axis != 1]
            _observe(mode, input, axes, running_mean, running_var, momentum)
    else:
        normalised = F.batch_norm(
            input,
            None if running_mean is None else mode.latest(running_mean),
            None if running_var is None else mode.latest(running_var),
            *inside,
            eps=eps,
        )
    return _scale_and_shift(normalised, *outside, (-1, *[1] * (input.ndim - 2)))


def _instance_norm(
    mode: ExactDerivatives,
    input: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    use_input_stats: bool = True,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    _check_features(input, running_mean, weight, bias)
    tracked = running_mean is not None and running_var is not None
    inside, outside = _inside_and_outside(weight, bias)
    if use_input_stats and not (mode.frozen and tracked):
        normalised = F.instance_norm(input, None, None, *inside, eps=eps)
        if tracked and mode.observing:
            _observe(mode, input, list(range(2, input.ndim)), running_mean, running_var, momentum)
    else:
        normalised = F.batch_norm(
            input,
            None if running_mean is None else mode.latest(running_mean),
            None if running_var is None else mode.latest(running_var),
            *inside,
            eps=eps,
        )
    return _scale_and_shift(normalised, *outside, (-1, *[1] * (input.ndim - 2)))


def _check_features(input: Tensor, *per_feature: Tensor | None) -> None:
    """Scaling and shifting would broadcast where torch refuses."""
    for each in per_feature:
        if each is not None and len(each) != input.shape[1]:
            raise RuntimeError(f"`input` must have {len(each)} channels in its second axis, got {tuple(input.shape)}.")


def _observe(
    mode: ExactDerivatives,
    input: Tensor,
    axes: list[int],
    running_mean: Any,
    running_var: Any,
    momentum: float,
) -> None:
    variance, mean = torch.var_mean(input.detach(), axes)
    if mean.ndim == 2:  # of every instance: their average is tracked
        variance, mean = variance.mean(0), mean.mean(0)
    mode.update(running_mean, mean, momentum)
    mode.update(running_var, variance, momentum)


def _layer_norm(
    mode: ExactDerivatives,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    del mode
    inside, outside = _inside_and_outside(weight, bias)
    normalised = F.layer_norm(input, normalized_shape, *inside, eps=eps)
    return _scale_and_shift(normalised, *outside, tuple(normalized_shape))


Affine = tuple[Tensor | None, Tensor | None]


def _inside_and_outside(weight: Tensor | None, bias: Tensor | None) -> tuple[Affine, Affine]:
    """(weight and bias for torch's function, those to be applied afterwards).

    Under `torch.func` torch's functions are wrong if they are given their weight: with a `vmap` around the call, or
    around its derivative alone, as in `jacrev`. Under `torch.autograd` they are right, and a third faster with it.
    """
    return ((None, None), (weight, bias)) if active_transforms() else ((weight, bias), (None, None))


def active_transforms() -> tuple[str, ...]:
    """Names of the `torch.func` transforms around this. There is no public way to ask; not knowing counts as some."""
    stack = getattr(torch._C._functorch, "get_interpreter_stack", None)
    if torch.compiler.is_compiling() or stack is None:
        return ("unknown",)
    return tuple(each.key().name for each in stack() or ())


def _scale_and_shift(normalised: Tensor, weight: Tensor | None, bias: Tensor | None, shape: tuple[int, ...]) -> Tensor:
    weight = None if weight is None else weight.to(normalised.dtype).view(shape)
    bias = None if bias is None else bias.to(normalised.dtype).view(shape)
    if weight is not None and bias is not None:
        return torch.addcmul(bias, normalised, weight)
    scaled = normalised if weight is None else normalised * weight
    return scaled if bias is None else scaled + bias


def _embedding_bag(
    context: ExactDerivatives,
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
    if context.missing_only and (max_norm is not None or scale_grad_by_freq or sparse):
        return F.embedding_bag(
            input, weight, offsets, max_norm, norm_type, scale_grad_by_freq, mode, sparse, per_sample_weights,
            include_last_offset, padding_idx,
        )  # fmt: skip
    _refuse_renormalisation(max_norm)
    if scale_grad_by_freq:
        raise ValueError("`scale_grad_by_freq` has no second derivative in embedding bags; leave it False.")
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


def _embedding(
    mode: ExactDerivatives,
    input: Tensor,
    weight: Tensor,
    padding_idx: int | None = None,
    max_norm: float | None = None,
    norm_type: float = 2.0,
    scale_grad_by_freq: bool = False,
    sparse: bool = False,
) -> Tensor:
    del mode, norm_type, sparse  # a sparse gradient cannot be differentiated again; a dense one is the same numbers
    _refuse_renormalisation(max_norm)
    rows = F.embedding(input, weight, scale_grad_by_freq=scale_grad_by_freq)
    if padding_idx is None:
        return rows
    return torch.where((input == padding_idx % len(weight))[..., None], rows.detach(), rows)


def _refuse_renormalisation(max_norm: float | None) -> None:
    if max_norm is not None:
        raise ValueError(
            f"`max_norm` must be None with `params`, got {max_norm}: torch would write into the given parameters; "
            "renormalise them before the call."
        )


def _bilinear(
    mode: ExactDerivatives, input1: Tensor, input2: Tensor, weight: Tensor, bias: Tensor | None = None
) -> Tensor:
    del mode
    outputs = torch.einsum("...i,oij,...j->...o", input1, weight, input2)
    return outputs if bias is None else outputs + bias


def _prelu(mode: ExactDerivatives, input: Tensor, weight: Tensor) -> Tensor:
    del mode
    weight = weight.to(input.dtype)  # as under autocast
    slope = weight.view(-1, *[1] * (input.ndim - 2)) if input.ndim > 1 else weight
    return torch.where(input > 0, input, slope * input)


def _simple_cell(nonlinearity: Callable[[Tensor], Tensor]) -> Callable[..., Tensor]:
    def cell(
        mode: ExactDerivatives,
        input: Tensor,
        hx: Tensor,
        w_ih: Tensor,
        w_hh: Tensor,
        b_ih: Tensor | None = None,
        b_hh: Tensor | None = None,
    ) -> Tensor:
        del mode
        return nonlinearity(F.linear(input, w_ih, b_ih) + F.linear(hx, w_hh, b_hh))

    return cell


def _lstm_cell(
    mode: ExactDerivatives,
    input: Tensor,
    hx: tuple[Tensor, Tensor],
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    del mode
    hidden, cell = hx
    gates = F.linear(input, w_ih, b_ih) + F.linear(hidden, w_hh, b_hh)
    enter, forget, candidate, leave = gates.chunk(4, -1)
    cell = forget.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
    return leave.sigmoid() * cell.tanh(), cell


def _gru_cell(
    mode: ExactDerivatives,
    input: Tensor,
    hx: Tensor,
    w_ih: Tensor,
    w_hh: Tensor,
    b_ih: Tensor | None = None,
    b_hh: Tensor | None = None,
) -> Tensor:
    del mode
    reset_in, update_in, new_in = F.linear(input, w_ih, b_ih).chunk(3, -1)
    reset_hidden, update_hidden, new_hidden = F.linear(hx, w_hh, b_hh).chunk(3, -1)
    reset, update = (reset_in + reset_hidden).sigmoid(), (update_in + update_hidden).sigmoid()
    new = (new_in + reset * new_hidden).tanh()
    return new + update * (hx - new)


def _recurrent_layer(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    if "Vmap" in active_transforms():
        raise RuntimeError(
            f"torch's recurrent layers (here {func.__name__}) do not work under torch.func.vmap; go through the tasks "
            "one by one (task_map='sequential'), or use MetaLSTMCell, MetaGRUCell or MetaRNNCell."
        )
    with torch.backends.cudnn.flags(enabled=False):
        return func(*args, **kwargs)


def _weight_norm(mode: ExactDerivatives, v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    del mode
    return v * (g / torch.norm_except_dim(v, 2, dim))


def _hardsigmoid(mode: ExactDerivatives, input: Tensor, inplace: bool = False) -> Tensor:
    del mode, inplace
    return F.relu6(input + 3) / 6


def _torch_layer_norm(
    mode: ExactDerivatives,
    input: Tensor,
    normalized_shape: list[int],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    cudnn_enable: bool = True,
) -> Tensor:
    del cudnn_enable
    return _layer_norm(mode, input, normalized_shape, weight, bias, eps)


def _torch_batch_norm(
    mode: ExactDerivatives,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    training: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    del cudnn_enabled
    return _batch_norm(mode, input, running_mean, running_var, weight, bias, training, momentum, eps)


def _torch_instance_norm(
    mode: ExactDerivatives,
    input: Tensor,
    weight: Tensor | None,
    bias: Tensor | None,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    use_input_stats: bool,
    momentum: float,
    eps: float,
    cudnn_enabled: bool,
) -> Tensor:
    del cudnn_enabled
    return _instance_norm(mode, input, running_mean, running_var, weight, bias, use_input_stats, momentum, eps)


_REWRITTEN: dict[Any, Callable[..., Any]] = {
    F.batch_norm: _batch_norm,
    torch.batch_norm: _torch_batch_norm,
    torch.instance_norm: _torch_instance_norm,
    torch.layer_norm: _torch_layer_norm,
    torch._weight_norm: _weight_norm,
    F.hardsigmoid: _hardsigmoid,
    F.bilinear: _bilinear,
    F.prelu: _prelu,
    F.instance_norm: _instance_norm,
    F.layer_norm: _layer_norm,
    F.embedding: _embedding,
    F.embedding_bag: _embedding_bag,
    torch.rnn_tanh_cell: _simple_cell(torch.tanh),
    torch.rnn_relu_cell: _simple_cell(torch.relu),
    torch.lstm_cell: _lstm_cell,
    torch.gru_cell: _gru_cell,
}
_MISSING = {F.embedding_bag, F.hardsigmoid, torch._weight_norm}
"""Where not only something better but nothing, or something wrong, is to be had from torch."""
_WITHOUT_FUSED_ATTENTION = {F.scaled_dot_product_attention, F.multi_head_attention_forward}
_RECURRENT_LAYERS = {torch.lstm, torch.gru, torch.rnn_tanh, torch.rnn_relu}
