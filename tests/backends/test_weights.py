"""Neutral parameters and states in and out, and what a network computes with them (contract C6)."""

import numpy as np
import oracle
import pytest
from tolerances import assert_close, assert_differs, assert_identical

from metabridge.configs import ModelConfig
from metabridge.networks.parameters import initial_parameters, load_parameters, parameter_shapes, save_parameters

MODELS = {
    "mlp": ModelConfig("mlp", (3,), 2, (8, 5)),
    "conv4 28": ModelConfig("conv4", (28, 28, 1), 5, (4, 4, 4, 4)),
    "conv4 32": ModelConfig("conv4", (32, 48, 2), 5, (2, 3, 4, 5)),  # 2 × 3 positions left: height is not width
    "conv4 84": ModelConfig("conv4", (84, 84, 3), 5, (4, 4, 4, 4)),
    "resnet12 32": ModelConfig("resnet12", (32, 32, 3), 5, (4, 6, 8, 10)),
    "resnet12 48": ModelConfig("resnet12", (48, 32, 1), 2, (3, 4, 6, 5)),
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
EVERY_PLAIN_MODEL = pytest.mark.parametrize("name", [name for name in MODELS if not name.startswith("resnet")])
"""Those that `oracle` computes; the others have a reference in `test_resnets`."""


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


@EVERY_PLAIN_MODEL
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


@EVERY_MODEL
def test_a_network_serves_as_well_as_its_config(backend64, name):
    model = MODELS[name]
    network = backend64.network(model)
    params = backend64.weights.from_neutral(drawn(model), network)
    expected = backend64.weights.from_neutral(drawn(model), model)
    assert_identical(dict(sorted(params.items())), backend64.numpy(dict(sorted(expected.items()))))
    back = backend64.weights.to_neutral(params, network)
    assert_identical({key: back[key] for key in drawn(model)}, drawn(model))
    with pytest.raises(ValueError, match=rf"'extra', which is no parameter of {type(network).__name__}"):
        backend64.weights.from_neutral(drawn(model) | {"extra": np.zeros(1)}, network)


def test_layers_on_their_own_move_too(jax_kit, torch_kit):
    """Not every matrix is a linear layer's: the layer decides, not the number of axes."""
    rng = np.random.default_rng(2)
    neutral = {"0.weight": rng.random((4, 3, 1, 1)), "2.weight": rng.random((2, 8)), "2.bias": rng.random(2)}
    inputs = rng.random((3, 1, 2, 3))
    found = {}
    for kit in (jax_kit, torch_kit):
        with kit.float64():
            flatten = kit.modules.Flatten() if kit.name == "jax" else kit.torch.nn.Flatten()
            convolution, head = kit.layer("MetaConv2d", 3, 4, 1, bias=False), kit.layer("MetaLinear", 8, 2)
            network = kit.modules.MetaSequential(convolution, flatten, head)
            params = kit.weights.from_neutral(neutral, network)
            found[kit.name] = kit.numpy(network(kit.images(inputs), params=params))
            assert_identical(kit.weights.to_neutral(params, network), neutral)
    assert_close(found["jax"], found["torch"], "forward")


# Whole states


def stateful(kit):
    """A network with running statistics, on real numbers."""
    network = kit.models.build_model(MODELS["resnet12 32"])
    return network.double() if kit.name == "torch" else network


def random_state(kit, dtype=np.float64):
    """Another state of that network."""
    rng = np.random.default_rng(3)
    state = kit.weights.read_neutral(stateful(kit))
    return {
        name: np.array(7 + number) if array.dtype == np.int64 else rng.random(array.shape).astype(dtype)
        for number, (name, array) in enumerate(state.items())
    }


def test_a_state_holds_parameters_and_running_statistics(backend64):
    state = backend64.weights.read_neutral(stateful(backend64))
    parameters = {name: array.shape for name, array in state.items() if name in parameter_shapes(MODELS["resnet12 32"])}
    assert parameters == parameter_shapes(MODELS["resnet12 32"])
    statistics = {name.rpartition(".")[2] for name in state.keys() - parameters.keys()}
    assert statistics == {"running_mean", "running_var", "num_batches_tracked"}
    assert {array.dtype for name, array in state.items() if name.endswith("tracked")} == {np.dtype(np.int64)}


def test_torch_s_state_is_its_state_dict(torch_kit):
    network = stateful(torch_kit)
    assert_identical(torch_kit.weights.read_neutral(network), network.state_dict())
    torch_kit.weights.load_neutral(network, random_state(torch_kit))
    assert_identical(network.state_dict(), random_state(torch_kit))


def test_a_state_moves_from_torch_to_jax_and_back(jax_kit, torch_kit, tmp_path):
    """Through a checkpoint, integers and scalars included."""
    path = tmp_path / "state.h5"
    save_parameters(path, random_state(torch_kit))
    with jax_kit.float64():
        network = stateful(jax_kit)
        jax_kit.weights.load_neutral(network, load_parameters(path))
        back = jax_kit.weights.read_neutral(network)
    assert_identical(back, random_state(torch_kit))
    again = stateful(torch_kit)
    torch_kit.weights.load_neutral(again, back)
    assert_identical(again.state_dict(), random_state(torch_kit))


def test_a_state_read_is_the_callers_own(backend64):
    network = stateful(backend64)
    given = random_state(backend64)
    backend64.weights.load_neutral(network, given)
    for state in (given, backend64.weights.read_neutral(network)):
        for array in state.values():
            array[...] = 0
    assert_identical(backend64.weights.read_neutral(network), random_state(backend64))


def test_a_state_takes_the_dtype_of_the_network(backend):
    network = backend.models.build_model(MODELS["resnet12 32"])
    given = random_state(backend)
    backend.weights.load_neutral(network, given)
    rounded = {name: array if array.ndim == 0 else array.astype(np.float32) for name, array in given.items()}
    assert_identical(backend.weights.read_neutral(network), rounded)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda s: s.pop("head.bias"), r"'head\.bias' is missing"),
        (lambda s: s.pop("features.layer2.norm1.running_var"), r"'features\.layer2\.norm1\.running_var' is missing"),
        (
            lambda s: s.update({"haed.bias": s.pop("head.bias")}),
            r"'haed\.bias'.* of MetaSequential; did you mean 'head\.bias'",
        ),
        (lambda s: s.update({"head.weight": np.zeros((10, 5))}), r"must have shape \(5, 10\), got \(10, 5\)"),
        (
            lambda s: s.update({"features.layer1.norm1.num_batches_tracked": np.array(1.5)}),
            "num_batches_tracked'.* must hold integers, got float64",
        ),
    ],
)
def test_a_wrong_state_is_refused_before_anything_is_written(backend64, change, message):
    network = stateful(backend64)
    before = backend64.weights.read_neutral(network)
    given = random_state(backend64)
    change(given)
    with pytest.raises(ValueError, match=message):
        backend64.weights.load_neutral(network, given)
    assert_identical(backend64.weights.read_neutral(network), before)


