"""Neutral parameters: names, shapes, first values and the file that carries them (contract C6)."""

import math

import h5py
import numpy as np
import pytest
from helpers import every

from metabridge.configs import ModelConfig
from metabridge.networks.parameters import (
    check_state,
    initial_parameters,
    load_parameters,
    parameter_shapes,
    relative_difference,
    save_parameters,
)

MODELS = {
    "sinusoid": ModelConfig(),
    "mlp": ModelConfig("mlp", (784,), 5, (256, 128, 64, 64)),
    "one layer": ModelConfig("mlp", (3,), 2, (4,)),
    "omniglot": ModelConfig("conv4", (28, 28, 1), 5, (64, 64, 64, 64)),
    "wide": ModelConfig("conv4", (84, 80, 3), 20, (8, 16, 32, 24)),
    "residual": ModelConfig("resnet12", (40, 32, 3), 5, (6, 8, 12, 10)),
}
FLATTENED = {
    "sinusoid": (40,),
    "mlp": (64,),
    "one layer": (4,),
    "omniglot": (64, 1, 1),
    "wide": (24, 5, 5),
    "residual": (10,),
}


@pytest.fixture(params=MODELS)
def model(request):
    return MODELS[request.param]


# Names and shapes


def test_an_mlp_has_a_weight_and_a_bias_for_every_layer():
    assert parameter_shapes(MODELS["sinusoid"]) == {
        "features.layer1.linear.weight": (40, 1),
        "features.layer1.linear.bias": (40,),
        "features.layer2.linear.weight": (40, 40),
        "features.layer2.linear.bias": (40,),
        "head.weight": (1, 40),
        "head.bias": (1,),
    }


def test_conv4_has_four_blocks_and_a_head():
    shapes = parameter_shapes(MODELS["wide"])
    channels = [3, 8, 16, 32, 24]
    expected = {}
    for number in range(1, 5):
        inputs, outputs = channels[number - 1 : number + 1]
        expected[f"features.layer{number}.conv.weight"] = (outputs, inputs, 3, 3)
        expected[f"features.layer{number}.conv.bias"] = (outputs,)
        expected[f"features.layer{number}.norm.weight"] = (outputs,)
        expected[f"features.layer{number}.norm.bias"] = (outputs,)
    expected |= {"head.weight": (20, 24 * 5 * 5), "head.bias": (20,)}
    assert list(shapes.items()) == list(expected.items()), "the order of the layers is part of the promise"


def test_resnet12_has_four_residual_blocks_and_a_head():
    shapes = parameter_shapes(MODELS["residual"])
    channels = [3, 6, 8, 12, 10]
    expected = {}
    for number in range(1, 5):
        inputs, outputs = channels[number - 1 : number + 1]
        block = f"features.layer{number}"
        for convolution, norm, depth, size in [
            ("conv1", "norm1", inputs, 3),
            ("conv2", "norm2", outputs, 3),
            ("conv3", "norm3", outputs, 3),
            ("shortcut.conv", "shortcut.norm", inputs, 1),
        ]:
            expected[f"{block}.{convolution}.weight"] = (outputs, depth, size, size)
            expected[f"{block}.{norm}.weight"] = expected[f"{block}.{norm}.bias"] = (outputs,)
    expected |= {"head.weight": (5, 10), "head.bias": (5,)}
    assert list(shapes.items()) == list(expected.items()), "the order of the layers is part of the promise"


def test_resnet12_has_as_many_parameters_as_the_published_network():
    """MetaOptNet's ResNet-12 without its head: 12.4 million."""
    shapes = parameter_shapes(ModelConfig("resnet12", (84, 84, 3), 5, (64, 160, 320, 640)))
    assert sum(math.prod(shape) for name, shape in shapes.items() if not name.startswith("head")) == 12_424_320


@pytest.mark.parametrize("name", MODELS)
def test_the_head_takes_the_flattened_features(name):
    model = MODELS[name]
    assert parameter_shapes(model)["head.weight"] == (model.outputs, math.prod(FLATTENED[name]))


# First values


def test_initial_parameters_have_the_names_shapes_and_order_of_the_model(model):
    drawn = initial_parameters(model, seed=0)
    assert [(name, array.shape) for name, array in drawn.items()] == list(parameter_shapes(model).items())
    assert every(array.dtype == np.float32 for array in drawn.values())


