"""Neutral parameters in and out, and what a network computes with them (contract C6)."""

import numpy as np
import oracle
import pytest
from tolerances import assert_close, assert_differs, assert_identical

from metabridge.configs import ModelConfig
from metabridge.parameters import initial_parameters, load_parameters, parameter_shapes, save_parameters

MODELS = {
    "mlp": ModelConfig("mlp", (3,), 2, (8, 5)),
    "conv4 28": ModelConfig("conv4", (28, 28, 1), 5, (4, 4, 4, 4)),
    "conv4 32": ModelConfig("conv4", (32, 48, 2), 5, (2, 3, 4, 5)),  # 2 × 3 positions left: height is not width
    "conv4 84": ModelConfig("conv4", (84, 84, 3), 5, (4, 4, 4, 4)),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)


def drawn(model, dtype=np.float64):
    """Distinct numbers everywhere, batch normalisation included."""
    rng = np.random.default_rng(0)
    initial = initial_parameters(model, 0)
    return {name: (each + 0.1 * rng.standard_normal(each.shape)).astype(dtype) for name, each in initial.items()}


def inputs_of(model, count=3):
    return np.random.default_rng(1).random((count, *model.input_shape))


def logits(kit, model, neutral, inputs):
    """Outputs of the backend's network in NumPy."""
    network, params = kit.network(model), kit.weights.from_neutral(neutral, model)
    inputs = kit.images(inputs) if inputs.ndim == 4 else kit.array(inputs)
    return kit.numpy(kit.compile(lambda p, x: network(x, params=p))(params, inputs))


@EVERY_MODEL
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_round_trip_is_exact(backend64, name, dtype):
    model = MODELS[name]
    neutral = drawn(model, dtype)
    params = backend64.weights.from_neutral(neutral, model)
    assert_identical(backend64.weights.to_neutral(params, model), neutral)


@EVERY_MODEL
def test_what_comes_out_is_the_callers_own(backend64, name):
    model = MODELS[name]
    neutral = drawn(model)
    params = backend64.weights.from_neutral(neutral, model)
    found = backend64.weights.to_neutral(params, model)
    for array in (*found.values(), *neutral.values()):
        array[...] = 0
    assert_identical(backend64.weights.to_neutral(params, model), drawn(model))


@EVERY_MODEL
def test_the_order_of_the_mappings_does_not_matter(backend64, name):
    model = MODELS[name]
    params = backend64.weights.from_neutral(dict(reversed(drawn(model).items())), model)
    backwards = dict(reversed(params.items()))
    assert_identical(backend64.weights.to_neutral(backwards, model), drawn(model))


@EVERY_MODEL
def test_a_network_has_the_neutral_names_and_shapes(backend64, name):
    model = MODELS[name]
    own = backend64.parameters(backend64.network(model))
    expected = backend64.weights.from_neutral(drawn(model), model)
    assert {key: tuple(each.shape) for key, each in own.items()} == {
        key: tuple(each.shape) for key, each in expected.items()
    }


@EVERY_MODEL
def test_outputs_are_those_of_the_reference(backend64, name):
    model = MODELS[name]
    found = logits(backend64, model, drawn(model), inputs_of(model))
    assert_close(found, oracle.outputs(model, drawn(model), inputs_of(model)), "forward")


@EVERY_MODEL
def test_both_backends_compute_the_same(jax_kit, torch_kit, name):
    """Flatten order included: at 84×84×3 the head sees 4 channels of 5×5 positions."""
    model = MODELS[name]
    with jax_kit.float64():
        found = logits(jax_kit, model, drawn(model), inputs_of(model))
    expected = logits(torch_kit, model, drawn(model), inputs_of(model))
    assert_close(found, expected, "forward")


@EVERY_MODEL
def test_both_backends_compute_the_same_in_float32(jax_kit, torch_kit, name):
    model = MODELS[name]
    neutral, inputs = drawn(model, np.float32), inputs_of(model).astype(np.float32)
    found, expected = (logits(kit, model, neutral, inputs) for kit in (jax_kit, torch_kit))
    assert found.dtype == expected.dtype == np.float32
    assert_close(found, expected, "forward_float32")


@pytest.mark.parametrize("name", ["features.layer1.conv.weight", "features.layer3.norm.bias", "head.weight"])
def test_one_perturbed_weight_is_seen(jax_kit, torch_kit, name):
    model = MODELS["conv4 28"]
    neutral, changed = drawn(model), drawn(model)
    changed[name].reshape(-1)[1] += 1e-6
    with jax_kit.float64():
        found = logits(jax_kit, model, changed, inputs_of(model))
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(found, logits(torch_kit, model, neutral, inputs_of(model)), "forward")


def test_a_wrong_flatten_order_is_seen(torch_kit):
    model = MODELS["conv4 84"]
    neutral, wrong = drawn(model), drawn(model)
    by_position = neutral["head.weight"].reshape(5, 4, 5, 5).transpose(0, 2, 3, 1)
    wrong["head.weight"] = np.ascontiguousarray(by_position).reshape(5, 100)
    outputs = [logits(torch_kit, model, each, inputs_of(model)) for each in (neutral, wrong)]
    assert_differs(*outputs)