def test_a_count_that_jax_cannot_hold_is_refused(jax_kit):
    layer = jax_kit.layer("MetaBatchNorm2d", 2)
    state = jax_kit.weights.read_neutral(layer) | {"num_batches_tracked": np.array(2**31)}
    with pytest.raises(ValueError, match=r"'num_batches_tracked'.* must fit into int32, got 2147483648"):
        jax_kit.weights.load_neutral(layer, state)


def test_a_network_without_numbers_has_no_state(backend64):
    network = backend64.network(MODELS["resnet12 32"])
    with pytest.raises(ValueError, match="of MetaSequential has a shape but no numbers; build the model"):
        backend64.weights.read_neutral(network)
    with pytest.raises(ValueError, match="of MetaSequential has a shape but no numbers; build the model"):
        backend64.weights.load_neutral(network, random_state(backend64))


def test_a_shared_layer_occurs_under_each_of_its_names(backend64):
    layer = backend64.layer("MetaLinear", 2, 2)
    network = backend64.modules.MetaSequential(layer, layer)
    state = backend64.weights.read_neutral(network)
    assert list(state) == ["0.weight", "0.bias", "1.weight", "1.bias"], "as in PyTorch's state dict"
    weight, bias = np.arange(4.0).reshape(2, 2), np.arange(2.0)
    given = {"0.weight": weight, "0.bias": bias, "1.weight": weight, "1.bias": bias}
    backend64.weights.load_neutral(network, given)
    assert_identical(backend64.weights.read_neutral(network), given)
    with pytest.raises(ValueError, match=r"\['1\.bias'\].* must equal .*\['0\.bias'\].* they are one shared parameter"):
        backend64.weights.load_neutral(network, given | {"1.bias": bias + 1})
    # As `params`, each parameter occurs once.
    params = backend64.weights.from_neutral({"0.weight": weight, "0.bias": bias}, network)
    assert_identical(backend64.weights.to_neutral(params, network), {"0.weight": weight, "0.bias": bias})


