"""`params` reach every MetaModule that a model holds, however it is called; what they cannot reach is an error."""

import copy

import numpy as np
import pytest
from tolerances import assert_close, assert_identical

INPUTS = np.random.default_rng(0).standard_normal((5, 3))


def tanh(kit, values):
    return values.tanh() if kit.name == "torch" else kit.jax.numpy.tanh(values)


def model_of(kit, hide, run, threads=False):
    """A MetaModule that keeps a hidden layer 3 → 3 its own way, applies it, tanh and a head 3 → 2."""

    def init(self):
        kit.modules.MetaModule.__init__(self)
        hide(self, kit.layer("MetaLinear", 3, 3))
        self.head = kit.layer("MetaLinear", 3, 2)

    def plain(self, inputs):
        return self.head(tanh(kit, run(self, inputs)))

    def with_argument(self, inputs, params=None):
        return plain(self, inputs) if threads is None else run(self, inputs, params)

    call = plain if threads is False else with_argument
    method = "forward" if kit.name == "torch" else "__call__"
    return type("Model", (kit.modules.MetaModule,), {"__init__": init, method: call})()


def assign(self, layer):
    self.layer = layer


def in_a_closure(self, layer):
    self.layer = layer
    self.apply_layer = lambda values: layer(values)


def containers(kit):
    """Of the framework: sequence, list, dictionary."""
    if kit.name == "torch":
        return kit.torch.nn.Sequential, kit.torch.nn.ModuleList, kit.torch.nn.ModuleDict
    return kit.nnx.Sequential, kit.nnx.List, kit.nnx.Dict


def ways(kit):
    """How a layer may be held and called → model."""
    sequence, listed, named = containers(kit)

    def threaded(self, inputs, params):
        hidden = self.layer(inputs, params=self.get_subdict(params, "layer"))
        return self.head(tanh(kit, hidden), params=self.get_subdict(params, "head"))

    return {
        "attribute": lambda: model_of(kit, assign, lambda m, x: m.layer(x)),
        "plain sequence": lambda: model_of(kit, lambda m, e: assign(m, sequence(e)), lambda m, x: m.layer(x)),
        "plain list": lambda: model_of(kit, lambda m, e: assign(m, listed([e])), lambda m, x: m.layer[0](x)),
        "plain dictionary": lambda: model_of(
            kit, lambda m, e: assign(m, named({"a": e})), lambda m, x: m.layer["a"](x)
        ),
        "closure": lambda: model_of(kit, in_a_closure, lambda m, x: m.apply_layer(x)),
        "nested": lambda: model_of(
            kit,
            lambda m, e: assign(m, kit.modules.MetaSequential(sequence(kit.modules.MetaSequential(e)))),
            lambda m, x: m.layer(x),
        ),
        "a forward that forgets": lambda: model_of(kit, assign, lambda m, x: m.layer(x), threads=None),
        "a forward that passes on": lambda: model_of(kit, assign, threaded, threads=True),
    }


WAYS = [
    "attribute", "plain sequence", "plain list", "plain dictionary", "closure", "nested", "a forward that forgets",
    "a forward that passes on",
]  # fmt: skip
EVERY_WAY = pytest.mark.parametrize("way", WAYS)


def explicit(kit, params, inputs):
    """The network written out: parameters are told apart by their shapes."""
    by_shape = {tuple(each.shape): each for each in params.values()}
    first, bias, last = by_shape[3, 3], by_shape[3,], by_shape.get((2, 3), by_shape.get((3, 2)))
    if kit.name == "torch":
        first, last = first.T, last.T
    return tanh(kit, inputs @ first + bias) @ last + by_shape[2,]


def others(kit, model):
    """Other parameters than those stored."""
    return {name: 1.5 * kit.array(kit.numpy(each)) - 0.1 for name, each in kit.parameters(model).items()}


def test_the_table_is_whole(backend):
    assert list(ways(backend)) == WAYS


