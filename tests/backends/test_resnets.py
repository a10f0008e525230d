"""ResNet-12 in both backends, and JAX's ResNet-18 with torchvision's weights."""

import math

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

from metabridge.configs import ModelConfig
from metabridge.networks.parameters import initial_parameters, parameter_shapes

MODELS = {
    "square": ModelConfig("resnet12", (32, 32, 3), 5, (4, 6, 8, 10)),
    "wide": ModelConfig("resnet12", (20, 50, 2), 3, (4, 6, 8, 10)),  # 20 → 10 → 5 → 2 → 1: a row is dropped
}
EVERY_MODEL = pytest.mark.parametrize("name", MODELS)
BLOCKS = [f"features.layer{number}" for number in range(1, 5)]
PAIRS = [("conv1", "norm1"), ("conv2", "norm2"), ("conv3", "norm3"), ("shortcut.conv", "shortcut.norm")]


def drawn(model, dtype=np.float64):
    """Distinct numbers everywhere, batch normalisation included."""
    rng = np.random.default_rng(0)
    initial = initial_parameters(model, 0)
    return {name: (each + 0.1 * rng.standard_normal(each.shape)).astype(dtype) for name, each in initial.items()}


def statistics(model):
    """Running statistics as after some training."""
    rng = np.random.default_rng(1)
    state = {}
    for width, block in zip(model.hidden, BLOCKS, strict=True):
        for _, norm in PAIRS:
            state[f"{block}.{norm}.running_mean"] = 0.1 * rng.standard_normal(width)
            state[f"{block}.{norm}.running_var"] = 0.5 + rng.random(width)
            state[f"{block}.{norm}.num_batches_tracked"] = np.array(int(rng.integers(100)))
    return state


def inputs_of(model, count=6, seed=2):
    return np.random.default_rng(seed).random((count, *model.input_shape))


def loaded(kit, model):
    """The backend's network in the state of `drawn` and `statistics`, float64."""
    network = kit.models.build_model(model)
    network = network.double() if kit.name == "torch" else network
    kit.weights.load_neutral(network, drawn(model) | statistics(model))
    return network


