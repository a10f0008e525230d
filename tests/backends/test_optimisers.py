"""Optimisers of the inner loop: their values against plain NumPy, their derivatives against finite differences."""

import math

import numpy as np
import pytest
from helpers import every
from tolerances import assert_close, assert_differs, assert_identical

from metabridge.adaptation.trees import flatten

SHAPES = {"b.weight": (3, 2), "a.bias": (3,)}
STEPS = 5


def random_values(seed, scale=1.0):
    rng = np.random.default_rng(seed)
    return {name: scale * rng.standard_normal(shape) for name, shape in SHAPES.items()}


GRADIENTS = [random_values(seed) for seed in range(STEPS)]


def as_arrays(kit, values):
    return {name: kit.array(value) for name, value in values.items()}


def updates_of(kit, optimiser, gradients=GRADIENTS):
    """The updates of one step after another, in NumPy."""
    params = as_arrays(kit, random_values(9))
    state, found = optimiser.init(params), []
    for each in gradients:
        updates, state = optimiser.update(as_arrays(kit, each), state, params)
        found.append({name: kit.numpy(updates[name]) for name in SHAPES})
    return found


# Values, against formulas in NumPy


def numpy_sgd(rate, momentum=0.0, nesterov=False):
    velocity = dict.fromkeys(SHAPES, 0.0)
    for gradients in GRADIENTS:
        velocity = {name: momentum * velocity[name] + gradients[name] for name in SHAPES}
        ahead = {name: momentum * velocity[name] + gradients[name] for name in SHAPES}
        yield {name: -rate * (ahead if nesterov else velocity)[name] for name in SHAPES}


def numpy_adam(rate, b1=0.9, b2=0.999, eps=1e-8):
    for last in range(STEPS):
        updates = {}
        for name in SHAPES:
            seen = [gradients[name] for gradients in GRADIENTS[: last + 1]]
            weights1, weights2 = ([decay ** (last - i) for i in range(last + 1)] for decay in (b1, b2))
            mean = np.tensordot(weights1, seen, 1) / sum(weights1)
            square = np.tensordot(weights2, np.square(seen), 1) / sum(weights2)
            updates[name] = -rate * mean / (np.sqrt(square) + eps)
        yield updates


def numpy_clip(max_norm):
    for gradients in GRADIENTS:
        norm = math.sqrt(sum((each**2).sum() for each in gradients.values()))
        yield {name: each * min(1.0, max_norm / norm) for name, each in gradients.items()}


VALUES = {
    "sgd": (lambda o: o.sgd(0.3), lambda: numpy_sgd(0.3)),
    "momentum": (lambda o: o.sgd(0.3, 0.8), lambda: numpy_sgd(0.3, 0.8)),
    "nesterov": (lambda o: o.sgd(0.3, 0.8, nesterov=True), lambda: numpy_sgd(0.3, 0.8, True)),
    "adam": (lambda o: o.adam(0.3), lambda: numpy_adam(0.3)),
    "adam, other decays": (lambda o: o.adam(0.3, 0.5, 0.7, 0.1), lambda: numpy_adam(0.3, 0.5, 0.7, 0.1)),
    "adam, no memory": (lambda o: o.adam(0.3, 0.0, 0.0), lambda: numpy_adam(0.3, 0.0, 0.0)),
    "clip, some": (lambda o: o.clip_by_global_norm(2.7), lambda: numpy_clip(2.7)),
    "clip, all": (lambda o: o.clip_by_global_norm(0.1), lambda: numpy_clip(0.1)),
    "clip, none": (lambda o: o.clip_by_global_norm(1e3), lambda: numpy_clip(1e3)),
    "chain": (
        lambda o: o.chain(o.sgd(0.5), o.sgd(2.0), o.chain(o.sgd(0.3))),
        lambda: numpy_sgd(0.3),
    ),
}


@pytest.mark.parametrize("case", VALUES)
def test_updates_are_those_of_the_formula(backend64, case):
    make, reference = VALUES[case]
    for found, expected in zip(updates_of(backend64, make(backend64.optimisers)), reference(), strict=True):
        assert_close(found, expected, "gradient")


def test_clipping_is_active_in_some_steps_only():
    norms = [math.sqrt(sum((each**2).sum() for each in gradients.values())) for gradients in GRADIENTS]
    assert min(norms) < 2.7 < max(norms)


