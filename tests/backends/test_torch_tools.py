"""What PyTorch's users do with a module must work with a MetaModule: compile, export, move, parallelise, measure."""

import copy
import gc

import numpy as np
import pytest
from helpers import every
from tolerances import assert_close, assert_identical

from backends.kits import make_kit

IMAGES = np.random.default_rng(0).standard_normal((4, 8, 8, 3)).astype(np.float32)


def small_network(kit):
    nn, modules = kit.torch.nn, kit.modules
    kit.torch.manual_seed(0)
    return modules.MetaSequential(
        modules.MetaConv2d(3, 4, 3, padding=1),
        modules.MetaBatchNorm2d(4),
        nn.ReLU(),
        modules.MetaConvTranspose2d(4, 4, 2),
        modules.MetaLayerNorm([9, 9]),
        modules.MetaPReLU(4),
        nn.Flatten(),
        modules.MetaLinear(324, 3),
    )


def plain_network(kit):
    nn = kit.torch.nn
    kit.torch.manual_seed(0)
    body = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
    return kit.modules.as_meta_module(body)


NETWORKS = {"layers": small_network, "any module": plain_network}
EVERY_NETWORK = pytest.mark.parametrize("make", NETWORKS.values(), ids=NETWORKS)


def doubled(model):
    return {name: (2 * each).detach().requires_grad_() for name, each in model.meta_named_parameters()}


@pytest.mark.slow
@EVERY_NETWORK
def test_a_call_with_params_compiles_as_one_graph(torch_kit, make):
    torch, model = torch_kit.torch, make(torch_kit)
    params, images = doubled(model), torch_kit.images(IMAGES)
    torch.compiler.reset()
    compiled = torch.compile(lambda p, x: model(x, params=p), fullgraph=True, backend="aot_eager")
    expected = model(images, params=params)
    found = compiled(params, images)
    assert_close(found, expected, "forward_float32")
    gradients = [torch.autograd.grad((each**2).sum(), list(params.values())) for each in (found, expected)]
    ours, theirs = (dict(zip(params, each, strict=True)) for each in gradients)
    assert_close(ours, theirs, "gradient_float32")


@EVERY_NETWORK
def test_a_call_with_params_can_be_exported(torch_kit, make):
    torch, model = torch_kit.torch, make(torch_kit)
    params, images = doubled(model), torch_kit.images(IMAGES)

    class Call(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, params, inputs):
            return self.model(inputs, params=params)

    program = torch.export.export(Call(), (params, images))
    assert_close(program.module()(params, images), model(images, params=params), "forward_float32")


@EVERY_NETWORK
def test_parameters_of_many_tasks_at_once(torch_kit, make):
    """`vmap` over `params` as well as over inputs: the loop over tasks."""
    torch, model = torch_kit.torch, make(torch_kit)
    images = torch_kit.images(IMAGES)
    params = {name: torch.stack([each.detach(), 2 * each.detach()]) for name, each in model.meta_named_parameters()}
    found = torch.func.vmap(lambda p: model(images, params=p))(params)
    for number in (0, 1):
        alone = model(images, params={name: each[number] for name, each in params.items()})
        assert_close(found[number], alone, "forward_float32")


@EVERY_NETWORK
def test_modules_move_as_modules_do(torch_kit, make):
    torch, model = torch_kit.torch, make(torch_kit)
    state = copy.deepcopy(model.state_dict())
    for dtype, move in {torch.float64: "double", torch.bfloat16: "bfloat16", torch.float16: "half"}.items():
        getattr(model, move)()
        params = dict(model.meta_named_parameters())
        assert {each.dtype for each in params.values()} == {dtype}
        assert model(torch_kit.images(IMAGES).to(dtype), params=params).dtype == dtype
    model.float().load_state_dict(state)
    meta = copy.deepcopy(model).to("meta")
    assert meta(torch_kit.images(IMAGES).to("meta"), params=dict(meta.meta_named_parameters())).shape == (4, 3)
    assert_identical(model.state_dict(), state)


def test_data_parallel_without_gpus_is_the_module(torch_kit):
    model = small_network(torch_kit)
    parallel = torch_kit.modules.DataParallel(model)
    images, params = torch_kit.images(IMAGES), doubled(model)
    named = {f"module.{name}": each for name, each in params.items()}
    assert list(torch_kit.parameters(parallel)) == list(named)
    expected = model(images, params=params)
    assert_identical(parallel(images, params=params), expected)
    assert_identical(parallel(images, params=named), expected)
    assert_identical(parallel(images), model(images))
    with pytest.raises(ValueError, match=r"'module\.0\.wight'.*did you mean 'module\.0\.weight'"):
        parallel(images, params={**params, "0.wight": params["0.weight"]})
    with pytest.raises(ValueError, match="`module` must be a MetaModule, got Linear; make it one with as_meta_module"):
        torch_kit.modules.DataParallel(torch_kit.torch.nn.Linear(2, 2))