def reference(torch, state, inputs, training):
    """ResNet-12 written out in plain torch functions, for NCHW inputs; running statistics are needed for evaluation."""
    functional = torch.nn.functional

    def convolution(values, block, conv, norm):
        weight = state[f"{block}.{conv}.weight"]
        values = functional.conv2d(values, weight, padding=weight.shape[-1] // 2)
        if training:
            mean, variance = values.mean((0, 2, 3)), values.var((0, 2, 3), unbiased=False)
        else:
            mean, variance = state[f"{block}.{norm}.running_mean"], state[f"{block}.{norm}.running_var"]
        normalised = (values - mean[:, None, None]) / (variance[:, None, None] + 1e-5).sqrt()
        return (
            normalised * state[f"{block}.{norm}.weight"][:, None, None] + state[f"{block}.{norm}.bias"][:, None, None]
        )

    def leaky(values):
        return torch.where(values > 0, values, 0.1 * values)

    values = inputs
    for block in BLOCKS:
        first, second, third, shortcut = PAIRS
        inner = leaky(convolution(values, block, *first))
        inner = leaky(convolution(inner, block, *second))
        values = leaky(convolution(inner, block, *third) + convolution(values, block, *shortcut))
        values = functional.max_pool2d(values, 2)
    return values.mean((2, 3)) @ state["head.weight"].T + state["head.bias"]


def reference_state(kit, model):
    return {name: kit.array(each) for name, each in (drawn(model) | statistics(model)).items()}


@EVERY_MODEL
def test_the_core_s_names_and_shapes_are_those_of_the_network(torch_kit, name):
    network = torch_kit.network(MODELS[name])
    own = [(key, tuple(each.shape)) for key, each in network.named_parameters()]
    assert own == list(parameter_shapes(MODELS[name]).items())
    assert [key for key, _ in network.meta_named_parameters()] == [key for key, _ in own]


@EVERY_MODEL
@pytest.mark.parametrize("training", [True, False], ids=["training", "evaluation"])
def test_outputs_are_those_of_the_reference(backend64, torch_kit, name, training):
    """With `params`: the batch's statistics in training mode, the running ones in evaluation mode."""
    model = MODELS[name]
    network = loaded(backend64, model)
    network.train() if training else network.eval()
    params = backend64.weights.from_neutral(drawn(model), model)
    before = backend64.weights.read_neutral(network)
    found = backend64.compile(lambda p, x: network(x, params=p))(params, backend64.images(inputs_of(model)))
    state = reference_state(torch_kit, model)
    expected = reference(torch_kit.torch, state, torch_kit.images(inputs_of(model)), training)
    assert found.shape == (6, model.outputs)
    assert_close(backend64.numpy(found), expected, "forward")
    assert_identical(backend64.weights.read_neutral(network), before)


def test_both_modes_differ(torch_kit):
    model = MODELS["square"]
    state, inputs = reference_state(torch_kit, model), torch_kit.images(inputs_of(model))
    assert_differs(*(reference(torch_kit.torch, state, inputs, training) for training in (True, False)))


def test_training_without_params_moves_the_statistics_alike(jax_kit, torch_kit):
    model = MODELS["square"]
    states = {}
    for kit in (jax_kit, torch_kit):
        with kit.float64():
            network = loaded(kit, model)
            if kit.name == "jax":
                kit.nnx.jit(lambda module, x: module(x))(network, kit.images(inputs_of(model)))
            else:
                network(kit.images(inputs_of(model)))
            states[kit.name] = kit.weights.read_neutral(network)
    assert_close(states["jax"], states["torch"], "forward")
    norms = [f"{block}.{norm}" for block in BLOCKS for _, norm in PAIRS]
    for norm in norms:
        assert states["jax"][f"{norm}.num_batches_tracked"] == statistics(model)[f"{norm}.num_batches_tracked"] + 1
        assert_differs(states["jax"][f"{norm}.running_var"], statistics(model)[f"{norm}.running_var"])


def task(kit, model):
    """Support and query images with targets for every class."""
    inputs = [kit.images(inputs_of(model, 2 * model.outputs, seed)) for seed in (3, 4)]
    return inputs, kit.array(np.arange(2 * model.outputs) % model.outputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["square"])
def test_the_meta_gradient_of_one_inner_step_is_the_reference_s(backend64, torch_kit, name):
    model, rate = MODELS[name], 0.3
    network = backend64.network(model)
    (support, query), targets = task(backend64, model)

    def loss(params, inputs):
        return backend64.functional.cross_entropy(network(inputs, params=params), targets)

    def objective(params):
        inner = backend64.gradient(lambda p: loss(p, support), params)
        return loss({key: params[key] - rate * inner[key] for key in params}, query)

    params = backend64.weights.from_neutral(drawn(model), model)
    found = backend64.weights.to_neutral(backend64.gradient(objective, params), model)
    expected, first_order = reference_meta_gradient(torch_kit, model, rate)
    assert_close(found, expected, "meta_gradient_conv4")
    assert_differs(found, first_order)


def reference_meta_gradient(kit, model, rate):
    """(meta-gradient, its first-order approximation) by autograd through `reference`."""
    torch = kit.torch
    (support, query), targets = task(kit, model)
    params = {name: kit.array(each).requires_grad_() for name, each in drawn(model).items()}

    def gradient(create_graph):
        loss = torch.nn.functional.cross_entropy(reference(torch, params, support, True), targets)
        return torch.autograd.grad(loss, list(params.values()), create_graph=create_graph)

    results = []
    for create_graph in (True, False):
        adapted = {
            name: each - rate * step for (name, each), step in zip(params.items(), gradient(create_graph), strict=True)
        }
        loss = torch.nn.functional.cross_entropy(reference(torch, adapted, query, True), targets)
        results.append(dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True)))
    return results


def test_a_built_network_starts_as_the_core_draws(backend):
    """Convolutions within ±1/√fan_in, batch normalisation at 1 and 0, no running statistics yet."""
    model = MODELS["square"]
    state = backend.weights.read_neutral(backend.models.build_model(model))
    for name, shape in parameter_shapes(model).items():
        if ".norm" in name:
            assert_identical(state[name], initial_parameters(model, 0)[name])
            continue
        scaled = state[name] * math.sqrt(math.prod(state[name.replace("bias", "weight")].shape[1:]))
        assert np.abs(scaled).max() <= 1 + 1e-6, name
        assert math.prod(shape) < 200 or np.abs(scaled).max() > 0.9, name
    for name, value in state.items():
        if name not in parameter_shapes(model):
            np.testing.assert_array_equal(value, np.full(value.shape, name.endswith("running_var")))


# ResNet-18


@pytest.fixture
def resnet18(torch_kit):
    """torchvision's, float64, with statistics as after some training."""
    import torchvision

    torch = torch_kit.torch
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = torchvision.models.resnet18(weights=None, num_classes=10).double().eval()
        for name, tensor in network.state_dict().items():
            if name.endswith("running_mean"):
                tensor.normal_(0, 0.1)
            elif name.endswith("running_var"):
                tensor.uniform_(0.5, 1.5)
            elif name.endswith("num_batches_tracked"):
                tensor.fill_(9)
            elif "bn" in name or "downsample.1" in name:
                tensor.add_(0.1 * torch.randn_like(tensor))
    return network


