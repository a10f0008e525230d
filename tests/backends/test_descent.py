"""`descend`, the inner loop under everything: laws over optimisers, trees of parameters and adjoints."""

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

STEPS = (0, 1, 3, 7)
"""Loops that JAX writes out and one that it scans."""


@pytest.fixture
def quadratic(backend64):
    """A loss of a tree of parameters, the tree, and an argument of the loss."""
    rng = np.random.default_rng(0)
    array = backend64.array
    params = {"a": {"w": array(rng.standard_normal((2, 3)))}, "b": [array(rng.standard_normal(3))]}

    def loss(params, inputs):
        return ((inputs @ params["a"]["w"] - params["b"][0]) ** 4).mean()

    return loss, params, array(rng.standard_normal((4, 2)))


def optimisers(kit):
    """Every optimiser that has a state of another kind."""
    sgd, adam, chain, clip = (getattr(kit.optimisers, n) for n in ("sgd", "adam", "chain", "clip_by_global_norm"))
    return {
        "sgd": sgd(0.01),
        "momentum": sgd(0.01, 0.9, nesterov=True),
        "adam": adam(0.01),
        "clipped": chain(clip(1.0), adam(0.01)),
        "a rate for every step": sgd(lambda step: 0.01 / (step + 1)),
    }


NAMES = ("sgd", "momentum", "adam", "clipped", "a rate for every step")


def leaves(kit, tree):
    return {"a.w": kit.numpy(tree["a"]["w"]), "b.0": kit.numpy(tree["b"][0])}


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_a_loop_in_two_parts_is_the_loop(backend64, quadratic, name, steps):
    """The state comes out and goes in again: parameters, moments and counts."""
    loss, params, inputs = quadratic
    optimiser, descend = optimisers(backend64)[name], backend64.descent.descend
    whole = descend(loss, params, inputs, optimiser=optimiser, steps=steps + 2)
    first = descend(loss, params, inputs, optimiser=optimiser, steps=steps)
    rest = descend(loss, first.params, inputs, optimiser=optimiser, steps=2, state=first.state)
    assert_close(leaves(backend64, rest.params), leaves(backend64, whole.params), "forward")
    assert_differs(leaves(backend64, whole.params), leaves(backend64, params))


def test_no_step_gives_the_parameters_back(backend64, quadratic):
    loss, params, inputs = quadratic
    found = backend64.descent.descend(loss, params, inputs, optimiser=backend64.optimisers.adam(0.1), steps=0)
    assert_identical(leaves(backend64, found.params), leaves(backend64, params))
    assert found.aux == []


@pytest.mark.parametrize("steps", STEPS[1:])
def test_every_step_has_its_own_value(backend64, steps):
    """The loss of step k sees `per_step[k]`; the second values come back in order."""
    batches = [backend64.array(np.full(2, float(k))) for k in range(steps)]

    def loss(value, scale, batch):
        return scale * ((value - batch) ** 2).sum(), (value - batch).sum()

    start, scale, sgd = backend64.array(np.zeros(2)), backend64.array(1.0), backend64.optimisers.sgd(0.25)
    found = backend64.descent.descend(loss, start, scale, optimiser=sgd, per_step=batches, has_aux=True)
    value, seen = np.zeros(2), []
    for k in range(steps):
        seen.append((value - k).sum())
        value = value - 0.25 * 2 * (value - k)
    assert_close(found.params, value, "forward")
    assert_close(np.array([float(backend64.numpy(each)) for each in found.aux]), np.array(seen), "forward")


@pytest.mark.parametrize("steps", STEPS[1:])
def test_gradients_flow_to_parameters_and_arguments(backend64, quadratic, steps):
    """Against central differences, through a loop that JAX writes out and one that it scans."""
    loss, params, inputs = quadratic
    momentum, descend = backend64.optimisers.sgd(0.01, 0.9), backend64.descent.descend

    def outer(values):
        tree = {"a": {"w": values["w"]}, "b": params["b"]}
        after = descend(loss, tree, values["x"], optimiser=momentum, steps=steps).params
        return loss(after, inputs)

    at = {"w": params["a"]["w"], "x": inputs}
    gradient = backend64.numpy(backend64.gradient(outer, at))
    numbers = {name: np.array(backend64.numpy(value)) for name, value in at.items()}
    outer_of_numbers = backend64.compile(outer)
    for name, index in (("w", (0, 1)), ("w", (1, 2)), ("x", (3, 0))):
        ahead, behind = ({key: value.copy() for key, value in numbers.items()} for _ in range(2))
        ahead[name][index] += 1e-5
        behind[name][index] -= 1e-5
        values = [
            float(backend64.numpy(outer_of_numbers({key: backend64.array(v) for key, v in each.items()})))
            for each in (ahead, behind)
        ]
        assert_close(gradient[name][index], (values[0] - values[1]) / 2e-5, "finite_difference")


