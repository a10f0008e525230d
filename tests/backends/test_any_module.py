"""`as_meta_module`: whole modules that were written without MetaModules in mind."""

import copy
import importlib
import pickle

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

RATE = 0.01
INPUTS = np.random.default_rng(0).standard_normal((2, 2, 5, 4))
TARGETS = np.random.default_rng(1).integers(0, 3, (2, 2, 5))
"""Two tasks, support and query, five examples of four features, three classes."""

NAMES = ["tied", "counting", "recurrent", "transformer", "convolutional"]
EVERY_TORCH_MODULE = pytest.mark.parametrize("name", NAMES)


def torch_module(kit, name):
    kit.torch.manual_seed(0)
    return importlib.import_module("backends.torch_modules").MODULES[name]().double()


def objective(kit, call, params, inputs, targets, steps=2):
    """Query loss of one task after some steps; `call(params, inputs)`."""
    cross_entropy = kit.functional.cross_entropy

    def support_loss(current):
        return cross_entropy(call(current, inputs[0]), targets[0])

    for _ in range(steps):
        gradients = kit.transform(support_loss)(params)
        params = {name: params[name] - RATE * gradients[name] for name in params}
    return cross_entropy(call(params, inputs[1]), targets[1])


def autograd_meta_gradient(torch_kit, module, inputs, targets, steps=2):
    """By torch.autograd and a fresh copy of the plain module for every call."""
    from torch.nn.attention import SDPBackend, sdpa_kernel

    torch = torch_kit.torch
    params = {name: each.detach().clone().requires_grad_() for name, each in module.named_parameters()}

    def loss(current, task, role):
        with sdpa_kernel(SDPBackend.MATH):  # torch's fused attention has no second derivative
            outputs = torch.func.functional_call(copy.deepcopy(module), current, (inputs[task, role],))
        return torch_kit.functional.cross_entropy(outputs, targets[task, role])

    objectives = []
    for task in range(len(inputs)):
        current = params
        for _ in range(steps):
            found = torch.autograd.grad(loss(current, task, 0), list(current.values()), create_graph=True)
            current = {n: value - RATE * gradient for (n, value), gradient in zip(current.items(), found, strict=True)}
        objectives.append(loss(current, task, 1))
    found = torch.autograd.grad(torch.stack(objectives).mean(), list(params.values()))
    return dict(zip(params, found, strict=True))


@pytest.mark.parametrize(
    ("name", "together"),
    [(name, together) for name in NAMES for together in (True, False) if not (together and name == "recurrent")],
)
def test_meta_gradients_are_those_of_the_plain_module(torch_kit, name, together):
    torch, module = torch_kit.torch, torch_module(torch_kit, name)
    model = torch_kit.modules.as_meta_module(module)
    inputs, targets = torch_kit.array(INPUTS), torch_kit.array(TARGETS)
    params = {name: each.detach().clone() for name, each in model.meta_named_parameters()}
    before = {name: each.clone() for name, each in module.state_dict().items()}

    def one(current, x, y):
        return objective(torch_kit, lambda p, i: model(i, params=p), current, x, y)

    def total(current):
        if together:
            return torch.func.vmap(one, in_dims=(None, 0, 0))(current, inputs, targets).mean()
        return torch.stack([one(current, x, y) for x, y in zip(inputs, targets, strict=True)]).mean()

    found = torch.func.grad(total)(params)
    assert_identical(module.state_dict(), before)  # no parameter and no buffer has moved
    assert_close(found, autograd_meta_gradient(torch_kit, module, inputs, targets), "gradient")


@EVERY_TORCH_MODULE
def test_it_is_the_module_itself_but_for_params(torch_kit, name):
    module = torch_module(torch_kit, name)
    model = torch_kit.modules.as_meta_module(module)
    inputs = torch_kit.array(INPUTS[0, 0])
    assert isinstance(model, type(module))
    assert isinstance(model, torch_kit.modules.MetaModule)
    assert type(model).__name__ == f"MetaModule[{type(module).__name__}]"
    assert [id(each) for each in model.parameters()] == [id(each) for each in module.parameters()]
    assert list(torch_kit.parameters(model)) == [name for name, _ in module.named_parameters()]
    assert list(model.state_dict()) == list(module.state_dict())
    model.eval(), module.eval()
    with torch_kit.torch.no_grad():
        assert_identical(model(inputs), module(inputs))
    assert_close(model(inputs, params=torch_kit.parameters(model)), module(inputs), "forward")