@pytest.mark.slow
def test_resnet18_computes_with_torchvision_s_weights(jax_kit, torch_kit, resnet18):
    state = {name: tensor.numpy() for name, tensor in resnet18.state_dict().items()}
    images = np.random.default_rng(5).random((2, 64, 64, 3))
    with jax_kit.float64():
        network = jax_kit.models.ResNet18(10, rngs=jax_kit.nnx.Rngs(0))
        jax_kit.weights.load_neutral(network, state)
        network.eval()
        own, given = jax_kit.compile(lambda x, p: (network(x), network(x, params=p)))(
            jax_kit.images(images), jax_kit.parameters(network)
        )
        back = jax_kit.weights.read_neutral(network)
    with torch_kit.torch.no_grad():
        expected = resnet18(torch_kit.images(images))
    assert_close(jax_kit.numpy(own), expected, "forward")
    assert_close(jax_kit.numpy(given), expected, "forward")
    assert_identical(back, state)


def test_resnet18_takes_the_parameters_of_torchvision_s_as_a_meta_module(jax_kit, torch_kit, resnet18):
    module = torch_kit.modules.as_meta_module(resnet18)
    parameters = torch_kit.weights.to_neutral(torch_kit.parameters(module), module)
    assert list(parameters) == [name for name, _ in resnet18.named_parameters()]
    with jax_kit.float64():
        network = jax_kit.nnx.eval_shape(lambda: jax_kit.models.ResNet18(10, rngs=jax_kit.nnx.Rngs(0)))
        params = jax_kit.weights.from_neutral(parameters, network)
        back = jax_kit.weights.to_neutral(params, network)
    assert_identical({name: back[name] for name in parameters}, parameters)


@pytest.mark.slow
def test_resnet18_starts_with_torchvision_s_distribution(jax_kit, torch_kit):
    import torchvision

    with torch_kit.torch.random.fork_rng():
        theirs = torchvision.models.resnet18(weights=None).state_dict()
    ours = jax_kit.weights.read_neutral(jax_kit.models.ResNet18(rngs=jax_kit.nnx.Rngs(0)))
    assert [(name, array.shape) for name, array in ours.items()] == [
        (name, tuple(tensor.shape)) for name, tensor in theirs.items()
    ]
    for name, array in ours.items():
        if array.ndim < 2:
            if name != "fc.bias":
                assert_identical(array, theirs[name])
            continue
        assert array.std() == pytest.approx(theirs[name].std().item(), rel=0.05), name
        assert abs(array.mean()) < 5 * array.std() / math.sqrt(array.size), name


@pytest.mark.slow
def test_the_meta_gradient_of_torchvision_s_resnet18_is_the_same_in_both(jax_kit, torch_kit):
    """Batch normalisation by the batch, two inner steps, through torchvision's own module and JAX's ResNet18."""
    import torchvision

    torch_kit.torch.manual_seed(0)
    plain = torchvision.models.resnet18(weights=None, num_classes=5).double()
    before = {name: each.clone() for name, each in plain.state_dict().items()}
    images = np.random.default_rng(0).standard_normal((2, 4, 32, 32, 3))
    labels = np.array([[0, 1, 2, 3], [4, 3, 2, 1]])

    def meta_gradient(kit, model, params, steps=2):
        inputs, targets = kit.images(images), kit.array(labels)

        def objective(params, steps):
            for _ in range(steps):
                support = kit.transform(lambda p: kit.functional.cross_entropy(model(inputs[0], params=p), targets[0]))
                gradients = support(params)
                params = {name: params[name] - 0.01 * gradients[name] for name in params}
            return kit.functional.cross_entropy(model(inputs[1], params=params), targets[1])

        return kit.gradient(lambda p: objective(p, steps), params)

    model = torch_kit.modules.as_meta_module(plain)
    start = {name: each.detach() for name, each in model.meta_named_parameters()}
    expected, without_steps = (meta_gradient(torch_kit, model, start, steps) for steps in (2, 0))
    with jax_kit.float64():
        twin = jax_kit.models.ResNet18(5, rngs=jax_kit.nnx.Rngs(0))
        jax_kit.weights.load_neutral(twin, {name: each.numpy() for name, each in plain.state_dict().items()})
        found = meta_gradient(jax_kit, twin, jax_kit.parameters(twin))
        assert_close(jax_kit.weights.to_neutral(found, twin), expected, "meta_gradient_conv4")
    assert_differs(without_steps, expected)
    assert_identical(plain.state_dict(), before)