def test_initial_parameters_are_uniform_within_one_over_the_root_of_fan_in(model):
    """PyTorch's default for linear and convolutional layers; batch normalisation starts at 1 and 0."""
    drawn = initial_parameters(model, seed=1)
    for name, array in drawn.items():
        layer, _, kind = name.rpartition(".")
        if layer.rstrip("123").endswith("norm"):
            np.testing.assert_array_equal(array, np.full(array.shape, kind == "weight"))
            continue
        scaled = array.astype(np.float64) * math.sqrt(math.prod(drawn[f"{layer}.weight"].shape[1:]))
        assert np.abs(scaled).max() <= 1 + 2.0**-23
        assert len(np.unique(scaled)) > 0.99 * scaled.size
        error = 1 / math.sqrt(scaled.size)
        assert abs(scaled.mean()) < 4 * error / math.sqrt(3), name
        assert abs((scaled**2).mean() - 1 / 3) < 4 * error * math.sqrt(4 / 45), name
        if scaled.size >= 1_000:
            assert scaled.min() < -0.98, name
            assert scaled.max() > 0.98, name


def test_first_values_are_pytorch_s_in_distribution():
    """The same moments as `torch.nn`'s own initialisation, drawn many times."""
    torch = pytest.importorskip("torch")
    ours = np.concatenate([initial_parameters(MODELS["one layer"], s)["head.weight"].ravel() for s in range(800)])
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = np.concatenate([torch.nn.Linear(4, 2).weight.detach().numpy().ravel() for _ in range(800)])
    assert np.abs(ours).max() <= 0.5
    assert np.abs(theirs).max() <= 0.5
    both = np.stack([np.histogram(each, 10, (-0.5, 0.5))[0] for each in (ours, theirs)])
    statistic = ((both[0] - both[1]) ** 2 / both.sum(axis=0)).sum()
    assert statistic < 30, "two samples of one distribution: chi-square with 9 degrees of freedom"


def test_every_parameter_and_seed_has_values_of_its_own(model):
    drawn = [initial_parameters(model, seed) for seed in (-1, 0, 1)]
    values = np.concatenate(
        [array.ravel()[:3] for each in drawn for name, array in each.items() if ".norm" not in name]
    )
    assert len(np.unique(values)) > 0.99 * values.size
    for name, array in initial_parameters(model, 0).items():
        np.testing.assert_array_equal(array, drawn[1][name])


def test_a_parameter_s_values_do_not_depend_on_the_rest_of_the_model():
    small = initial_parameters(ModelConfig("mlp", (3,), 2, (4, 5)), 0)
    large = initial_parameters(ModelConfig("mlp", (3,), 7, (4, 5, 6)), 0)
    for name in ("features.layer1.linear.weight", "features.layer1.linear.bias", "features.layer2.linear.weight"):
        np.testing.assert_array_equal(small[name], large[name])


def test_a_seed_that_is_no_integer_is_refused():
    with pytest.raises(TypeError, match=r"`seed` must be an integer, got 0\.5"):
        initial_parameters(MODELS["sinusoid"], 0.5)


# The relative difference


def test_the_relative_difference_is_the_norm_of_the_difference_over_the_norm():
    a = {"x": np.array([3.0, 0.0]), "y": np.array([[1.0]])}
    b = {"y": np.array([[1.0]]), "x": np.array([0.0, 4.0])}
    assert relative_difference(a, b) == math.sqrt(25 / 17)
    assert relative_difference(b, a) == math.sqrt(2.5)
    assert relative_difference(a, a) == 0.0


def test_one_changed_weight_shows():
    parameters = initial_parameters(MODELS["omniglot"], 0)
    changed = {name: array.copy() for name, array in parameters.items()}
    weight = changed["features.layer3.conv.weight"]
    weight[5, 4, 1, 2] = np.nextafter(weight[5, 4, 1, 2], np.float32(1))
    assert 0 < relative_difference(changed, parameters) < 1e-9


def test_the_difference_is_taken_in_float64():
    tiny = {"x": np.array([1e-30], dtype=np.float32)}
    double = {"x": np.array([2e-30], dtype=np.float32)}
    assert relative_difference(double, tiny) == pytest.approx(1.0, rel=1e-6)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 1e200])