TORCH_OPTIMISERS = {
    "sgd": ("SGD", {"lr": 0.3}),
    "momentum": ("SGD", {"lr": 0.3, "momentum": 0.8}),
    "nesterov": ("SGD", {"lr": 0.3, "momentum": 0.8, "nesterov": True}),
    "adam": ("Adam", {"lr": 0.3}),
    "adam, other decays": ("Adam", {"lr": 0.3, "betas": (0.5, 0.7), "eps": 0.1}),
}


@pytest.mark.parametrize("case", TORCH_OPTIMISERS)
def test_updates_are_those_of_torch_optim(torch_kit, case):
    kind, options = TORCH_OPTIMISERS[case]
    values = {name: value.requires_grad_() for name, value in as_arrays(torch_kit, random_values(9)).items()}
    theirs = getattr(torch_kit.torch.optim, kind)(values.values(), **options)
    total = random_values(9)
    for found, gradients in zip(updates_of(torch_kit, VALUES[case][0](torch_kit.optimisers)), GRADIENTS, strict=True):
        for name, value in values.items():
            value.grad = torch_kit.array(gradients[name])
        theirs.step()
        total = {name: total[name] + found[name] for name in SHAPES}
        assert_close(total, values, "gradient")


OPTAX_OPTIMISERS = {
    "sgd": lambda optax: optax.sgd(0.3),
    "momentum": lambda optax: optax.sgd(0.3, 0.8),
    "nesterov": lambda optax: optax.sgd(0.3, 0.8, nesterov=True),
    "adam": lambda optax: optax.adam(0.3),
    "clip, some": lambda optax: optax.clip_by_global_norm(2.7),
}


@pytest.mark.parametrize("case", OPTAX_OPTIMISERS)
def test_updates_are_those_of_optax(jax_kit, case):
    optax = pytest.importorskip("optax")
    with jax_kit.jax.enable_x64(True):
        ours = updates_of(jax_kit, VALUES[case][0](jax_kit.optimisers))
        theirs = updates_of(jax_kit, OPTAX_OPTIMISERS[case](optax))
    for found, expected in zip(ours, theirs, strict=True):
        assert_close(found, expected, "gradient")


@pytest.mark.parametrize("case", VALUES)
def test_a_traced_state_gives_the_same_updates(jax_kit, case):
    """Between compiled calls the step is an array; in float32, where one minus a power is easily inexact."""
    optimiser = VALUES[case][0](jax_kit.optimisers)
    gradients = [{name: value.astype(np.float32) for name, value in each.items()} for each in GRADIENTS]
    expected = updates_of(jax_kit, optimiser, gradients)
    compiled = optimiser._replace(update=jax_kit.jax.jit(optimiser.update))
    for found, each in zip(updates_of(jax_kit, compiled, gradients), expected, strict=True):
        assert_close(found, each, "forward_float32")


# Learning rates


def test_all_forms_of_learning_rate_agree(backend64):
    forms = [
        0.3,
        backend64.array(0.3),
        dict.fromkeys(SHAPES, 0.3),
        dict.fromkeys(reversed(SHAPES), backend64.array(0.3)),
        {name: backend64.array(np.full(shape, 0.3)) for name, shape in SHAPES.items()},
        lambda step: 0.3,
        lambda step: backend64.array([0.3] * STEPS)[step],
        lambda step: dict.fromkeys(SHAPES, [0.3] * STEPS)["a.bias"][step],
    ]
    expected = updates_of(backend64, backend64.optimisers.sgd(0.3))
    for form in forms:
        for found, each in zip(updates_of(backend64, backend64.optimisers.sgd(form)), expected, strict=True):
            assert_identical(found, each)


def test_names_steps_and_entries_have_their_own_rates(backend64):
    rates = [random_values(20 + step, 0.1) for step in range(STEPS)]
    arrays = [as_arrays(backend64, each) for each in rates]
    found = updates_of(backend64, backend64.optimisers.sgd(lambda step: arrays[step]))
    for each, rate, gradients in zip(found, rates, GRADIENTS, strict=True):
        assert_close(each, {name: -rate[name] * gradients[name] for name in SHAPES}, "forward")


@pytest.mark.parametrize("case", ["nesterov", "adam", "clip, some", "chain"])
def test_parameters_may_be_any_tree(backend64, case):
    """The same updates as for the flat mapping, in the structure of the tree; the state too is one."""
    optimiser = VALUES[case][0](backend64.optimisers)

    def tree(values):
        values = as_arrays(backend64, values)
        return {"b": [values["b.weight"]], "a": (values["a.bias"],)}

    params, state = tree(random_values(9)), optimiser.init(tree(random_values(9)))
    for gradients, expected in zip(GRADIENTS, updates_of(backend64, optimiser), strict=True):
        updates, state = optimiser.update(tree(gradients), state, params)
        assert type(updates["a"]) is tuple
        assert_identical(backend64.numpy({"b.weight": updates["b"][0], "a.bias": updates["a"][0]}), expected)