@EVERY_TORCH_MODULE
def test_it_can_be_copied_pickled_and_moved(torch_kit, name):
    torch = torch_kit.torch
    model = torch_kit.modules.as_meta_module(torch_module(torch_kit, name)).eval()
    inputs = torch_kit.array(INPUTS[0, 0])
    for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert type(twin) is type(model)
        params = torch_kit.parameters(model)
        assert_identical(twin(inputs, params=params), model(inputs, params=params))
        with torch.no_grad():
            list(twin.parameters())[-1].add_(1)
        assert_differs(twin(inputs), model(inputs))
    params = dict(model.float().meta_named_parameters())
    assert model(inputs.float(), params=params).dtype == torch.float32


def test_params_reach_every_place_of_a_tied_parameter(torch_kit):
    """Also where the module keeps its layers in a plain list, which no walk over submodules sees."""
    model = torch_kit.modules.as_meta_module(torch_module(torch_kit, "tied"))
    inputs, params = torch_kit.array(INPUTS[0, 0]), torch_kit.parameters(model)
    assert "second.weight" not in params
    zeroed = {**params, "first.weight": 0 * params["first.weight"], "first.bias": 0 * params["first.bias"]}
    hidden = model.second.bias.expand(5, 4)
    hidden = torch_kit.torch.nn.functional.layer_norm(hidden, (4,), model.norm.weight, model.norm.bias)
    assert_close(model(inputs, params=zeroed), model.head(hidden), "forward")


def test_wrong_params_are_errors_that_help(torch_kit):
    model = torch_kit.modules.as_meta_module(torch_module(torch_kit, "tied"))
    inputs, params = torch_kit.array(INPUTS[0, 0]), torch_kit.parameters(model)
    with pytest.raises(
        ValueError, match=r"'head\.wight', which is no parameter of MetaModule\[Tied\]; did you mean 'head\.weight'"
    ):
        model(inputs, params={**params, "head.wight": params["head.weight"]})
    with pytest.raises(ValueError, match=r"MetaModule\[Tied\] must hold every parameter, 'head\.bias' is missing"):
        model(inputs, params={name: each for name, each in params.items() if name != "head.bias"})
    with pytest.raises(
        ValueError, match=r"`params\['head\.bias'\]` of MetaModule\[Tied\] must have shape \(3,\), got \(1,\)"
    ):
        model(inputs, params={**params, "head.bias": params["head.bias"][:1]})


def test_an_error_in_the_forward_pass_restores_the_module(torch_kit):
    model = torch_kit.modules.as_meta_module(torch_module(torch_kit, "tied"))
    before = {name: id(each) for name, each in model.named_parameters()}
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        model(torch_kit.array(np.ones((5, 7))), params={n: 2 * v for n, v in torch_kit.parameters(model).items()})
    assert {name: id(each) for name, each in model.named_parameters()} == before


def test_it_is_a_part_of_other_meta_modules(backend64):
    """Named by its place, and reached by `get_subdict`, down to its own submodules."""
    inner = backend64.modules.as_meta_module(backend64.plain_sequence(backend64.plain_linear(4, 4), backend64.relu))
    model = backend64.layer("MetaSequential", inner, backend64.layer("MetaLinear", 4, 3))
    params, inputs = backend64.parameters(model), backend64.array(INPUTS[0, 0])
    own = [name for name in params if name.startswith("0.")]
    assert len(own) == 2
    assert_close(model(inputs, params=params), model(inputs), "forward")
    doubled = {name: 2.0 * each if name in own else each for name, each in params.items()}
    assert_differs(model(inputs, params=doubled), model(inputs))
    path = own[0].rpartition(".")[0]
    assert set(model.get_subdict(params, path)) == {name.rpartition(".")[2] for name in own}


def test_frozen_statistics_are_those_of_evaluation(backend64):
    with backend64.mixed_dtypes():  # Flax's layers contain float32 constants
        frozen_is_evaluation(backend64, backend64.batch_normalised())


def frozen_is_evaluation(backend64, plain):
    frozen = backend64.modules.as_meta_module(plain, batch_norm="frozen")
    batch = backend64.modules.as_meta_module(plain)
    inputs, params = backend64.array(INPUTS[0, 0]), backend64.parameters(batch)
    before = {name: backend64.numpy(each).copy() for name, each in batch.meta_named_buffers()}
    expected = [backend64.numpy(each(inputs, params=params)) for each in (frozen, batch)]
    assert_identical({name: backend64.numpy(each) for name, each in batch.meta_named_buffers()}, before)
    plain.eval()
    batch.eval()
    assert_close(expected[0], plain(inputs), "forward")
    assert_close(batch(inputs, params=params), plain(inputs), "forward")
    assert_differs(expected[1], plain(inputs))


