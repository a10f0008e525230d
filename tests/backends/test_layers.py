"""Laws that every layer obeys, in both backends; what they compute is in `test_layer_parity.py`."""

import copy
import inspect
import pickle
import re

import numpy as np
import pytest
from tolerances import assert_close, assert_identical

from backends.kits import make_kit
from backends.layers import LAYERS, LayerCase

EVERY_LAYER = pytest.mark.parametrize("case", LAYERS, ids=str)
KINDS = list({case.kind: case for case in LAYERS if case.neutral()}.values())
"""One row of every kind of layer that has parameters."""
EVERY_KIND = pytest.mark.parametrize("case", KINDS, ids=lambda case: case.kind)


def params_of(kit, case, layer):
    """Random parameters for a layer."""
    return kit.weights.from_neutral(case.neutral(), layer)


def inputs_of(kit, case):
    return [case.enter(kit, each) for each in case.values()]


@EVERY_KIND
def test_own_parameters_as_params_change_nothing(backend64, case):
    layer, inputs = case.build(backend64), inputs_of(backend64, case)
    assert_close(
        case.call(backend64, layer, inputs, params=backend64.parameters(layer)),
        case.call(backend64, layer, inputs),
        "forward",
    )


@EVERY_LAYER
def test_names_and_order_are_those_of_torch(backend64, case):
    layer, names = case.build(backend64), list(case.neutral())
    assert list(backend64.parameters(layer)) == names
    assert [name for name, _ in layer.meta_named_parameters(prefix="a.b")] == [f"a.b.{name}" for name in names]
    neutral = backend64.weights.to_neutral(backend64.parameters(layer), layer)
    assert {name: each.shape for name, each in neutral.items()} == {n: v.shape for n, v in case.neutral().items()}


@EVERY_KIND
def test_wrong_params_are_errors_that_help(backend64, case):
    """Each name missing, misspelt, and in another shape: never another use of the layer."""
    layer, inputs = case.build(backend64), inputs_of(backend64, case)
    params, owner = params_of(backend64, case, layer), f"Meta{case.kind}"
    with pytest.raises(ValueError, match=rf"{owner}.*is missing"):
        case.call(backend64, layer, inputs, params={})
    for name, value in params.items():
        others = {other: each for other, each in params.items() if other != name}
        with pytest.raises(ValueError, match=rf"{owner}.*'{name}' is missing"):
            case.call(backend64, layer, inputs, params=others)
        with pytest.raises(ValueError, match=rf"'{name}_', which is no parameter of {owner}; did you mean '{name}'"):
            case.call(backend64, layer, inputs, params={**others, f"{name}_": value})
        wrong = value.reshape(-1)[:1] if value.size != 1 and tuple(value.shape) != (1,) else value.reshape(1, 1)
        with pytest.raises(ValueError, match=r"`params\['.*'\]` of Meta.* must have shape \("):
            case.call(backend64, layer, inputs, params={**params, name: wrong})


@EVERY_KIND
def test_every_jax_layer_takes_rngs_by_name_and_shows_how(jax_kit, case):
    kind = getattr(jax_kit.modules, f"Meta{case.kind}")
    assert inspect.signature(kind.__init__).parameters["rngs"].kind is inspect.Parameter.KEYWORD_ONLY
    assert re.search(rf">>> Meta{case.kind}\(.*rngs=nnx\.Rngs\(0\)\)", kind.__doc__)


@EVERY_KIND
def test_an_error_inside_the_call_leaves_the_layer_as_it_was(torch_kit, case):
    """It holds other tensors for the time of the call."""
    layer = case.build(torch_kit)
    before = {name: id(each) for name, each in layer.named_parameters()} | {n: id(v) for n, v in layer.named_buffers()}
    with pytest.raises((TypeError, AttributeError, RuntimeError, ValueError), match="object"):
        case.call(torch_kit, layer, [object() for _ in case.inputs], params=params_of(torch_kit, case, layer))
    assert before == {n: id(v) for n, v in layer.named_parameters()} | {n: id(v) for n, v in layer.named_buffers()}