@EVERY_WAY
def test_params_reach_every_layer(backend64, way):
    kit, model = backend64, ways(backend64)[way]()
    inputs, params = kit.array(INPUTS), others(backend64, model)
    stored = copy.deepcopy(kit.numpy(kit.parameters(model)))
    expected = explicit(kit, params, inputs)
    assert_close(model(inputs, params=params), expected, "forward")
    assert_close(kit.modules.call_with_buffers(model, inputs, params=params)[0], expected, "forward")
    assert_close(model(inputs), explicit(kit, kit.parameters(model), inputs), "forward")
    assert_identical(kit.numpy(kit.parameters(model)), stored)


@EVERY_WAY
def test_the_meta_gradient_is_that_of_the_network_written_out(backend64, way):
    kit, model = backend64, ways(backend64)[way]()
    inputs = kit.array(INPUTS)

    def objective(call):
        def adapted(params):
            gradients = kit.transform(lambda p: (call(p, inputs) ** 2).mean())(params)
            return (call({name: params[name] - 0.3 * gradients[name] for name in params}, inputs) ** 3).mean()

        return adapted

    params = others(kit, model)
    found = kit.gradient(objective(lambda p, x: model(x, params=p)), params)
    expected = kit.gradient(objective(lambda p, x: explicit(kit, p, x)), params)
    assert_close(kit.numpy(found), kit.numpy(expected), "meta_gradient_mlp")


@EVERY_WAY
def test_missing_unknown_and_mis_shaped_params_are_errors(backend64, way):
    kit, model = backend64, ways(backend64)[way]()
    inputs, params = kit.array(INPUTS), others(backend64, model)
    with pytest.raises(ValueError, match=r"Model must hold every parameter, 'head\.bias' is missing"):
        model(inputs, params={name: each for name, each in params.items() if name != "head.bias"})
    with pytest.raises(ValueError, match=r"'head\.bais', which is no parameter of Model; did you mean 'head\.bias'"):
        model(inputs, params={**params, "head.bais": params["head.bias"]})
    with pytest.raises(ValueError, match=r"`params\['head\.bias'\]` of Model must have shape \(2,\), got \(3,\)"):
        model(inputs, params={**params, "head.bias": params["head.weight"].reshape(-1)[:3]})


def unheld(kit, **options):
    """A model whose hidden layer is in a closure alone, so that it does not hold it."""

    def hide(self, layer):
        self.apply_layer = lambda values: layer(values, **{name: make(layer) for name, make in options.items()})

    return model_of(kit, hide, lambda m, x: m.apply_layer(x))


def test_a_layer_that_the_model_does_not_hold_is_an_error(backend64):
    kit, model = backend64, unheld(backend64)
    inputs, params = kit.array(INPUTS), others(backend64, model)
    assert list(params) == ["head.weight", "head.bias"]
    message = "MetaLinear runs inside a call of Model with `params`, but Model does not hold it.*assign the MetaLinear"
    with pytest.raises(ValueError, match=message):
        model(inputs, params=params)
    with pytest.raises(ValueError, match=message):
        kit.modules.call_with_buffers(model, inputs, params=params)
    expected = model(inputs)  # without `params` nothing is adapted
    assert_identical(kit.modules.call_with_buffers(model, inputs)[0], expected)
    explicitly = unheld(kit, params=lambda layer: dict(layer.meta_named_parameters()))
    assert explicitly(inputs, params=others(kit, explicitly)).shape == (5, 2)


def test_as_meta_module_sees_a_layer_that_its_module_does_not_hold(backend64):
    kit = backend64
    layer = kit.layer("MetaLinear", 3, 3)
    function = kit.torch.nn.Module if kit.name == "torch" else kit.nnx.Module

    def init(self):
        function.__init__(self)
        self.linear = kit.plain_linear(3, 3)

    method = "forward" if kit.name == "torch" else "__call__"
    plain = type("Plain", (function,), {"__init__": init, method: lambda self, x: layer(self.linear(x))})()
    model = kit.modules.as_meta_module(plain)
    with pytest.raises(ValueError, match="MetaLinear runs inside a call of"):
        model(kit.array(INPUTS), params=kit.parameters(model))