def test_an_unknown_policy_is_refused(backend64):
    with pytest.raises(ValueError, match="`batch_norm` must be 'batch' or 'frozen', got 'running'"):
        backend64.modules.as_meta_module(backend64.plain_linear(2, 2), batch_norm="running")


def test_what_cannot_work_is_refused_with_the_way_out(torch_kit):
    torch, as_meta_module = torch_kit.torch, torch_kit.modules.as_meta_module
    nn = torch.nn

    class Takes(nn.Module):
        def forward(self, x, params=None):
            return x

    with pytest.warns(Warning, match="deprecated"):
        scripted = torch.jit.script(nn.Linear(2, 2))
    with pytest.warns(Warning, match="deprecated"):
        old_style = nn.utils.weight_norm(nn.Linear(2, 2))
    listed, replaced, pruned = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    listed.again = [listed.weight]
    replaced.forward = lambda x: x
    nn.utils.prune.l1_unstructured(pruned, "weight", 0.5)
    refused = {
        r"Linear\.again keeps parameters where they cannot be replaced": listed,
        "forward pass was compiled, traced or replaced": replaced,
        "as it was written, got OptimizedModule": torch.compile(nn.Linear(2, 2)),
        "as it was written, got": torch.fx.symbolic_trace(nn.Linear(2, 2)),
        "must not be pruned itself": pruned,
        "which is a MetaModule": torch_kit.layer("MetaLinear", 2, 2),
        "TorchScript": scripted,
        "'0' of Sequential is compiled TorchScript": nn.Sequential(scripted),
        "no parameters yet": nn.LazyLinear(3),
        "module inside, got DataParallel": nn.DataParallel(nn.Linear(2, 2)),
        r"'0' of Sequential has old-style WeightNorm.*parametrizations": nn.Sequential(old_style),
        "already has an argument `params`": Takes(),
        r"must be a torch\.nn\.Module, got str": "resnet18",
    }
    for message, module in refused.items():
        with pytest.raises(ValueError, match=message):
            as_meta_module(module)


def test_parametrised_weights_take_params(torch_kit):
    """The weight is computed from what `params` hold."""
    nn = torch_kit.torch.nn
    module = nn.Sequential(nn.utils.parametrizations.weight_norm(nn.Linear(4, 3).double()))
    model = torch_kit.modules.as_meta_module(module)
    inputs, params = torch_kit.array(INPUTS[0, 0]), torch_kit.parameters(model)
    length, direction = "0.parametrizations.weight.original0", "0.parametrizations.weight.original1"
    assert list(params) == ["0.bias", length, direction]
    bias = params["0.bias"]
    found = model(inputs, params={**params, length: 3 * params[length], direction: 5 * params[direction]})
    assert_close(found - bias, 3 * (module(inputs) - bias), "forward")


def test_recurrent_layers_under_vmap_say_what_to_do(torch_kit):
    model = torch_kit.modules.as_meta_module(torch_module(torch_kit, "recurrent"))
    params = {name: each.detach() for name, each in model.meta_named_parameters()}
    inputs = torch_kit.array(INPUTS[:, 0])
    with pytest.raises(
        RuntimeError, match=r"recurrent layers .*lstm.* do not work under torch\.func\.vmap.*sequential"
    ):
        torch_kit.torch.func.vmap(lambda x: model(x, params=params))(inputs)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["tied", "normalised", "attending"])