@pytest.mark.parametrize("side", [0, 1])
def test_what_is_not_finite_is_infinitely_far(value, side):
    sides = [{"x": np.array([1.0, 2.0])}, {"x": np.array([1.0, 2.0])}]
    sides[side]["x"][1] = value
    assert relative_difference(*sides) == math.inf


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_the_same_non_finite_value_on_both_sides_is_no_agreement(value):
    both = {"x": np.array([value])}
    assert relative_difference(both, both) == math.inf


def test_a_zero_reference_is_equalled_only_by_zero():
    zero, one = {"x": np.zeros(2)}, {"x": np.ones(2)}
    assert relative_difference(zero, zero) == 0.0
    assert relative_difference(one, zero) == math.inf
    assert relative_difference({}, {}) == 0.0


def test_other_names_or_shapes_are_no_comparison():
    one = {"a": np.zeros(2), "b": np.zeros(2)}
    with pytest.raises(ValueError, match="must have the same parameters; only one has a, c"):
        relative_difference(one, {"b": np.zeros(2), "c": np.zeros(2)})
    with pytest.raises(ValueError, match=r"'b' has shape \(2,\) on one side and \(1, 2\) on the other"):
        relative_difference(one, {"a": np.zeros(2), "b": np.zeros((1, 2))})


# What becomes a state


STATE = {"a.weight": np.array([1.0, math.nan]), "b.weight": np.array([1.0, math.nan]), "count": np.array(3)}
SHARED = {"a.weight": "a.weight", "b.weight": "a.weight", "count": "count"}


def check(**changes):
    shapes = {name: array.shape for name, array in STATE.items()}
    check_state({**STATE, **changes}, shapes, ["count"], SHARED, "Network")


def test_a_fitting_state_passes():
    check()
    check(count=np.array(3, dtype=np.uint8))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"c": np.zeros(1)}, "'c', which is no parameter of Network"),
        ({"count": np.array([3])}, r"'count'.* must have shape \(\), got \(1,\)"),
        ({"count": np.array(3.0)}, r"`parameters\['count'\]` of Network must hold integers, got float64"),
        ({"b.weight": np.zeros(2)}, r"\['b\.weight'\]` of Network must equal .*\['a\.weight'\].* one shared parameter"),
    ],
)
def test_a_state_that_does_not_fit_is_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        check(**changes)


# The file


def test_a_file_gives_back_names_order_types_and_bits(model, tmp_path):
    parameters = initial_parameters(model, 0)
    parameters = dict(reversed(parameters.items())) | {
        "step": np.array(7, dtype=np.int64),
        "moments": np.random.default_rng(0).normal(size=(2, 3)),
        "special": np.array([math.nan, -0.0, math.inf], dtype=np.float32),
        "nothing": np.zeros((0, 4), dtype=np.float32),
    }
    save_parameters(tmp_path / "parameters.h5", parameters)
    loaded = load_parameters(tmp_path / "parameters.h5")
    assert list(loaded) == list(parameters)
    for name, array in parameters.items():
        assert (loaded[name].dtype, loaded[name].shape) == (array.dtype, array.shape), name
        assert isinstance(loaded[name], np.ndarray)
        assert loaded[name].tobytes() == array.tobytes(), name


def test_saving_replaces_the_old_file_whole(tmp_path):
    path = tmp_path / "parameters.h5"
    save_parameters(path, {"a": np.ones(3), "b": np.ones(2)})
    save_parameters(path, {"a": np.zeros(3)})
    assert list(load_parameters(path)) == ["a"]
    assert [each.name for each in tmp_path.iterdir()] == ["parameters.h5"]


def test_a_failed_save_keeps_the_old_file(tmp_path):
    path = tmp_path / "parameters.h5"
    save_parameters(path, {"a": np.ones(3)})
    with pytest.raises(TypeError, match=r"`arrays\['b'\]` must hold numbers, got object"):
        save_parameters(path, {"a": np.zeros(3), "b": np.array([object()])})
    np.testing.assert_array_equal(load_parameters(path)["a"], np.ones(3))
    assert [each.name for each in tmp_path.iterdir()] == ["parameters.h5"]


def test_the_file_is_plain_hdf5(tmp_path):
    save_parameters(tmp_path / "parameters.h5", {"head.weight": np.eye(2)})
    with h5py.File(tmp_path / "parameters.h5") as file:
        np.testing.assert_array_equal(file["head.weight"][()], np.eye(2))


def test_a_missing_file_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no parameters at .*none\.h5; `save_parameters` writes them"):
        load_parameters(tmp_path / "none.h5")