@pytest.mark.parametrize("steps", STEPS[1:])
def test_first_order_gradients_take_the_steps_for_constants(backend64, steps):
    """On ½ s·φ² with rate r: φ_K = (1 − r·s)^K φ; exactly, dφ_K/dφ is that factor, of first order it is 1."""
    scale, rate = 3.0, 0.1
    adjoints, descend = backend64.adjoints, backend64.descent.descend

    def after(value, adjoint):
        return descend(
            lambda v: scale * v * v / 2, value, optimiser=backend64.optimisers.sgd(rate), steps=steps, adjoint=adjoint
        ).params

    start = backend64.array(2.0)
    exact = backend64.gradient(lambda v: after(v, adjoints.Unrolled()), start)
    first = backend64.gradient(lambda v: after(v, adjoints.FirstOrder()), start)
    assert_close(exact, np.array((1 - rate * scale) ** steps), "gradient")
    assert_close(first, np.array(1.0), "gradient")
    assert_close(after(start, adjoints.FirstOrder()), after(start, adjoints.Unrolled()), "forward")


def test_adjoints_are_values(backend):
    adjoints = backend.adjoints
    assert adjoints.Unrolled() == adjoints.Unrolled() != adjoints.FirstOrder()
    assert len({adjoints.Unrolled(), adjoints.FirstOrder(), adjoints.FirstOrder()}) == 2


def test_a_parameter_that_the_loss_does_not_use_stays(backend64):
    params = {"used": backend64.array(np.ones(2)), "unused": backend64.array(np.ones(2))}
    found = backend64.descent.descend(
        lambda p: (p["used"] ** 2).sum(), params, optimiser=backend64.optimisers.sgd(0.1), steps=2
    ).params
    assert_identical(backend64.numpy(found["unused"]), np.ones(2))
    assert_differs(found["used"], np.ones(2))


def test_what_descends_is_the_parameter_alone(backend64):
    """∂(φ·t)/∂φ = t, also where the argument t, or another parameter, is the very array that φ starts from."""
    start = backend64.array(np.array([1.0, 2.0]))
    if backend64.name == "torch":
        start.requires_grad_()
    sgd, descend = backend64.optimisers.sgd(1.0), backend64.descent.descend
    with_argument = descend(lambda value, other: (value * other).sum(), start, start, optimiser=sgd, steps=1)
    tied = descend(lambda p: (p["a"] * p["b"]).sum(), {"a": start, "b": start}, optimiser=sgd, steps=1)
    for found in (with_argument.params, tied.params["a"], tied.params["b"]):
        assert_identical(backend64.numpy(found), np.zeros(2))


def test_torch_says_that_inference_mode_has_no_gradients(torch_kit):
    descend, sgd = torch_kit.descent.descend, torch_kit.optimisers.sgd(0.1)
    start = torch_kit.array(np.ones(2))
    with torch_kit.torch.inference_mode(), pytest.raises(RuntimeError, match=r"use torch\.no_grad\(\)"):
        descend(lambda p: p.sum(), start, optimiser=sgd, steps=1)


def test_torch_adapts_whatever_requires_grad_says(torch_kit):
    """Parameters from a file need no gradient and adapt all the same."""
    frozen = torch_kit.array(np.ones(2))
    learned = frozen.clone().requires_grad_()
    sgd, descend = torch_kit.optimisers.sgd(0.1), torch_kit.descent.descend
    both = [descend(lambda p: (p**2).sum(), each, optimiser=sgd, steps=2).params for each in (frozen, learned)]
    assert_identical(torch_kit.numpy(both[0]), torch_kit.numpy(both[1]))
    assert both[1].requires_grad
    assert not both[0].requires_grad or both[0].grad_fn is not None