def test_flax_modules_have_the_meta_gradients_of_a_pure_function(jax_kit, name):
    jax, nnx = jax_kit.jax, jax_kit.nnx
    with jax_kit.float64(), jax_kit.mixed_dtypes():  # Flax's layers contain float32 constants
        module = importlib.import_module("backends.jax_modules").MODULES[name]()
        model = jax_kit.modules.as_meta_module(module)
        inputs, targets = jax_kit.array(INPUTS), jax_kit.array(TARGETS)
        graph, state, rest = nnx.split(module, nnx.Param, ...)
        before = nnx.to_pure_dict(nnx.state(module))

        def pure(current, x):
            return nnx.merge(graph, current, rest, copy=True)(x)

        def reference(current, x, y):
            def support_loss(values):
                return jax_kit.functional.cross_entropy(pure(values, x[0]), y[0])

            for _ in range(2):
                gradients = jax.grad(support_loss)(current)
                current = jax.tree.map(lambda value, gradient: value - RATE * gradient, current, gradients)
            return jax_kit.functional.cross_entropy(pure(current, x[1]), y[1])

        def ours(current, x, y):
            return objective(jax_kit, lambda p, i: model(i, params=p), current, x, y)

        def total(one):
            return jax.jit(jax.grad(lambda current: jax.vmap(one, (None, 0, 0))(current, inputs, targets).mean()))

        found = total(ours)(jax_kit.parameters(model))
        expected = {".".join(map(str, path)): leaf for path, leaf in nnx.to_flat_state(total(reference)(state))}
        # Flax calls a shared layer by the first of its sorted names.
        expected = {path.replace("another", "second"): leaf.get_value() for path, leaf in expected.items()}
        assert_close(found, expected, "gradient")
        assert isinstance(model, type(module))
        assert_close(model(inputs[0, 0]), pure(state, inputs[0, 0]), "forward")
        if name != "normalised":
            after = nnx.to_pure_dict(nnx.state(module))
            assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), before, after))


def test_flax_modules_that_cannot_work_are_refused(jax_kit):
    nnx, as_meta_module = jax_kit.nnx, jax_kit.modules.as_meta_module

    class Takes(nnx.Module):
        def __call__(self, x, params=None):
            return x

    class NotCallable(nnx.Module):
        pass

    for message, module in {
        r"must be a flax\.nnx\.Module, got function": lambda x: x,
        "which is a MetaModule": jax_kit.layer("MetaLinear", 2, 2),
        "already has an argument `params`": Takes(),
        "must be callable, got NotCallable": NotCallable(),
    }.items():
        with pytest.raises(ValueError, match=message):
            as_meta_module(module)


def test_flax_modules_can_be_copied_and_pickled(jax_kit):
    with jax_kit.float64():
        model = jax_kit.modules.as_meta_module(jax_kit.plain_linear(4, 3))
        inputs = jax_kit.array(INPUTS[0, 0])
        for twin in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
            assert type(twin) is type(model)
            assert_identical(twin(inputs, params=jax_kit.parameters(model)), model(inputs))


def test_shared_variables_keep_working_in_copies(jax_kit):
    """Flax sorts the attributes of a copy, so another name of a shared variable comes first there."""
    nnx, modules = jax_kit.nnx, jax_kit.modules
    from jax_backend.adaptation import adapt
    from jax_backend.optimisers import sgd

    class Shared(modules.MetaModule):
        def __init__(self):
            self.embed = modules.MetaEmbedding(5, 5, rngs=nnx.Rngs(0))
            self.decoder = modules.MetaLinear(5, 5, False, rngs=nnx.Rngs(1))
            self.decoder.weight = self.embed.weight

        def __call__(self, tokens, params=None):
            embedded = self.embed(tokens, params=self.get_subdict(params, "embed"))
            return self.decoder(embedded, params=self.get_subdict(params, "decoder"))

    model, tokens = Shared(), jax_kit.array(np.array([0, 3, 4]))
    params = {name: 2.0 * each for name, each in jax_kit.parameters(model).items()}
    assert list(params) == ["embed.weight"]
    expected = model(tokens, params=params)
    assert_close(modules.call_with_buffers(model, tokens, params=params)[0], expected, "forward_float32")
    assert_close(nnx.jit(lambda m, p: m(tokens, params=p))(model, params), expected, "forward_float32")
    assert_close(
        nnx.clone(model)(tokens, params={"decoder.weight": params["embed.weight"]}), expected, "forward_float32"
    )
    adapted = adapt(model, jax_kit.functional.cross_entropy, tokens, tokens, optimiser=sgd(0.1), params=params)
    assert list(adapted.params) == ["embed.weight"]
    with pytest.raises(ValueError, match=r"weight' and '(embed|decoder)\.weight', which are one; give it once"):
        model(tokens, params={**params, "decoder.weight": params["embed.weight"]})