@pytest.mark.parametrize("name", ["layer", "network", "any module"])
def test_data_parallel_splits_the_batch_and_gathers_gradients(torch_kit, monkeypatch, name):
    """Two replicas on the CPU in place of two GPUs: only the copies between devices are replaced."""
    import sys

    from torch_backend.modules import parallel as module

    torch, modules = torch_kit.torch, torch_kit.modules
    tied = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 3))
    tied[1].weight = tied[0].weight
    model = {
        "layer": lambda: modules.MetaLinear(3, 2),
        "network": lambda: modules.MetaSequential(modules.MetaLinear(3, 2), modules.MetaLayerNorm(2)),
        "any module": lambda: modules.as_meta_module(tied),
    }[name]()
    parallel = modules.DataParallel(model)
    parallel.device_ids, parallel.output_device = [0, 1], 0
    replicate = sys.modules["torch.nn.parallel.replicate"]
    monkeypatch.setattr(replicate, "_get_device_index", lambda device, optional=True: device)
    monkeypatch.setattr(
        replicate, "_broadcast_coalesced_reshape", lambda tensors, devices, detach=False: [
            [each.detach() if detach else each * 1 for each in tensors] for _ in devices
        ],
    )  # fmt: skip
    monkeypatch.setattr(
        module, "parallel_apply", lambda each, parts, options, devices: [
            replica(*part, **option) for replica, part, option in zip(each, parts, options, strict=True)
        ],
    )  # fmt: skip
    monkeypatch.setattr(parallel, "scatter", lambda x, o, d: ([(each,) for each in x[0].chunk(2)], [dict(o), dict(o)]))
    monkeypatch.setattr(parallel, "gather", lambda outputs, device: torch.cat(outputs))
    monkeypatch.setattr(torch.Tensor, "to", lambda self, device: self * 1)
    inputs, params = torch.randn(4, 3), doubled(model)
    found, expected = parallel(inputs, params=params), model(inputs, params=params)
    assert_close(found, expected, "forward_float32")
    gradients = [torch.autograd.grad((each**3).sum(), list(params.values())) for each in (found, expected)]
    ours, theirs = (dict(zip(params, each, strict=True)) for each in gradients)
    assert_close(ours, theirs, "gradient_float32")


def tensors_held(torch):
    """(number, entries) of all tensors alive."""
    tensors = [each for each in gc.get_objects() if issubclass(type(each), torch.Tensor)]
    return len(tensors), sum(each.numel() for each in tensors)


@pytest.mark.slow
def test_memory_is_flat_over_meta_steps(torch_kit):
    """After a few steps no step leaves a tensor behind: their number and size stay the same for 200."""
    torch = torch_kit.torch
    from torch_backend.adaptation import gradient_update_parameters

    model = torch_kit.modules.MetaSequential(
        torch_kit.modules.MetaLinear(3, 8), torch_kit.modules.MetaBatchNorm1d(8), torch.nn.ReLU(),
        torch_kit.modules.MetaLinear(8, 1),
    )  # fmt: skip
    optimiser = torch.optim.Adam(model.parameters())
    inputs, targets = torch.randn(10, 3), torch.randn(10, 1)
    held = []
    for step in range(200):
        params = None
        for _ in range(3):
            loss = ((model(inputs, params=params) - targets) ** 2).mean()
            params = gradient_update_parameters(model, loss, params, step_size=0.1)
        optimiser.zero_grad()
        ((model(inputs, params=params) - targets) ** 2).mean().backward()
        optimiser.step()
        if step % 50 == 49:
            del params, loss
            gc.collect()
            held.append(tensors_held(torch))
    assert held[2:] == held[1:-1]  # the first may still see tensors of other tests