@EVERY_LAYER
def test_a_copy_computes_the_same(backend64, case):
    layer, inputs = case.build(backend64), inputs_of(backend64, case)
    expected = case.call(backend64, layer, inputs)
    for twin in (copy.deepcopy(layer), pickle.loads(pickle.dumps(layer))):
        assert type(twin) is type(layer)
        assert_identical(case.call(backend64, twin, inputs), expected)
        params = params_of(backend64, case, twin)
        assert_identical(
            case.call(backend64, twin, inputs, params=params), case.call(backend64, layer, inputs, params=params)
        )


@EVERY_KIND
def test_the_class_explains_itself(backend, case):
    layer = getattr(backend.modules, f"Meta{case.kind}")
    text = " ".join(inspect.getdoc(layer).split())
    assert "`params` holds" in text
    call = layer.forward if backend.name == "torch" else layer.__call__
    assert re.search(r"[Mm]ap|[Nn]ormali|Divi|Attend", text + (inspect.getdoc(call) or "")), "what it computes"
    assert "params" in inspect.signature(call).parameters
    for name in case.neutral():
        assert f"`{name.rpartition('.')[2]}`" in text or f"`{name}`" in text, name


LARGE = {
    f"{case.kind}{case.kwargs or ''}": case
    for case in [
        LayerCase("Linear", (300, 200), ()),
        LayerCase("Bilinear", (40, 30, 50), ()),
        LayerCase("Conv1d", (40, 60, 5), (), {"groups": 2}),
        LayerCase("Conv2d", (40, 60, 5), ()),
        LayerCase("Conv3d", (20, 20, 5), ()),
        LayerCase("ConvTranspose1d", (40, 60, 5), (), {"groups": 2}),
        LayerCase("ConvTranspose2d", (40, 60, 5), ()),
        LayerCase("ConvTranspose3d", (20, 20, 5), ()),
        LayerCase("Embedding", (300, 100), ()),
        LayerCase("EmbeddingBag", (300, 100), ()),
        LayerCase("MultiheadAttention", (200, 2), (), {"add_bias_kv": True, "kdim": 150}),
        LayerCase("MultiheadAttention", (200, 2), ()),
        LayerCase("RNNCell", (200, 300), ()),
        LayerCase("LSTMCell", (100, 150), ()),
        LayerCase("GRUCell", (100, 200), ()),
    ]
}
"""Layers wide enough that their initial parameters show a distribution."""


@pytest.mark.parametrize("kind", LARGE)
def test_initial_parameters_have_the_distribution_of_torch(jax_kit, torch_kit, kind):
    """Bounds, mean and spread of many draws; what torch makes constant is that constant."""
    wide = LARGE[kind]
    torch_kit.torch.manual_seed(0)
    expected = {name: torch_kit.numpy(each) for name, each in wide.plain().named_parameters()}
    with jax_kit.float64():
        layer = wide.build(jax_kit)
        found = jax_kit.weights.to_neutral(jax_kit.parameters(layer), layer)
    for name, value in expected.items():
        other = found[name]
        if value.std() == 0:
            assert_close(other, value, "forward")
        elif value.size < 5000:  # too few draws for more
            assert value.std() / 1.5 < other.std() < value.std() * 1.5
        else:
            assert_close(other.std(), value.std(), "distribution")
            assert_close(other.mean() + value.std(), value.mean() + value.std(), "distribution")
            if value.std() < 0.9 * np.abs(value).max() < 2 * value.std():  # bounded
                assert_close(np.abs(other).max(), np.abs(value).max(), "distribution")


@pytest.mark.parametrize(
    "case",
    [case for case in KINDS if case.kind not in {wide.kind for wide in LARGE.values()}],
    ids=lambda case: case.kind,
)
def test_initial_constants_are_those_of_torch(jax_kit, torch_kit, case):
    with jax_kit.float64():
        layer = case.build(jax_kit)
        found = jax_kit.weights.to_neutral(jax_kit.parameters(layer), layer)
    assert_close(found, dict(case.plain().named_parameters()), "forward")