def test_a_plain_flax_layer_has_no_neutral_form(jax_kit):
    network = jax_kit.modules.MetaSequential(jax_kit.layer("MetaLinear", 2, 2), jax_kit.plain_linear(2, 1))
    message = r"MetaSequential has no neutral form: the owner of '1\.(kernel|bias)' does not say what its axes are"
    for call in (jax_kit.weights.read_neutral, lambda each: jax_kit.weights.load_neutral(each, {})):
        with pytest.raises(ValueError, match=message):
            call(network)
    # Its MetaModules' parameters have one.
    params = jax_kit.parameters(network)
    assert list(jax_kit.weights.to_neutral(params, network)) == ["0.weight", "0.bias"]


def test_parameters_out_of_sight_are_not_left_out(jax_kit):
    """A list is no module and gives its members no names in PyTorch."""
    network = jax_kit.modules.MetaSequential(jax_kit.layer("MetaLinear", 2, 2))
    network.more = jax_kit.nnx.data([jax_kit.layer("MetaLinear", 2, 2)])
    with pytest.raises(ValueError, match=r"the owner of 'more\.0\.(weight|bias)' does not say"):
        jax_kit.weights.read_neutral(network)


def test_a_module_of_one_s_own_says_its_axes(jax_kit):
    nnx, modules = jax_kit.nnx, jax_kit.modules

    class Silent(modules.MetaModule):
        def __init__(self):
            self.scale = nnx.Param(jax_kit.array(np.arange(6.0, dtype=np.float32).reshape(2, 3)))

    class Outspoken(Silent):
        neutral_axes = {"scale": (1, 0)}  # noqa: RUF012

    with pytest.raises(ValueError, match=r"Silent has no neutral form: the owner of 'scale'.* `neutral_axes`"):
        jax_kit.weights.to_neutral(jax_kit.parameters(Silent()), Silent())
    network = Outspoken()
    neutral = np.arange(6.0, dtype=np.float32).reshape(2, 3).T
    assert_identical(jax_kit.weights.read_neutral(network), {"scale": neutral})
    assert_identical(jax_kit.weights.to_neutral(jax_kit.parameters(network), network), {"scale": neutral})


@pytest.mark.parametrize("dims", [1, 2, 3])
@pytest.mark.parametrize("kind", ["MetaConv", "MetaConvTranspose"])
def test_every_convolution_s_axes_are_mapped(jax_kit, torch_kit, kind, dims):
    """Two groups, and another size on every axis."""
    rng = np.random.default_rng(4)
    arguments = (f"{kind}{dims}d", 4, 6, (2, 3, 4)[:dims])
    inputs, found = rng.random((2, *(4, 5, 6)[:dims], 4)), {}
    state = torch_kit.weights.read_neutral(torch_kit.layer(*arguments, groups=2))
    for kit in (jax_kit, torch_kit):
        with kit.float64():
            layer = kit.layer(*arguments, groups=2)
            kit.weights.load_neutral(layer, state)
            assert_identical(kit.weights.read_neutral(layer), state)
            values = inputs if kit.name == "jax" else np.ascontiguousarray(np.moveaxis(inputs, -1, 1))
            found[kit.name] = kit.numpy(layer(kit.array(values)))
    assert_close(np.moveaxis(found["jax"], -1, 1), found["torch"], "forward")