def test_rates_by_name_reach_into_trees(backend):
    """Names on the way to a leaf are joined by dots."""
    gradients = {"body": [backend.array(1.0), backend.array(2.0)], "head": backend.array(3.0)}
    optimiser = backend.optimisers.sgd({"body.0": 0.1, "body.1": 0.2, "head": 0.3})
    updates, _ = optimiser.update(gradients, optimiser.init(gradients))
    assert_close(
        np.array([*map(float, updates["body"]), float(updates["head"])]), -np.array([0.1, 0.4, 0.9]), "forward_float32"
    )
    with pytest.raises(ValueError, match=r"`learning_rate` of the adapted part must hold every parameter, 'body\.1'"):
        backend.optimisers.sgd({"body.0": 0.1, "head": 0.3}).update(gradients, 0)


# Derivatives


class InnerLoop:
    """A network, its support and query set, and the query loss after an inner loop, in a framework."""

    def __init__(self, kit):
        self.kit = kit
        layers = [kit.layer("MetaLinear", 3, 4), kit.relu, kit.layer("MetaLinear", 4, 2)]
        self.model = kit.layer("MetaSequential", *layers)
        rng = np.random.default_rng(0)
        shapes = {"0.weight": (4, 3), "0.bias": (4,), "2.weight": (2, 4), "2.bias": (2,)}
        self.params = kit.layer_weights({name: rng.standard_normal(shape) for name, shape in shapes.items()})
        self.data = [kit.array(rng.standard_normal(shape)) for shape in ((5, 3), (5, 2), (6, 3), (6, 2))]

    def query_loss(self, params, optimiser, steps, **options):
        inputs, targets, query, query_targets = self.data
        loss = self.kit.functional.mean_squared_error
        adapt = self.kit.adaptation.adapt
        adapted = adapt(self.model, loss, inputs, targets, optimiser=optimiser, steps=steps, params=params, **options)
        return loss(self.model(query, params=adapted.params), query_targets)

    def meta_gradient(self, make, steps, **options):
        """d query loss / d parameters, in NumPy."""
        optimiser = make(self.kit.optimisers)
        gradient = self.kit.gradient(lambda params: self.query_loss(params, optimiser, steps, **options), self.params)
        return {name: self.kit.numpy(gradient[name]) for name in self.params}


@pytest.fixture
def inner_loop(backend64):
    return InnerLoop(backend64)


def assert_derivative(kit, function, at):
    """The gradient of a scalar function of a dictionary, which agrees with central differences along two directions."""
    gradient, function = kit.numpy(kit.gradient(function, at)), kit.compile(function)
    rng = np.random.default_rng(3)
    for _ in range(2):
        way = {name: rng.standard_normal(value.shape) for name, value in kit.numpy(at).items()}

        def value(distance, way=way):
            moved = {name: each + distance * way[name] for name, each in kit.numpy(at).items()}
            return kit.numpy(function(as_arrays(kit, moved))).item()

        h = 1e-4  # fourth order, so that the error is rounding alone
        expected = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)
        found = sum((gradient[name] * way[name]).sum() for name in way)
        assert_close(found, expected, "finite_difference")
    return gradient


DIFFERENTIABLE = {
    "sgd": lambda o: o.sgd(0.1),
    "momentum": lambda o: o.sgd(0.05, 0.9),
    "nesterov": lambda o: o.sgd(0.05, 0.9, nesterov=True),
    "adam": lambda o: o.adam(0.1),
    "adam, large eps": lambda o: o.adam(0.1, eps=0.1),
    "clip, active": lambda o: o.chain(o.clip_by_global_norm(0.2), o.sgd(0.5)),
    "clip, inactive": lambda o: o.chain(o.clip_by_global_norm(1e3), o.sgd(0.1)),
    "clip and adam": lambda o: o.chain(o.clip_by_global_norm(0.2), o.adam(0.1, eps=0.1)),
}


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_meta_gradients_agree_with_finite_differences(inner_loop, case, steps):
    optimiser = DIFFERENTIABLE[case](inner_loop.kit.optimisers)
    outer = inner_loop.query_loss
    assert_derivative(inner_loop.kit, lambda params: outer(params, optimiser, steps), inner_loop.params)