# PyTorch's own interface


@EVERY_LAYER
def test_without_params_the_layer_is_torchs_own(torch_kit, case):
    torch = torch_kit.torch
    torch.manual_seed(0)
    ours = case.build(torch_kit)
    torch.manual_seed(0)
    theirs = case.plain()
    assert isinstance(ours, type(theirs))
    assert_identical(ours.state_dict(), theirs.state_dict())  # the same initial values from the same seed
    inputs = inputs_of(torch_kit, case)
    for _ in range(2):
        with torch.no_grad():
            assert_identical(case.call(torch_kit, ours, inputs), case.call(torch_kit, theirs, inputs))
        assert_close(case.call(torch_kit, ours, inputs), case.call(torch_kit, theirs, inputs), "forward")
    assert_identical(ours.state_dict(), theirs.state_dict())
    assert repr(ours).removeprefix("Meta") == repr(theirs)


@EVERY_LAYER
def test_state_dicts_interchange_both_ways(torch_kit, case):
    inputs = inputs_of(torch_kit, case)
    ours, theirs = case.build(torch_kit), case.plain()
    ours.load_state_dict(theirs.state_dict())
    assert_close(case.call(torch_kit, ours, inputs), case.call(torch_kit, theirs, inputs), "forward")
    fresh = case.plain()
    fresh.load_state_dict(ours.state_dict())
    assert_identical(fresh.state_dict(), ours.state_dict())


@EVERY_KIND
def test_the_dtype_can_be_changed(torch_kit, case):
    torch = torch_kit.torch
    layer = case.build(torch_kit)
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        layer.to(dtype)
        inputs = [each.to(dtype) if each.is_floating_point() else each for each in inputs_of(torch_kit, case)]
        options = {n: v.astype(np.float32) for n, v in case.options.items() if getattr(v, "dtype", None) == np.float64}
        if options:
            continue  # weights of the inputs would have to be of that dtype too
        params = {name: 1.5 * each for name, each in layer.meta_named_parameters()}
        assert case.call(torch_kit, layer, inputs, params=params).dtype == dtype


@EVERY_KIND
def test_hooks_run_once_in_a_call_with_params(torch_kit, case):
    layer, calls = case.build(torch_kit), []
    layer.register_forward_pre_hook(lambda module, inputs: calls.append("before"))
    layer.register_forward_hook(lambda module, inputs, outputs: calls.append("after"))
    case.call(torch_kit, layer, inputs_of(torch_kit, case), params=params_of(torch_kit, case, layer))
    assert calls == ["before", "after"]


@pytest.mark.parametrize("case", [case for case in LAYERS if list(case.plain().buffers())], ids=str)
@pytest.mark.parametrize("training", [True, False])
def test_buffers_do_not_change_in_a_call_with_params(backend64, case, training):
    layer = case.build(backend64)
    layer.train() if training else layer.eval()
    before = {name: backend64.numpy(each).copy() for name, each in layer.meta_named_buffers()}
    case.call(backend64, layer, inputs_of(backend64, case), params=params_of(backend64, case, layer))
    assert_identical({name: backend64.numpy(each) for name, each in layer.meta_named_buffers()}, before)


def test_the_table_has_every_layer():
    """What a backend offers is in the table, or is not a layer."""
    kit = make_kit("torch")
    others = {"MetaModule", "MetaSequential", "MetaModuleList", "MetaModuleDict"}
    offered = {name for name in kit.modules.__all__ if name.startswith("Meta")} - others
    assert offered == {f"Meta{case.kind}" for case in LAYERS}