def test_a_child_uses_the_params_that_it_is_given(backend64):
    kit = backend64

    def run(self, inputs, params=None):
        own = self.get_subdict(params, "layer")
        twice = None if own is None else {name: 2 * each for name, each in own.items()}
        return self.layer(self.layer(self.layer(inputs), params=twice), params=own)

    model, inputs = model_of(kit, assign, run, threads=True), kit.array(INPUTS)
    params = others(kit, model)
    layer, own = kit.layer("MetaLinear", 3, 3), {name[6:]: each for name, each in params.items() if "layer" in name}
    twice = {name: 2 * each for name, each in own.items()}
    expected = layer(layer(layer(inputs, params=own), params=twice), params=own)
    assert_close(model(inputs, params=params), expected, "forward")


def test_one_array_may_be_given_under_two_names(backend64):
    kit = backend64
    layers = [kit.layer("MetaLinear", 3, 3) for _ in range(2)]
    model, inputs = kit.layer("MetaSequential", *layers), kit.array(INPUTS)
    weight, bias = kit.array(np.eye(3) * 2), kit.array(np.ones(3))
    params = {"0.weight": weight, "0.bias": bias, "1.weight": weight, "1.bias": bias}
    assert_close(model(inputs, params=params), 4 * INPUTS + 3, "forward")


def test_an_error_inside_the_call_leaves_the_model_as_it_was(backend64):
    kit = backend64

    def fail(self, inputs):
        raise ArithmeticError("on purpose")

    model = model_of(kit, assign, fail)
    before = kit.numpy(kit.parameters(model))
    with pytest.raises(ArithmeticError, match="on purpose"):
        model(kit.array(INPUTS), params=others(kit, model))
    assert_identical(kit.numpy(kit.parameters(model)), before)
    assert kit.layer("MetaLinear", 3, 2)(kit.array(INPUTS)).shape == (5, 2)  # no call is in progress any more


def test_a_call_with_params_moves_no_statistics_of_ordinary_modules_either(backend64):
    kit = backend64
    body = kit.batch_normalised()
    model = kit.layer("MetaSequential", kit.layer("MetaLinear", 3, 4), body, kit.layer("MetaLinear", 4, 2))
    before = {name: np.array(kit.numpy(each)) for name, each in model.meta_named_buffers()}
    assert before
    with kit.mixed_dtypes():
        model(kit.array(INPUTS), params=kit.parameters(model))
        assert_identical({name: kit.numpy(each) for name, each in model.meta_named_buffers()}, before)
        model(kit.array(INPUTS))
    moved = {name: kit.numpy(each) for name, each in model.meta_named_buffers()}
    assert any((moved[name] != value).any() for name, value in before.items())


def test_params_may_be_given_by_position(backend64):
    kit = backend64
    layer, inputs = kit.layer("MetaLinear", 3, 2), kit.array(INPUTS)
    params = others(kit, layer)
    assert_identical(layer(inputs, params), layer(inputs, params=params))
    with pytest.raises(TypeError, match="takes 2 positional arguments but 3 were given"):
        layer(inputs, params, 1)
    with pytest.raises(TypeError, match="unexpected keyword argument 'other'"):
        layer(inputs, params=params, other=1)


def test_what_a_call_with_params_writes_into_a_module_is_gone_afterwards(jax_kit):
    """Also inside of `jax.jit`, where the module was made outside."""
    nnx = jax_kit.nnx

    class Writes(jax_kit.modules.MetaModule):
        def __init__(self):
            self.linear = jax_kit.modules.MetaLinear(3, 2, rngs=nnx.Rngs(0))
            self.count = nnx.BatchStat(jax_kit.array(np.zeros(2, np.float32)))

        def __call__(self, inputs):
            outputs = self.linear(inputs)
            self.count[...] = self.count[...] + outputs.mean(0)
            return outputs

    model, inputs = Writes(), jax_kit.array(INPUTS.astype(np.float32))
    before = jax_kit.nnx.state(model)
    jax_kit.jax.jit(lambda p: model(inputs, params=p))(jax_kit.parameters(model))
    for ours, theirs in zip(*map(jax_kit.jax.tree.leaves, (nnx.state(model), before)), strict=True):
        np.testing.assert_array_equal(ours, theirs)
