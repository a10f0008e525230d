"""A network is one entry of a table: everything else follows from it, in the core and in both backends."""

import dataclasses

import numpy as np
import pytest
from tolerances import assert_close, assert_identical

from metabridge.configs import ModelConfig
from metabridge.networks.layers import BatchNorm, Convolution, Layer, LeakyReLU, Linear, Mean, Residual, chain
from metabridge.networks.parameters import initial_parameters, parameter_shapes
from metabridge.networks.tables import NETWORKS, Network


def _tiny(input_shape, outputs, hidden):
    """One residual block over images of any size, and a head."""
    (width,) = hidden
    block = Residual(
        main=chain(conv=Convolution(input_shape[-1], width), relu=LeakyReLU(0.2), norm=BatchNorm(width)),
        shortcut=chain(conv=Convolution(input_shape[-1], width, kernel=1, bias=False)),
    )
    return chain(block=block, mean=Mean(), head=Linear(width, outputs))


@pytest.fixture
def tiny(monkeypatch):
    """A network that only this test knows, after one entry in the table."""
    monkeypatch.setitem(
        NETWORKS, "tiny", Network(_tiny, takes_images=True, poolings=None, widths=(6,), meta_gradient=1e-9)
    )
    return ModelConfig("tiny", (5, 4, 2), 3, (6,))


def test_names_and_shapes_follow_from_the_table(tiny):
    assert list(parameter_shapes(tiny).items()) == [
        ("block.conv.weight", (6, 2, 3, 3)),
        ("block.conv.bias", (6,)),
        ("block.norm.weight", (6,)),
        ("block.norm.bias", (6,)),
        ("block.shortcut.conv.weight", (6, 2, 1, 1)),
        ("head.weight", (3, 6)),
        ("head.bias", (3,)),
    ]
    first = initial_parameters(tiny, 0)
    assert np.abs(first["block.shortcut.conv.weight"]).max() <= 1 / np.sqrt(2)
    np.testing.assert_array_equal(first["block.norm.weight"], np.ones(6))


def test_the_facts_of_the_table_are_checked(tiny):
    with pytest.raises(ValueError, match="`input_shape` must be 3 positive integers for tiny"):
        dataclasses.replace(tiny, input_shape=(5,))


def outputs_of(kit, model):
    """Of the built network with the core's parameters, and the names of its state."""
    inputs = np.random.default_rng(0).random((4, *model.input_shape))
    neutral = {name: array.astype(np.float64) for name, array in initial_parameters(model, 1).items()}
    with kit.float64():
        network = kit.models.build_model(model)
        params = kit.weights.from_neutral(neutral, model)
        outputs = kit.compile(lambda p: network(kit.images(inputs), params=p))(params)
        assert_identical(kit.weights.to_neutral(params, model), neutral)
        return kit.numpy(outputs), list(kit.weights.read_neutral(network))


def test_both_backends_build_it_and_agree(tiny, torch_kit, jax_kit):
    expected, names = outputs_of(torch_kit, tiny)
    found, others = outputs_of(jax_kit, tiny)
    assert_close(found, expected, "forward")
    assert sorted(names) == sorted(others)
    assert {"block.norm.running_mean", *parameter_shapes(tiny)} <= set(names)


def test_a_kind_of_layer_that_a_backend_lacks_is_an_error(monkeypatch, backend):
    class Unheard(Layer):
        pass

    def layers(input_shape, outputs, hidden):
        return chain(head=Unheard())

    monkeypatch.setitem(
        NETWORKS, "odd", Network(layers, takes_images=False, poolings=None, widths=(6,), meta_gradient=1e-9)
    )
    with pytest.raises(TypeError, match=r"cannot build .*Unheard.*; give this kind of layer a case"):
        backend.models.build_model(ModelConfig("odd"))