# Numbers of half precision, and points where derivatives jump


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
@pytest.mark.parametrize(("kind", "arguments"), [("LayerNorm", (8,)), ("RMSNorm", (8,)), ("GroupNorm", (2, 8))])
def test_half_precision_is_normalised_in_float32(jax_kit, torch_kit, dtype, kind, arguments):
    """As torch does it: squares overflow, small numbers sink below a half-precision epsilon."""
    rng = np.random.default_rng(0)
    for scale in (1e-3, 1.0, 300.0):
        values = (scale * rng.standard_normal((4, 8))).astype(np.float32)
        layer = torch_kit.layer(f"Meta{kind}", *arguments).to(getattr(torch_kit.torch, dtype))
        expected = layer(torch_kit.array(values).to(getattr(torch_kit.torch, dtype))).float()
        found = jax_kit.layer(f"Meta{kind}", *arguments)(jax_kit.array(values).astype(dtype)).astype("float32")
        np.testing.assert_allclose(jax_kit.numpy(found), torch_kit.numpy(expected), rtol=0.02, atol=0.01)


def test_derivatives_at_exactly_zero_are_those_of_torch(jax_kit, torch_kit):
    """Contract C8, at first and second order."""
    at = np.array([-1.0, -0.0, 0.0, 2.0])
    weight = np.array([0.25])
    results = []
    for kit in (jax_kit, torch_kit):
        with kit.float64():
            layer = kit.layer("MetaPReLU")
            functions = [
                lambda x, layer=layer, kit=kit: (layer(x + x**2, params={"weight": kit.array(weight)}) ** 2).sum()
            ]
            if kit.name == "jax":
                functions.append(lambda x, kit=kit: (kit.modules.leaky_relu(x + x**2, 0.1) * (x + 1)).sum())
            else:
                leaky = kit.torch.nn.functional.leaky_relu
                functions.append(lambda x, leaky=leaky: (leaky(x + x**2, 0.1) * (x + 1)).sum())
            ones = kit.array(np.ones(4))
            results.append([kit.numpy(each) for f in functions for each in kit.second_order(f, kit.array(at), ones)])
    for found, expected in zip(*results, strict=True):
        assert_close(found, expected, "gradient")


def test_fully_blocked_queries_are_those_of_torch(jax_kit, torch_kit):
    rng = np.random.default_rng(0)
    query = rng.standard_normal((3, 2, 4))
    mask = np.array([[True, True, True], [False, True, False], [False, False, False]])
    neutral = {
        n: rng.standard_normal(tuple(v.shape))
        for n, v in torch_kit.torch.nn.MultiheadAttention(4, 2).named_parameters()
    }
    for need_weights in (True, False):
        found = []
        for kit in (jax_kit, torch_kit):
            with kit.float64():
                layer = kit.layer("MetaMultiheadAttention", 4, 2)
                params = kit.weights.from_neutral(neutral, layer)
                x = kit.array(query)
                output, _ = layer(x, x, x, attn_mask=kit.array(mask), need_weights=need_weights, params=params)
                found.append(kit.numpy(output))
        np.testing.assert_allclose(found[0], found[1], rtol=1e-12, atol=1e-12)


def test_an_index_beyond_the_table_is_never_a_wrong_row(jax_kit):
    layer = jax_kit.layer("MetaEmbedding", 4, 3)
    for index in (-1, 4):
        with pytest.raises(ValueError, match=r"indices in \[0, 4\)"):
            layer(jax_kit.array([index]))
        assert np.isnan(jax_kit.numpy(jax_kit.jax.jit(layer)(jax_kit.array([index])))).all()


@pytest.mark.parametrize("kind", ["Embedding", "EmbeddingBag"])
@pytest.mark.parametrize(("option", "value"), [("scale_grad_by_freq", True), ("max_norm", 1.0)])
def test_options_of_embeddings_without_a_second_derivative_are_refused_with_params(torch_kit, kind, option, value):
    """torch would count over all tasks under `vmap`, or write into the given weight."""
    torch = torch_kit.torch
    layer, bags = torch_kit.layer(f"Meta{kind}", 4, 2, **{option: value}), torch.tensor([[0, 0, 1], [0, 2, 2]])
    params = dict(layer.named_parameters())
    for call in (lambda: layer(bags, params=params), lambda: torch.func.vmap(lambda b: layer(b, params=params))(bags)):
        with pytest.raises(ValueError, match=rf"`{option}` must be \w+ with `params`, got {value}"):
            call()
    assert layer(bags).isfinite().all()