def test_torch_keeps_a_graph_only_where_a_gradient_can_flow(torch_kit):
    """½(φ − t)² with rate r: φ_K − t = (1 − r)^K (φ_0 − t), so dφ_K/dt = 1 − (1 − r)^K, and so on."""
    torch, steps = torch_kit.torch, 3
    learned = {name: torch.tensor(value, dtype=torch.float64) for name, value in {"t": 3.0, "r": 0.1, "φ": 1.0}.items()}
    expected = {"t": 1 - 0.9**steps, "r": -steps * 0.9 ** (steps - 1) * (1 - 3), "φ": 0.9**steps}

    def after(values):
        return torch_kit.descent.descend(
            lambda p: ((p["free"] - values["t"]) ** 2).sum() / 2 + p["bound"][0] * 0,
            {"free": values["φ"], "bound": [torch.ones((), dtype=torch.float64)]},
            optimiser=torch_kit.optimisers.sgd(values["r"]),
            steps=steps,
        ).params

    untouched = after(learned)
    assert not untouched["free"].requires_grad
    for name, value in learned.items():
        found = after({**learned, name: value.clone().requires_grad_()})["free"]
        assert_close(found, untouched["free"], "forward")
        leaf = {**learned, name: value.clone().requires_grad_()}
        after(leaf)["free"].backward()
        assert_close(leaf[name].grad, np.array(expected[name]), "gradient")


def test_jax_names_the_step_whose_value_differs(jax_kit):
    descend, sgd = jax_kit.descent.descend, jax_kit.optimisers.sgd(0.1)
    one, pair = jax_kit.array(np.ones(3)), jax_kit.array(np.ones(2))
    for count in (1, 6):
        with pytest.raises(ValueError, match=r"`per_step\[\d\]` must be of the structure of `per_step\[0\]`"):
            descend(lambda p, x: p.sum(), one, optimiser=sgd, per_step=[{"a": one}] * count + [{"b": one}])
        with pytest.raises(ValueError, match=r"`per_step\[\d\]` must be of the shapes .*, \[\(3,\)\], got \[\(2,\)\]"):
            descend(lambda p, x: p.sum(), one, optimiser=sgd, per_step=[one] * count + [pair])


def test_wrong_arguments_are_refused(backend64):
    descend, sgd, start = backend64.descent.descend, backend64.optimisers.sgd(0.1), backend64.array(np.ones(2))
    with pytest.raises(ValueError, match=r"`loss` must be a scalar, got shape \(2,\); average it over the examples"):
        descend(lambda p: p, start, optimiser=sgd, steps=1)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 0, got -1"):
        descend(lambda p: p.sum(), start, optimiser=sgd, steps=-1)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 0 without `per_step`, got None"):
        descend(lambda p: p.sum(), start, optimiser=sgd)
    with pytest.raises(ValueError, match="`steps` must be the length of `per_step`, 2, got 3; leave `steps` out"):
        descend(lambda p, x: p.sum(), start, optimiser=sgd, steps=3, per_step=[1.0, 2.0])
    with pytest.raises(TypeError, match=r"`optimiser` must be a pair of functions \(init, update\), got 0.1"):
        descend(lambda p: p.sum(), start, optimiser=0.1, steps=1)


def test_parameters_without_a_gradient_are_refused_by_name(backend64):
    descend, sgd, array = backend64.descent.descend, backend64.optimisers.sgd(0.1), backend64.array
    params = {"a": array(np.ones(2)), "b": {"count": array(np.array([3]))}}
    with pytest.raises(
        ValueError, match=r"`params\['b\.count'\]` must be an array of real or complex numbers to descend, got .*int64"
    ):
        descend(lambda p: p["a"].sum(), params, optimiser=sgd, steps=1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("steps", STEPS)
def test_there_may_be_nothing_to_descend(backend64, name, steps):
    optimiser, descend = optimisers(backend64)[name], backend64.descent.descend
    one, empty = backend64.array(np.ones(())), backend64.array(np.zeros((0, 2)))
    assert descend(lambda p: one, {}, optimiser=optimiser, steps=steps).params == {}
    found = descend(lambda p: one + p["empty"].sum(), {"empty": empty}, optimiser=optimiser, steps=steps).params
    assert backend64.numpy(found["empty"]).shape == (0, 2)