def test_evaluation_builds_no_graph(torch_kit):
    torch = torch_kit.torch
    from torch_backend.adaptation import adapt
    from torch_backend.optimisers import sgd

    model = small_network(torch_kit)
    images, targets = torch_kit.images(IMAGES), torch.tensor([0, 1, 2, 0])
    with torch.no_grad():
        adapted = adapt(model, torch_kit.functional.cross_entropy, images, targets, optimiser=sgd(0.1), steps=3)
        outputs = model(images, params=adapted.params)
    assert not outputs.requires_grad
    assert every(not each.requires_grad for each in adapted.params.values())
    stored = dict(model.meta_named_parameters())
    assert every((adapted.params[name] != each).any() for name, each in stored.items() if each.ndim > 1)


def test_the_memory_test_can_fail():
    """A list that keeps the parameters of every step is seen."""
    torch = make_kit("torch").torch
    kept, held = [], []
    for _ in range(3):
        kept.append(torch.zeros(3))
        held.append(tensors_held(torch))
    assert held[1:] != held[:-1]


def test_autocast_gives_the_same_dtype_with_params(torch_kit):
    torch = torch_kit.torch
    model = torch_kit.modules.as_meta_module(torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.PReLU()))
    inputs, params = torch.randn(4, 3), dict(model.meta_named_parameters())
    with torch.autocast("cpu", torch.bfloat16):
        assert model(inputs, params=params).dtype == model(inputs).dtype == torch.bfloat16