@pytest.mark.parametrize("steps", [1, 5])
@pytest.mark.parametrize("case", DIFFERENTIABLE)
def test_both_backends_have_the_same_meta_gradient(torch_kit, jax_kit, case, steps):
    found = InnerLoop(torch_kit).meta_gradient(DIFFERENTIABLE[case], steps)
    with jax_kit.float64():
        other = InnerLoop(jax_kit).meta_gradient(DIFFERENTIABLE[case], steps)
    neutral = {name: value.T if value.ndim == 2 else value for name, value in other.items()}
    assert_close(found, neutral, "meta_gradient_mlp")


@pytest.mark.parametrize("case", ["nesterov", "adam, large eps", "clip, active"])
def test_first_order_differs_and_is_the_gradient_at_the_adapted_parameters(inner_loop, case):
    kit, make = inner_loop.kit, DIFFERENTIABLE[case]
    found = inner_loop.meta_gradient(make, 2, adjoint=kit.adjoints.FirstOrder())
    assert_differs(found, inner_loop.meta_gradient(make, 2))
    inputs, targets, query, query_targets = inner_loop.data
    loss, optimiser = kit.functional.mean_squared_error, make(kit.optimisers)

    def adapted(params):
        adapt = kit.adaptation.adapt
        return adapt(inner_loop.model, loss, inputs, targets, optimiser=optimiser, steps=2, params=params).params

    at = kit.compile(adapted)(inner_loop.params)
    expected = kit.gradient(lambda params: loss(inner_loop.model(query, params=params), query_targets), at)
    assert_close(found, kit.numpy({name: expected[name] for name in found}), "gradient")


LEARNED = {
    "scalar": lambda shapes, rng: ({"all": rng(())}, lambda rates: rates["all"]),
    "by name": lambda shapes, rng: ({name: rng(()) for name in shapes}, lambda rates: rates),
    "by entry": lambda shapes, rng: ({name: rng(shape) for name, shape in shapes.items()}, lambda rates: rates),
    "by step": lambda shapes, rng: ({"all": rng((2,))}, lambda rates: lambda step: rates["all"][step]),
    "by step and name": lambda shapes, rng: (
        {name: rng((2,)) for name in shapes},
        lambda rates: lambda step: {name: rate[step] for name, rate in rates.items()},
    ),
}


@pytest.mark.parametrize(("form", "kind"), [*((form, "sgd") for form in LEARNED), ("by step and name", "adam")])
def test_gradients_reach_learned_rates(inner_loop, form, kind):
    kit = inner_loop.kit
    rng = np.random.default_rng(5)
    shapes = {name: tuple(value.shape) for name, value in inner_loop.params.items()}
    rates, learning_rate = LEARNED[form](shapes, lambda shape: kit.array(0.05 + 0.05 * rng.random(shape)))

    def outer(rates):
        optimiser = getattr(kit.optimisers, kind)(learning_rate(rates))
        return inner_loop.query_loss(inner_loop.params, optimiser, 2)

    gradient = assert_derivative(kit, outer, rates)
    assert every(each.any() for each in gradient.values())


# Zero gradients


def outer_at_zero(kit, optimiser, weight):
    """The gradient of a scalar after three steps on w³, whose derivatives at 0 vanish."""

    def outer(params):
        state = optimiser.init(params)
        for _ in range(3):
            gradients = kit_gradient(kit)(lambda values: (values["w"] ** 3).sum())(params)
            updates, state = optimiser.update(gradients, state, params)
            params = {"w": params["w"] + updates["w"]}
        return params["w"].sum()

    return kit.numpy(kit.gradient(outer, {"w": kit.array(weight)}))["w"]


def kit_gradient(kit):
    return kit.torch.func.grad if kit.name == "torch" else kit.jax.grad


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("case", [*DIFFERENTIABLE, "adam, eps 0"])
def test_zero_gradients_have_finite_derivatives(backend64, case, dtype):
    make = {**DIFFERENTIABLE, "adam, eps 0": lambda o: o.adam(0.1, eps=0.0)}[case]
    optimiser = make(backend64.optimisers)
    found = outer_at_zero(backend64, optimiser, np.zeros(3, dtype))
    assert_identical(found, np.ones(3, dtype))
    some = outer_at_zero(backend64, optimiser, np.array([0.0, 0.5, 0.0], dtype))
    assert np.isfinite(some).all()
    assert_identical(some[[0, 2]], np.ones(2, dtype))


def test_without_eps_root_the_derivative_at_zero_is_undefined(backend64):
    """What the default is for: this test shows that the one above can fail."""
    found = outer_at_zero(backend64, backend64.optimisers.adam(0.1, eps_root=0.0), np.zeros(3))
    assert np.isnan(found).all()