def test_modules_in_lists_and_dictionaries_are_found(jax_kit):
    nnx = jax_kit.nnx

    class Kept(nnx.Module):
        def __init__(self):
            self.blocks = nnx.data([nnx.Linear(4, 4, rngs=nnx.Rngs(0))])
            self.norms = nnx.data({"first": nnx.BatchNorm(4, rngs=nnx.Rngs(0))})

        def __call__(self, x):
            return self.norms["first"](self.blocks[0](x))

    model = jax_kit.modules.as_meta_module(Kept())
    params = jax_kit.parameters(model)
    assert list(params) == ["blocks.0.kernel", "blocks.0.bias", "norms.first.scale", "norms.first.bias"]
    assert [name for name, _ in model.meta_named_buffers()] == ["norms.first.mean", "norms.first.var"]
    inputs = jax_kit.array(INPUTS[0, 0].astype(np.float32))
    doubled = {**params, "norms.first.scale": 2 * params["norms.first.scale"]}
    assert_close(model(inputs, params=doubled), 2 * model(inputs, params=params), "forward_float32")
    assert list(model.get_subdict(params, "blocks.0")) == ["kernel", "bias"]


def test_a_frozen_policy_that_the_module_overrides_is_an_error(jax_kit):
    nnx = jax_kit.nnx

    class Insisting(nnx.Module):
        def __init__(self):
            self.norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(x, use_running_average=False)

    model = jax_kit.modules.as_meta_module(Insisting(), batch_norm="frozen")
    with pytest.raises(ValueError, match=r'"frozen" but the call has moved .*use_running_average'):
        model(jax_kit.array(INPUTS[0, 0].astype(np.float32)), params=jax_kit.parameters(model))


def test_ordinary_layers_with_state_inside_a_sequence_are_pure_with_params(jax_kit):
    """Dropout and Flax's batch normalisation, under a gradient."""
    nnx = jax_kit.nnx
    norm = nnx.BatchNorm(4, rngs=nnx.Rngs(0))
    model = jax_kit.layer("MetaSequential", jax_kit.layer("MetaLinear", 4, 4), nnx.Dropout(0.5, rngs=nnx.Rngs(0)), norm)
    inputs, before = jax_kit.array(INPUTS[0, 0].astype(np.float32)), jax_kit.numpy(norm.mean.get_value())
    jax_kit.jax.grad(lambda p: model(inputs, params=p).sum())(jax_kit.parameters(model))
    assert_identical(norm.mean.get_value(), before)


def test_models_with_pooling_have_one_structure(jax_kit):
    modules = jax_kit.modules
    assert modules.MaxPool2d(2) == modules.MaxPool2d((2, 2))
    assert modules.MaxPool2d(2) != modules.MaxPool2d(3)
    assert modules.Flatten() == modules.Flatten()
    assert len({modules.MaxPool2d(2), modules.MaxPool2d(2), modules.Flatten(), modules.Flatten()}) == 2


def test_a_meta_module_and_its_module_are_one_object_in_two_classes(backend):
    """`eval()`, `train()` and new attributes of the one reach the other, at the top level too."""
    module = backend.batch_normalised()
    meta = backend.modules.as_meta_module(module)
    module.marker = 1
    assert meta.marker == 1
    meta.marker = 2
    assert module.marker == 2
    frozen = backend.modules.as_meta_module(module, batch_norm="frozen")
    assert (meta._meta_frozen, frozen._meta_frozen) == (False, True)
    if backend.name == "torch":
        module.eval()
        assert not meta.training


def test_a_frozen_integer_parameter_stays(backend64):
    kit = backend64
    if kit.name == "torch":
        module = kit.plain_linear(4, 3)
        module.count = kit.torch.nn.Parameter(kit.array(3), requires_grad=False)
    else:
        module = kit.plain_linear(4, 3)
        module.count = kit.nnx.Param(kit.array(3))
    model = kit.modules.as_meta_module(module)
    params = kit.parameters(model)
    inputs, targets = kit.array(np.ones((2, 4))), kit.array(np.ones((2, 3)))
    loss = kit.functional.mean_squared_error
    adapted = kit.adaptation.adapt(model, loss, inputs, targets, optimiser=kit.optimisers.sgd(0.1)).params
    stepped = kit.adaptation.gradient_update_parameters(model, lambda p: loss(model(inputs, params=p), targets), params)
    for found in (adapted, stepped):
        assert list(found) == list(params)
        assert int(found["count"]) == 3
        assert_differs(found["bias"], params["bias"] + 1.0)
    with pytest.raises(ValueError, match=r"`params\['count'\]` must be an array of real or complex numbers to descend"):
        kit.adaptation.adapt(model, loss, inputs, targets, optimiser=kit.optimisers.sgd(0.1), names="count")
