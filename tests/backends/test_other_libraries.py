"""The JAX MAML takes any pure function of any pytree: other libraries' modules give the MetaModules' meta-gradient."""

import functools

import pytest
from tolerances import assert_close, assert_differs

from backends.kits import make_kit
from backends.problems import PROBLEMS
from metabridge.configs import MAMLConfig

pytestmark = [pytest.mark.xdist_group("other_libraries"), pytest.mark.slow]

PROBLEM = PROBLEMS["vectors"]  # 4 features, one hidden layer of 8, 3 classes
CONFIG = PROBLEM.run.algorithm
LAYERS = ("features.layer1.linear", "head")


def flax_linen(weights):
    """Nested dictionaries, as `module.init` returns them."""
    import flax.linen as nn
    import jax

    class Network(nn.Module):
        @nn.compact
        def __call__(self, inputs):
            hidden = jax.nn.relu(nn.Dense(8, param_dtype=inputs.dtype)(inputs))
            return nn.Dense(3, param_dtype=inputs.dtype)(hidden)

    names = dict(zip(LAYERS, ("Dense_0", "Dense_1"), strict=True))
    params = {names[layer]: {"kernel": weight, "bias": bias} for layer, (weight, bias) in weights.items()}

    def restore(tree):
        return {layer: (tree[name]["kernel"], tree[name]["bias"]) for layer, name in names.items()}

    return lambda p, x: Network().apply({"params": p}, x), params, restore


def equinox(weights):
    """A module whose arrays are separated from the rest by `eqx.partition`; the rest is `None` in the pytree."""
    import equinox as eqx
    import jax

    network = eqx.nn.MLP(4, 3, 8, depth=1, key=jax.random.key(0))
    values = [each.T if each.ndim == 2 else each for layer in weights.values() for each in layer]

    def parts(tree):
        return [each for layer in tree.layers for each in (layer.weight, layer.bias)]

    params, static = eqx.partition(eqx.tree_at(parts, network, values), eqx.is_inexact_array)

    def restore(tree):
        return {layer: (part.weight.T, part.bias) for layer, part in zip(LAYERS, tree.layers, strict=True)}

    return lambda p, x: jax.vmap(eqx.combine(p, static))(x), params, restore


def plain_function(weights):
    """Tuples in a list."""
    import jax.numpy as jnp

    def apply(params, inputs):
        (first, first_bias), (second, second_bias) = params
        return jnp.maximum(inputs @ first + first_bias, 0) @ second + second_bias

    return apply, list(weights.values()), lambda tree: dict(zip(LAYERS, tree, strict=True))


def flax_nnx(weights):
    """An NNX module split into its graph and its state."""
    import jax
    from flax import nnx

    class Network(nnx.Module):
        def __init__(self, rngs):
            self.first, self.second = nnx.Linear(4, 8, rngs=rngs), nnx.Linear(8, 3, rngs=rngs)

        def __call__(self, inputs):
            return self.second(jax.nn.relu(self.first(inputs)))

    network = Network(nnx.Rngs(0))
    for layer, (weight, bias) in zip((network.first, network.second), weights.values(), strict=True):
        layer.kernel, layer.bias = nnx.Param(weight), nnx.Param(bias)
    graph, params = nnx.split(network)

    def restore(tree):
        parts = (tree["first"], tree["second"])
        return {
            layer: (part["kernel"].get_value(), part["bias"].get_value())
            for layer, part in zip(LAYERS, parts, strict=True)
        }

    return lambda p, x: nnx.merge(graph, p)(x), params, restore


LIBRARIES = [flax_linen, equinox, plain_function, flax_nnx]
EVERY_LIBRARY = pytest.mark.parametrize("library", LIBRARIES, ids=lambda each: each.__name__)
TASK_MAPS = pytest.mark.parametrize("task_map", ["vectorised", "sequential"])


@pytest.fixture(scope="module")
def kit():
    jax_kit = make_kit("jax")
    with jax_kit.float64():
        yield jax_kit