def test_eps_root_does_not_show_in_the_values(backend64):
    tiny = [random_values(seed, 10.0 ** -(3 * seed)) for seed in range(STEPS)]
    exact = updates_of(backend64, backend64.optimisers.adam(1.0, eps_root=0.0), tiny)
    for found, expected in zip(updates_of(backend64, backend64.optimisers.adam(1.0), tiny), exact, strict=True):
        for name in SHAPES:
            assert np.abs(found[name] - expected[name]).max() <= 1e-14


# Clipping


def test_clipping_at_the_norm_itself_is_the_identity(backend64):
    optimiser = backend64.optimisers.clip_by_global_norm(5.0)

    def clipped(values):
        return optimiser.update(values, optimiser.init(values), values)[0]["g"][0]

    found = backend64.numpy(backend64.gradient(clipped, {"g": backend64.array([3.0, 4.0])}))["g"]
    assert_identical(found, np.array([1.0, 0.0]))


def test_clipping_differentiates_the_norm(backend64):
    """d (m g / ‖g‖) / d g = m (I − g gᵀ / ‖g‖²) / ‖g‖."""
    optimiser = backend64.optimisers.clip_by_global_norm(2.0)
    g, way = np.array([3.0, 4.0, 12.0]), np.array([1.0, -2.0, 0.5])

    def along(values):
        updates = optimiser.update(values, optimiser.init(values), values)[0]
        return (updates["g"] * backend64.array(way)).sum()

    norm = np.linalg.norm(g)
    expected = 2.0 * (way - g * (g @ way) / norm**2) / norm
    found = backend64.numpy(backend64.gradient(along, {"g": backend64.array(g)}))["g"]
    assert_close(found, expected, "gradient")


@pytest.mark.parametrize("size", [1e30, 1e-30])
def test_clipping_does_not_overflow(backend64, size):
    optimiser = backend64.optimisers.clip_by_global_norm(size)
    gradients = {"g": backend64.array(np.array([3, 4], np.float32) * np.float32(size))}
    found = backend64.numpy(optimiser.update(gradients, optimiser.init(gradients), gradients)[0])["g"]
    assert_close(found.astype(float) / size, [0.6, 0.8], "forward_float32")


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_no_gradient_passes_beside_one_that_is_not_finite(backend64, bad):
    optimiser = backend64.optimisers.clip_by_global_norm(1.0)
    gradients = {"g": backend64.array([1.0, bad]), "h": backend64.array([2.0])}
    found = backend64.numpy(optimiser.update(gradients, optimiser.init(gradients), gradients)[0])
    assert np.isnan(found["g"]).all()
    assert np.isnan(found["h"]).all()


@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_a_norm_beyond_the_dtype_is_clipped(backend64, dtype):
    """Every entry is finite, their norm is not."""
    large = np.full(4, np.finfo(dtype).max, dtype)
    optimiser = backend64.optimisers.clip_by_global_norm(1.0)
    found = backend64.numpy(optimiser.update({"g": backend64.array(large)}, optimiser.init({}))[0])["g"]
    assert_identical(found, np.full(4, 0.5, dtype))


def test_there_may_be_nothing_to_clip(backend64):
    optimiser = backend64.optimisers.clip_by_global_norm(1.0)
    assert optimiser.update({}, optimiser.init({}))[0] == {}
    empty = {"g": backend64.array(np.zeros((0, 3)))}
    assert backend64.numpy(optimiser.update(empty, optimiser.init(empty))[0])["g"].shape == (0, 3)
    beside = {**empty, "h": backend64.array([3.0, 4.0])}
    assert_close(optimiser.update(beside, optimiser.init(beside))[0]["h"], [0.6, 0.8], "forward")


# Dtypes

DTYPES = ("float64", "float32", "bfloat16", "float16")
KEEPING = {
    "sgd": lambda o, rate: o.sgd(rate),
    "momentum": lambda o, rate: o.sgd(rate, np.float64(0.9)),
    "nesterov": lambda o, rate: o.sgd(rate, 0.9, nesterov=True),
    "adam": lambda o, rate: o.adam(rate, *np.array([0.9, 0.999, 1e-8])),
    "clipped": lambda o, rate: o.chain(o.clip_by_global_norm(np.float64(0.1)), o.sgd(rate)),
}
"""Name → optimiser of a learning rate; numbers of NumPy, whose dtype is not that of the parameters."""


def forms_of_rate(kit):
    """A learning rate in every form and in dtypes that are wider and narrower than those of parameters."""
    for dtype in ("float64", "float32", "float16"):
        rate = np.array(0.125, dtype)
        yield from (rate[()], kit.array(rate), lambda step, rate=rate: kit.array(rate))
        yield {name: kit.array(np.full(shape, rate)) for name, shape in SHAPES.items()}
    yield 0.125