def test_a_checkpoint_moves_between_backends(jax_kit, torch_kit, tmp_path):
    model = MODELS["conv4 32"]
    path = tmp_path / "parameters.h5"
    with jax_kit.float64():
        params = jax_kit.weights.from_neutral(drawn(model), model)
        save_parameters(path, jax_kit.weights.to_neutral(params, model))
        found = logits(jax_kit, model, load_parameters(path), inputs_of(model))
    params = torch_kit.weights.from_neutral(load_parameters(path), model)
    assert_identical(torch_kit.weights.to_neutral(params, model), drawn(model))
    assert_close(logits(torch_kit, model, load_parameters(path), inputs_of(model)), found, "forward")


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_the_one_asked_for(backend64, dtype):
    model = MODELS["mlp"]
    for stored in (np.float32, np.float64):
        kind = getattr(backend64.torch, dtype) if backend64.name == "torch" else dtype
        params = backend64.weights.from_neutral(drawn(model, stored), model, kind)
        assert {backend64.numpy(each).dtype for each in params.values()} == {np.dtype(dtype)}


def test_float64_without_64_bit_mode_is_an_error(jax_kit):
    model = MODELS["mlp"]
    for arguments in ((drawn(model), model), (drawn(model, np.float32), model, "float64")):
        with pytest.raises(ValueError, match=r"float64.* needs JAX's 64-bit mode.*jax\.enable_x64"):
            jax_kit.weights.from_neutral(*arguments)


# Wrong names and shapes


def broken(change):
    neutral = drawn(MODELS["mlp"])
    change(neutral)
    return neutral


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda p: p.pop("head.bias"), r"'head\.bias' is missing"),
        (lambda p: p.update({"head.wieght": p.pop("head.weight")}), r"'head\.wieght'.* did you mean 'head\.weight'"),
        (lambda p: p.update(extra=np.zeros(1)), "'extra', which is no parameter of mlp"),
        (lambda p: p.update({"head.bias": np.zeros(1)}), r"'head\.bias'.* must have shape \(2,\), got \(1,\)"),
        (lambda p: p.update({"head.weight": p["head.weight"].T}), r"must have shape \(2, 5\), got \(5, 2\)"),
    ],
)
def test_other_names_and_shapes_are_refused(backend64, change, message):
    with pytest.raises(ValueError, match=message):
        backend64.weights.from_neutral(broken(change), MODELS["mlp"])


def test_parameters_of_another_model_are_refused_on_the_way_out(backend64):
    params = backend64.weights.from_neutral(drawn(MODELS["mlp"]), MODELS["mlp"])
    with pytest.raises(ValueError, match=r"no parameter of conv4"):
        backend64.weights.to_neutral(params, MODELS["conv4 28"])
    del params["head.bias"]
    with pytest.raises(ValueError, match=r"'head\.bias' is missing"):
        backend64.weights.to_neutral(params, MODELS["mlp"])


# Networks


def test_a_network_names_the_nearest_parameter(backend64):
    model = MODELS["mlp"]
    network, params = backend64.network(model), backend64.weights.from_neutral(drawn(model), model)
    inputs = backend64.array(inputs_of(model))
    with pytest.raises(ValueError, match=r"no parameter of MLP; did you mean 'features\.layer2\.linear\.weight'"):
        network(inputs, params={**params, "features.layer2.linear.wieght": params["head.weight"]})
    partial = {name: each for name, each in params.items() if not name.startswith("head")}
    with pytest.raises(ValueError, match=r"MLP must hold every parameter, 'head\.(weight|bias)' is missing \(and 1"):
        network(inputs, params=partial)


def test_relu_at_zero_passes_nothing_back(backend64):
    """All hidden values are exactly 0: the gradient of the first layer must vanish in both backends."""
    model = MODELS["mlp"]
    neutral = drawn(model) | {"features.layer1.linear.bias": np.zeros(8)}
    network, params = backend64.network(model), backend64.weights.from_neutral(neutral, model)
    inputs = backend64.array(np.zeros((4, 3)))
    gradient = backend64.gradient(lambda p: network(inputs, params=p).sum(), params)
    for name in ("weight", "bias"):
        assert not backend64.numpy(gradient[f"features.layer1.linear.{name}"]).any()
    assert backend64.numpy(gradient["head.bias"]).all()


@pytest.mark.parametrize("name", ["mlp", "conv4 28"])
def test_a_built_network_computes_with_its_own_parameters(backend, name):
    model = MODELS[name]
    network = backend.models.build_model(model)
    params = backend.parameters(network)
    assert list(params) == list(parameter_shapes(model))
    values = inputs_of(model).astype(np.float32)
    inputs = backend.images(values) if values.ndim == 4 else backend.array(values)
    own, given = backend.compile(lambda x, p: (network(x), network(x, params=p)))(inputs, params)
    assert_close(own, given, "forward_float32")
    neutral = backend.weights.to_neutral(params, model)
    assert_close(own, oracle.outputs(model, neutral, values), "forward_float32")


def test_images_in_the_other_layout_are_refused(backend64):
    model = MODELS["conv4 28"]
    params = backend64.weights.from_neutral(drawn(model), model)
    images = inputs_of(model)
    swapped = backend64.array(images if backend64.name == "torch" else np.moveaxis(images, -1, 1))
    with pytest.raises((ValueError, RuntimeError), match="channels"):
        backend64.network(model)(swapped, params=params)