def maml(kit, apply, config=CONFIG, task_map="vectorised"):
    return kit.algorithms.MAML.from_config(config, {"network": apply}, kit.functional.cross_entropy, None, task_map)


def received(kit):
    return kit.backend.Backend("cpu", "float64").receive(PROBLEM.batch())


def meta_module(kit):
    network = kit.network(PROBLEM.run.model)
    params = kit.weights.from_neutral(PROBLEM.parameters(), PROBLEM.run.model)
    return lambda p, x: network(x, params=p), params


@functools.cache
def of_the_meta_modules(kit):
    """Meta-objective and meta-gradient, computed once."""
    apply, params = meta_module(kit)
    return kit.compile(maml(kit, apply).meta_gradient)(params, received(kit))


def by_layer(params):
    """Layer → (weight, bias) of MetaModule parameters."""
    return {layer: (params[f"{layer}.weight"], params[f"{layer}.bias"]) for layer in LAYERS}


def flat(layers):
    return {f"{layer}.{kind}": each for layer, pair in layers.items() for kind, each in zip("wb", pair, strict=True)}


@EVERY_LIBRARY
@TASK_MAPS
def test_meta_gradient_is_that_of_the_meta_modules(kit, library, task_map):
    expected_objective, expected = of_the_meta_modules(kit)
    apply, params, restore = library(by_layer(meta_module(kit)[1]))
    objective, gradient = kit.compile(maml(kit, apply, CONFIG, task_map).meta_gradient)(params, received(kit))
    assert_close(objective, expected_objective, "forward")
    assert_close(flat(restore(gradient)), flat(by_layer(expected)), "meta_gradient_mlp")


@EVERY_LIBRARY
def test_structure_survives_adaptation_and_differentiation(kit, library):
    import jax

    apply, params, _ = library(by_layer(meta_module(kit)[1]))
    algorithm, batch = maml(kit, apply), received(kit)
    inputs, targets = batch["train"]
    adapted = jax.eval_shape(algorithm.adapt, params, inputs[0], targets[0])
    _, gradient = jax.eval_shape(algorithm.meta_gradient, params, batch)
    assert jax.tree.structure(adapted) == jax.tree.structure(gradient) == jax.tree.structure(params)
    assert jax.eval_shape(algorithm.predict, params, batch).shape == (3, 9, 3)


@EVERY_LIBRARY
def test_first_order_is_another_gradient(kit, library):
    apply, params, restore = library(by_layer(meta_module(kit)[1]))
    first_order = MAMLConfig(CONFIG.inner_steps, CONFIG.inner_lr, first_order=True)
    _, gradient = kit.compile(maml(kit, apply, first_order).meta_gradient)(params, received(kit))
    assert_differs(flat(restore(gradient)), flat(by_layer(of_the_meta_modules(kit)[1])))


def test_torch_takes_plain_modules_through_functional_call(torch_kit):
    """The same freedom in PyTorch: any module by its named parameters."""
    torch = torch_kit.torch
    network, plain = (
        torch_kit.network(PROBLEM.run.model),
        torch.nn.Sequential(torch.nn.Linear(4, 8), torch.nn.ReLU(), torch.nn.Linear(8, 3)),
    )
    params = torch_kit.weights.from_neutral(PROBLEM.parameters(), PROBLEM.run.model)
    names = dict(zip(params, ("0.weight", "0.bias", "2.weight", "2.bias"), strict=True))
    batch = received(torch_kit)
    expected = maml(torch_kit, lambda p, x: network(x, params=p)).meta_gradient(params, batch)
    found = maml(torch_kit, lambda p, x: torch.func.functional_call(plain, p, (x,))).meta_gradient(
        {names[name]: each for name, each in params.items()}, batch
    )
    assert_close(found[0], expected[0], "forward")
    assert_close({name: found[1][names[name]] for name in params}, expected[1], "meta_gradient_mlp")