def cast(kit, values, dtype):
    """Arrays of a dtype that NumPy need not have."""
    if kit.name == "torch":
        return {name: kit.array(value).to(getattr(kit.torch, dtype)) for name, value in values.items()}
    return {name: kit.array(value).astype(dtype) for name, value in values.items()}


def float_dtypes(kit, function, *arguments):
    """Name → dtype of all arrays in what a function returns, but not of counts; JAX computes nothing."""
    found = function(*arguments) if kit.name == "torch" else kit.jax.eval_shape(function, *arguments)
    leaves = {name: str(getattr(each, "dtype", "int")).removeprefix("torch.") for name, each in flatten(found).items()}
    return {name: dtype for name, dtype in leaves.items() if not dtype.startswith("int")}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KEEPING)
def test_updates_and_states_keep_their_dtypes(backend64, case, dtype):
    kit, params = backend64, cast(backend64, random_values(9), dtype)
    for rate in forms_of_rate(kit):
        optimiser = KEEPING[case](kit.optimisers, rate)
        state = optimiser.init(params)
        before = float_dtypes(kit, lambda *each: each, params, state)
        assert float_dtypes(kit, optimiser.update, params, state, params) == before
        assert [before[f"0.{name}"] for name in params] == [dtype] * 2
        assert (len(before) > 2) == (case in ("momentum", "nesterov", "adam"))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("case", KEEPING)
def test_parameters_keep_their_dtype(backend64, case, dtype):
    kit, params = backend64, cast(backend64, random_values(9), dtype)

    def loss(values):
        return (values["b.weight"].sum() + values["a.bias"].sum()) ** 2

    for rate in forms_of_rate(kit):
        optimiser = KEEPING[case](kit.optimisers, rate)
        after = lambda each, o=optimiser: kit.descent.descend(loss, each, optimiser=o, steps=7).params  # noqa: E731
        assert float_dtypes(kit, after, params) == dict.fromkeys(params, dtype)


@pytest.mark.parametrize("dtype", DTYPES)
def test_one_step_keeps_the_dtype_of_parameters(backend64, dtype):
    kit = backend64
    model = kit.layer("MetaLinear", 3, 2)
    params = cast(kit, {name: np.ones(value.shape) for name, value in kit.parameters(model).items()}, dtype)
    update = kit.adaptation.gradient_update_parameters
    for rate in (np.float64(0.1), kit.array(np.float64(0.1)), kit.array(np.ones((), np.float32))):
        losses = [lambda values: (values["weight"] ** 2).sum() + values["bias"].sum()]
        if kit.name == "torch":
            params = {name: value.requires_grad_() for name, value in params.items()}
            losses.append(losses[0](params))
        for loss in losses:
            step = lambda each, loss=loss, rate=rate: update(model, loss, each, step_size=rate)  # noqa: E731
            assert float_dtypes(kit, step, params) == dict.fromkeys(params, dtype)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
@pytest.mark.parametrize("case", ["adam", "clipped"])
def test_short_dtypes_are_computed_in_float32(backend64, case, dtype):
    """Gradients whose squares, and an `eps` that, are zero in float16."""
    kit, optimiser = backend64, KEEPING[case](backend64.optimisers, 0.125)
    for scale in (0.0, 1e-6, 1e3):
        short = cast(kit, random_values(0, scale), dtype)
        exact = {name: kit.numpy(each) for name, each in cast_to_float64(kit, short).items()}
        expected = updates_of(kit, optimiser, [exact])[0]
        found = cast_to_float64(kit, optimiser.update(short, optimiser.init(short), short)[0])
        for name in SHAPES:
            np.testing.assert_allclose(kit.numpy(found[name]), expected[name], rtol=1e-2, atol=1e-7)


def cast_to_float64(kit, values):
    if kit.name == "torch":
        return {name: value.double() for name, value in values.items()}
    return {name: value.astype("float64") for name, value in values.items()}


# Complex parameters

COMPLEX = {**KEEPING, "clipped": lambda o, rate: o.chain(o.clip_by_global_norm(0.3), o.sgd(rate))}


def complex_loss(values):
    """A real function of z₁ = w and z₂ = b that is neither holomorphic nor symmetric."""
    product = values["b.weight"] * (1.0 - 2.0j) + values["a.bias"][:, None] ** 2
    return (product.real**2).sum() + (values["b.weight"].imag ** 4).mean() + (values["a.bias"].real * 0.5).sum()