def test_random_streams_are_no_part_of_a_state(jax_kit):
    dropout = jax_kit.nnx.Dropout(0.5, rngs=jax_kit.nnx.Rngs(0))
    network = jax_kit.modules.MetaSequential(jax_kit.layer("MetaLinear", 2, 2), dropout)
    assert list(jax_kit.weights.read_neutral(network)) == ["0.weight", "0.bias"]


def test_a_float64_network_is_not_loaded_outside_of_64_bit_mode(jax_kit):
    with jax_kit.float64():
        layer = jax_kit.layer("MetaLinear", 2, 2)
        state = jax_kit.weights.read_neutral(layer)
    with pytest.raises(ValueError, match=r"'weight' is float64, which needs JAX's 64-bit mode"):
        jax_kit.weights.load_neutral(layer, state)


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


# Normalisation over several axes

OVER_AXES = [("LayerNorm", ("weight", "bias")), ("RMSNorm", ("weight",))]


@pytest.mark.parametrize("load", ["parameters", "state"])
@pytest.mark.parametrize(("kind", "names"), OVER_AXES)
def test_normalisation_over_an_image_moves_its_axes(jax_kit, kind, names, load):
    """`(C, H, W)` in PyTorch is `(H, W, C)` in JAX; with three equal sizes no shape tells."""
    layer = getattr(jax_kit.modules, f"Meta{kind}")((3, 3, 3), channels_last=True)
    neutral = {name: np.random.default_rng(0).standard_normal((3, 3, 3)).astype(np.float32) for name in names}
    weights = jax_kit.weights
    if load == "parameters":
        params = weights.from_neutral(neutral, layer)
        assert_identical(weights.to_neutral(params, layer), neutral)
    else:
        weights.load_neutral(layer, neutral)
        params = jax_kit.parameters(layer)
        assert_identical(weights.read_neutral(layer), neutral)
    for name in names:
        assert_identical(jax_kit.numpy(params[name]), np.moveaxis(neutral[name], 0, -1).copy())


@pytest.mark.parametrize(("kind", "names"), OVER_AXES)
def test_normalisation_over_axes_of_unknown_order_is_refused(jax_kit, kind, names):
    make = getattr(jax_kit.modules, f"Meta{kind}")
    neutral = {name: np.ones((3, 3, 3), np.float32) for name in names}
    for call in (jax_kit.weights.from_neutral, lambda values, layer: jax_kit.weights.load_neutral(layer, values)):
        with pytest.raises(ValueError, match=rf"Meta{kind} has no neutral form.*several axes `channels_last`"):
            call(neutral, make((3, 3, 3)))
        call(neutral, make((3, 3, 3), channels_last=False))
    jax_kit.weights.load_neutral(make(3), {name: np.ones(3, np.float32) for name in names})
    assert jax_kit.weights.read_neutral(make((3, 3), elementwise_affine=False)) == {}


# Networks


def test_a_network_names_the_nearest_parameter(backend64):
    model = MODELS["mlp"]
    network, params = backend64.network(model), backend64.weights.from_neutral(drawn(model), model)
    inputs = backend64.array(inputs_of(model))
    with pytest.raises(
        ValueError, match=r"no parameter of MetaSequential; did you mean 'features\.layer2\.linear\.weight'"
    ):
        network(inputs, params={**params, "features.layer2.linear.wieght": params["head.weight"]})
    partial = {name: each for name, each in params.items() if not name.startswith("head")}
    with pytest.raises(
        ValueError, match=r"MetaSequential must hold every parameter, 'head\.(weight|bias)' is missing \(and 1"
    ):
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