def test_checkpointing_inside_a_call_with_params_is_refused(torch_kit):
    """It would compute again with the stored parameters; around the call it is right."""
    torch = torch_kit.torch
    from torch.utils.checkpoint import checkpoint

    class Inside(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = torch.nn.Linear(3, 3), torch.nn.Linear(3, 3)

        def forward(self, x, again=False):
            x = checkpoint(lambda y: self.first(y).tanh(), x, use_reentrant=False) if again else self.first(x).tanh()
            return self.second(x)

    model = torch_kit.modules.as_meta_module(Inside())
    inputs, params = torch.randn(4, 3), doubled(model)
    with pytest.raises(RuntimeError, match="checkpoint the call itself"):
        model(inputs, True, params=params)
    around = checkpoint(lambda x, p: model(x, params=p), inputs, params, use_reentrant=False)
    gradients = [
        torch.autograd.grad((each**2).sum(), list(params.values())) for each in (around, model(inputs, params=params))
    ]
    for ours, theirs in zip(*gradients, strict=True):
        assert_close(ours, theirs, "gradient_float32")
    model(inputs, True).sum().backward()  # without params it is an ordinary module


@pytest.mark.parametrize(
    ("kind", "arguments", "shape"),
    [
        ("BatchNorm1d", (3,), (6, 3)),
        ("BatchNorm2d", (3,), (4, 3, 2, 3)),
        ("LayerNorm", (3,), (6, 3)),
        ("InstanceNorm1d", (3,), (4, 3, 5)),
        ("GroupNorm", (1, 3), (4, 3, 5)),
        ("RMSNorm", (3,), (6, 3)),
    ],
)
def test_hessians_by_jacrev_are_those_of_autograd(torch_kit, kind, arguments, shape):
    """There `vmap` is around the derivative, not around the call."""
    torch = torch_kit.torch
    options = {"affine": True} if kind.startswith("Instance") else {}
    layer = torch_kit.layer(f"Meta{kind}", *arguments, **options)
    torch.manual_seed(0)
    inputs = torch.randn(shape, dtype=torch.float64)
    params = {name: torch.randn_like(each) + 1.5 for name, each in layer.meta_named_parameters()}
    axes = [1] * (inputs.ndim - 2) if kind not in ("LayerNorm", "RMSNorm") else []

    def loss(weight):
        scaled = inputs * weight.view(-1, *axes)
        return (layer(scaled, params={**params, "weight": weight}) ** 3).mean()

    found = torch.func.jacrev(torch.func.jacrev(loss))(params["weight"])
    assert_close(found, torch.autograd.functional.hessian(loss, params["weight"]), "gradient")


@pytest.mark.parametrize("name", ["weight norm", "hard sigmoid"])
def test_meta_gradients_where_torch_s_own_are_wrong_or_missing(torch_kit, name):
    """Against finite differences; a whole loop that begins with the stored parameters, by autograd."""
    torch, nn = torch_kit.torch, torch_kit.torch.nn
    torch.manual_seed(0)
    first = nn.utils.parametrizations.weight_norm(nn.Linear(3, 4)) if name == "weight norm" else nn.Linear(3, 4)
    squash = nn.Tanh() if name == "weight norm" else nn.Hardsigmoid()
    model = torch_kit.modules.as_meta_module(nn.Sequential(first, squash, nn.Linear(4, 2)).double())
    inputs = torch.randn(5, 3, dtype=torch.float64)

    def objective():
        params = None
        for _ in range(2):
            stored = params or dict(model.meta_named_parameters())
            value = (model(inputs, params=params) ** 2).mean()
            gradients = torch.autograd.grad(value, list(stored.values()), create_graph=True)
            params = {n: p - 0.5 * g for (n, p), g in zip(stored.items(), gradients, strict=True)}
        return (model(inputs.flip(1), params=params) ** 2).mean()

    stored = dict(model.meta_named_parameters())
    gradients = torch.autograd.grad(objective(), list(stored.values()))
    direction = [torch.randn_like(each) for each in stored.values()]

    def moved(h):
        with torch.no_grad():
            for each, way in zip(stored.values(), direction, strict=True):
                each += h * way
        value = objective().item()
        with torch.no_grad():
            for each, way in zip(stored.values(), direction, strict=True):
                each -= h * way
        return value

    slope = sum(float((g * d).sum()) for g, d in zip(gradients, direction, strict=True))
    h = 1e-4
    difference = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
    assert_close(slope, difference, "finite_difference")


@pytest.mark.parametrize("spelling", ["layer_norm", "batch_norm", "instance_norm"])
def test_other_spellings_of_torch_s_functions_are_helped_too(torch_kit, spelling):
    torch = torch_kit.torch

    class Spelt(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.bias = (torch.nn.Parameter(torch.randn(3, dtype=torch.float64)) for _ in range(2))

        def forward(self, x):
            w, b = self.weight, self.bias
            x = x * w.view(-1, 1)
            if spelling == "layer_norm":
                return torch.layer_norm(x.transpose(1, 2), (3,), w, b, 1e-5)
            if spelling == "batch_norm":
                return torch.batch_norm(x, w, b, None, None, True, 0.1, 1e-5, False)
            return torch.instance_norm(x, w, b, None, None, True, 0.1, 1e-5, False)

    model = torch_kit.modules.as_meta_module(Spelt())
    tasks = torch.randn(3, 4, 3, 5, dtype=torch.float64)
    params = {name: each.detach() for name, each in model.meta_named_parameters()}

    def slope(current, x):
        found = torch.func.grad(lambda p: (model(x, params=p) ** 3).mean())(current)
        return sum((each**2).sum() for each in found.values())

    together = torch.func.grad(lambda p: torch.func.vmap(slope, (None, 0))(p, tasks).sum())(params)
    for name, value in together.items():
        wanted = sum(torch.func.grad(slope)(params, x)[name] for x in tasks)
        assert_close(value, wanted, "gradient")


def test_what_is_no_tensor_is_an_error_that_says_so(torch_kit):
    layer = torch_kit.layer("MetaLinear", 2, 2)
    params = dict(layer.meta_named_parameters())
    with pytest.raises(ValueError, match=r"`params\['bias'\]` of MetaLinear must be a tensor, got NoneType"):
        layer(torch_kit.array(np.ones((1, 2))), params={**params, "bias": None})


@pytest.mark.parametrize("how", ["pruned", "old weight norm", "old spectral norm"])
def test_a_layer_that_computes_its_weight_too_early_is_refused(torch_kit, how):
    """torch computes it before `forward`, from the stored parameters; inside of a container `params` are in place."""
    torch, utils = torch_kit.torch, torch_kit.torch.nn.utils
    layer = torch_kit.layer("MetaLinear", 3, 2)
    if how == "pruned":
        utils.prune.l1_unstructured(layer, "weight", 0.5)
    elif how == "old weight norm":
        with pytest.warns(Warning, match="deprecated"):
            utils.weight_norm(layer)
    else:
        utils.spectral_norm(layer)
    inputs = torch.randn(4, 3, dtype=torch.float64)
    params = dict(layer.meta_named_parameters())
    with pytest.raises(ValueError, match=r"MetaLinear (is pruned itself \(L1Unstructured\)|has old-style \w+Norm)"):
        layer(inputs, params=params)
    with pytest.raises(ValueError, match=r"MetaLinear (is pruned itself|has old-style)"):
        torch_kit.modules.call_with_buffers(layer, inputs, params=params)
    layer.eval()  # spectral normalisation moves a buffer in training
    before, model = layer(inputs), torch_kit.modules.MetaSequential(layer)
    other = {name: value + torch.randn_like(value) for name, value in model.meta_named_parameters()}
    assert not torch.allclose(model(inputs, params=other), before)
    assert torch.equal(model(inputs), before)