def parts_of(values):
    """Name → (real part, imaginary part), in NumPy."""
    return {name: np.stack([value.real, value.imag]) for name, value in values.items()}


def as_complex(parts):
    return {name: parts[0][name] + 1j * parts[1][name] for name in parts[0]}


@pytest.mark.parametrize("case", [name for name in COMPLEX if name != "adam"])
def test_a_complex_parameter_descends_as_its_two_parts_do(backend64, case):
    """A step downhill in x and y is a step downhill in x + iy."""
    kit, descend = backend64, backend64.descent.descend
    start = [random_values(9), random_values(10)]
    optimiser = COMPLEX[case](kit.optimisers, 0.01)
    with kit.mixed_dtypes():
        whole = descend(complex_loss, as_arrays(kit, as_complex(start)), optimiser=optimiser, steps=3).params
        parts = [as_arrays(kit, each) for each in start]
        both = descend(lambda each: complex_loss(as_complex(each)), parts, optimiser=optimiser, steps=3).params
    assert_close(parts_of(kit.numpy(whole)), parts_of(as_complex([kit.numpy(each) for each in both])), "gradient")


def test_adam_steps_downhill_in_the_complex_plane(backend64):
    """|w|² from w = i: the first step of Adam is the rate times the direction of the gradient."""
    kit = backend64
    start = {"w": kit.array(np.array([1j, 3 - 4j]))}
    with kit.mixed_dtypes():
        after = kit.descent.descend(
            lambda p: (abs(p["w"]) ** 2).sum(), start, optimiser=kit.optimisers.adam(0.1), steps=1
        ).params
    expected = {"w": np.array([0.9j, (3 - 4j) * (1 - 0.1 / 5)])}
    assert_close(parts_of(kit.numpy(after)), parts_of(expected), "trajectory")


@pytest.mark.parametrize("case", COMPLEX)
def test_both_backends_have_the_same_complex_meta_gradient(torch_kit, jax_kit, case):
    start = as_complex([random_values(9), random_values(10)])
    rng = np.random.default_rng(2)
    batch = {name: (rng.standard_normal((3, 3, 2)), rng.standard_normal((3, 3))) for name in ("train", "test")}

    def apply(params, inputs):
        return inputs * params["b.weight"] + params["a.bias"][:, None] ** 2

    def loss(outputs, targets):
        return (abs(outputs.sum(-1) - targets * 1j) ** 4).mean()

    def meta_gradient(kit):
        with kit.float64(), kit.mixed_dtypes():
            arrays = {name: tuple(kit.array(each) for each in pair) for name, pair in batch.items()}
            maml = kit.algorithms.MAML(apply, loss, optimiser=COMPLEX[case](kit.optimisers, 0.01), steps=2)
            return parts_of(kit.numpy(maml.meta_gradient(as_arrays(kit, start), arrays)[1]))

    assert_close(meta_gradient(torch_kit), meta_gradient(jax_kit), "meta_gradient_mlp")


# Purity


@pytest.mark.parametrize("case", VALUES)
def test_an_optimiser_remembers_nothing(backend64, case):
    optimiser = VALUES[case][0](backend64.optimisers)
    first = updates_of(backend64, optimiser)
    for found, expected in zip(updates_of(backend64, optimiser), first, strict=True):
        assert_identical(found, expected)


def test_torch_updates_are_out_of_place_and_work_with_plain_autograd(torch_kit):
    inner_loop, torch = InnerLoop(torch_kit), torch_kit.torch
    for make in DIFFERENTIABLE.values():
        optimiser = make(torch_kit.optimisers)
        params = {name: value.clone().requires_grad_() for name, value in inner_loop.params.items()}
        inputs, targets, query, query_targets = inner_loop.data
        current, state = params, optimiser.init(params)
        for _ in range(2):
            loss = ((inner_loop.model(inputs, params=current) - targets) ** 2).mean()
            found = torch.autograd.grad(loss, list(current.values()), create_graph=True)
            updates, state = optimiser.update(dict(zip(current, found, strict=True)), state, current)
            current = {name: value + updates[name] for name, value in current.items()}
        outer = ((inner_loop.model(query, params=current) - query_targets) ** 2).mean()
        gradients = dict(zip(params, torch.autograd.grad(outer, list(params.values())), strict=True))
        assert_close(gradients, inner_loop.meta_gradient(make, 2), "gradient")
        assert_identical(params, inner_loop.params)


# Wrong arguments

NUMBERS = {
    "sgd(-0.1)": (lambda o: o.sgd(-0.1), r"`learning_rate` must be a finite number of at least 0, got -0\.1"),
    "sgd(nan)": (lambda o: o.sgd(math.nan), "`learning_rate` must be a finite number of at least 0, got nan"),
    "adam(inf)": (lambda o: o.adam(math.inf), "`learning_rate` must be a finite number of at least 0, got inf"),
    "by name": (lambda o: o.adam({"a": -1.0}), r"`learning_rate\['a'\]` must be a finite number of at least 0, got -1"),
    "momentum 1": (lambda o: o.sgd(0.1, 1.0), r"`momentum` must be in \[0, 1\), got 1\.0"),
    "momentum -1": (lambda o: o.sgd(0.1, -1), r"`momentum` must be in \[0, 1\), got -1"),
    "nesterov": (lambda o: o.sgd(0.1, nesterov=True), r"`momentum` must be above 0 with nesterov=True, got 0\.0"),
    "b1": (lambda o: o.adam(0.1, b1=1.0), r"`b1` must be in \[0, 1\), got 1\.0"),
    "b2": (lambda o: o.adam(0.1, b2=math.nan), r"`b2` must be in \[0, 1\), got nan"),
    "eps": (lambda o: o.adam(0.1, eps=-1e-8), "`eps` must be a finite number of at least 0, got -1e-08"),
    "eps_root": (lambda o: o.adam(0.1, eps_root=-1.0), r"`eps_root` must be a finite number of at least 0, got -1\.0"),
    "max_norm": (lambda o: o.clip_by_global_norm(0), "`max_norm` must be a positive finite number, got 0"),
    "max_norm inf": (lambda o: o.clip_by_global_norm(math.inf), "`max_norm` must be a positive finite number, got inf"),
    "chain": (lambda o: o.chain(), r"`optimisers` must be one or more, got \(\)"),
}


@pytest.mark.parametrize("case", NUMBERS)
def test_numbers_are_checked_when_they_are_given(backend, case):
    make, message = NUMBERS[case]
    with pytest.raises(ValueError, match=message):
        make(backend.optimisers)


RATES = {
    "missing": (
        {"a.bias": 0.1},
        "`learning_rate` of the adapted part must hold every parameter, 'b.weight' is missing",
    ),
    "unknown": (
        {**dict.fromkeys(SHAPES, 0.1), "a.bais": 0.1},
        "`learning_rate` holds 'a.bais', which is no parameter of the adapted part; did you mean 'a.bias'",
    ),
    "shape": (
        {"a.bias": np.ones(3), "b.weight": np.ones(3)},
        r"`learning_rate\['b.weight'\]` must be a scalar or broadcast to its parameter's shape \(3, 2\), got",
    ),
    "no scalar": (
        np.ones(3),
        r"`learning_rate` must be a scalar or broadcast to .*\(3, 2\), got shape \(3,\); for rates",
    ),
    "too many axes": (
        np.ones((1, 1)),
        r"`learning_rate` must be a scalar or broadcast to .* shape \(3,\), got shape \(1, 1\)",
    ),
    "complex": (np.array(0.1j), r"`learning_rate` must be real, got 'complex128'"),
    "function": (lambda step: -0.1, r"`learning_rate` must be a finite number of at least 0, got -0\.1"),
}


@pytest.mark.parametrize("case", RATES)
@pytest.mark.parametrize("kind", ["sgd", "adam"])
def test_rates_fit_the_parameters(backend64, kind, case):
    rate, message = RATES[case]
    with pytest.raises(ValueError, match=message):
        updates_of(backend64, getattr(backend64.optimisers, kind)(rate))


def test_a_rate_is_a_number_or_an_array(backend64):
    for rate, name in (("fast", "str"), (None, "NoneType"), ([0.1], "list")):
        with pytest.raises(TypeError, match=f"`learning_rate` must be a number or an array, got {name}"):
            updates_of(backend64, backend64.optimisers.sgd(rate))


def test_a_chain_is_made_of_optimisers(backend):
    with pytest.raises(TypeError, match=r"`optimisers` must be a pair of functions \(init, update\), got 0\.1; make"):
        backend.optimisers.chain(backend.optimisers.sgd(0.1), 0.1)


def test_a_state_of_fewer_optimisers_is_refused(backend64):
    """A chain that dropped its last optimiser would go uphill in silence."""
    optimiser = backend64.optimisers.chain(backend64.optimisers.sgd(0.1, 0.9), backend64.optimisers.sgd(0.1))
    params = as_arrays(backend64, random_values(0))
    with pytest.raises(ValueError, match="state"):
        optimiser.update(params, optimiser.init(params)[:1], params)
