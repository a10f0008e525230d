"""The parity table: every layer with `params` in both backends, PyTorch's own layer, and finite differences.

Each row goes through outputs, first-order gradients, and the meta-gradient of one and of five inner steps over two
tasks. Inputs depend on a learned number, so that derivatives reach the outputs through the inputs too: that is where
torch's normalisation goes wrong under `vmap` if it is given its weight.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from tolerances import assert_close, assert_differs

from backends.kits import Kit, make_kit
from backends.layers import LAYERS, LayerCase

RATE, STEPS, TASKS = 0.01, 5, 2
Params = dict[str, Any]
CASES = {str(case): case for case in LAYERS}
FIRST_OF_ITS_KIND = {case.kind: name for name, case in reversed(CASES.items())}
EVERY_LAYER = pytest.mark.parametrize(
    "case", [pytest.param(case, id=name, marks=pytest.mark.xdist_group(name)) for name, case in CASES.items()]
)


def support_and_query(case: LayerCase) -> list[list[np.ndarray]]:
    """Inputs of both sets of every task, each `(TASKS, 2, …)`; integers are the same in all."""
    sets = [case.values(seed) for seed in range(2 * TASKS)]
    stacked = [np.stack(values).reshape(TASKS, 2, *values[0].shape) for values in zip(*sets, strict=True)]
    return [[each[task] for each in stacked] for task in range(TASKS)]


class Problem:
    """One row in one framework: loss of a set, and the meta-loss, as functions of `{"scale", "layer.…"}`."""

    def __init__(self, kit: Kit, case: LayerCase, call: Callable[[Params, list[Any]], Any], dtype: str) -> None:
        self.kit, self.case, self.call, self.dtype = kit, case, call, dtype

    def number(self, value: Any) -> Any:
        """A float in the row's dtype, an integer as it is."""
        value = np.asarray(value)
        return value.astype(self.dtype) if value.dtype.kind == "f" else value

    def inputs(self, values: list[np.ndarray]) -> list[Any]:
        return [self.case.enter(self.kit, self.number(each)) for each in values]

    def outputs(self, params: Params, inputs: list[Any]) -> Any:
        own = {name.removeprefix("layer."): each for name, each in params.items() if name != "scale"}
        scale, first = params["scale"], inputs[0]
        if self.case.values()[0].dtype.kind == "f":
            return self.call(own, [first + scale * first**2, *inputs[1:]])  # normalisation undoes a mere scaling
        return scale * self.call(own, inputs)

    def loss(self, params: Params, inputs: list[Any]) -> Any:
        outputs = self.outputs(params, inputs)
        channels_first = self.case.images and self.kit.name == "torch" and outputs.ndim > 2
        shape = (len(outputs), *outputs.shape[2:], outputs.shape[1]) if channels_first else tuple(outputs.shape)
        weights = self.number(np.linspace(0.5, 1.5, int(np.prod(shape))).reshape(shape))
        return (self.case.enter(self.kit, weights) * outputs**2).mean()


def torch_problem(case: LayerCase, dtype: str = "float64") -> Problem:
    kit = make_kit("torch")
    layer = case.build(kit).to(getattr(kit.torch, dtype))
    return Problem(kit, case, lambda own, inputs: case.call(kit, layer, inputs, params=own), dtype)


def plain_problem(case: LayerCase) -> Problem:
    kit = make_kit("torch")
    layer = case.plain()

    def run(own: Params, inputs: list[Any]) -> Any:
        """Fresh each time: training would move the running statistics."""
        stateless = lambda *arguments, **options: kit.torch.func.functional_call(layer, own, arguments, options)  # noqa: E731
        return case.call(kit, stateless, inputs)

    return Problem(kit, case, run, "float64")


def jax_problem(case: LayerCase, dtype: str = "float64") -> Problem:
    kit = make_kit("jax")
    layer = case.build(kit)
    return Problem(kit, case, lambda own, inputs: case.call(kit, layer, inputs, params=own), dtype)


def start(problem: Problem) -> Params:
    """Initial parameters in the framework."""
    neutral = {name: problem.number(each) for name, each in problem.case.neutral().items()}
    if problem.kit.name == "jax":
        own = problem.kit.weights.from_neutral(neutral, problem.case.build(problem.kit))
    else:
        own = {name: problem.kit.array(each) for name, each in neutral.items()}
    return {"scale": problem.kit.array(problem.number(0.3)), **{f"layer.{name}": each for name, each in own.items()}}


def back(problem: Problem, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Parameters or gradients as neutral ones."""
    own = {name.removeprefix("layer."): each for name, each in params.items() if name != "scale"}
    if problem.kit.name == "jax":
        neutral = problem.kit.weights.to_neutral(own, problem.case.build(problem.kit))
    else:
        neutral = problem.kit.numpy(own)
    return {"scale": problem.kit.numpy(params["scale"]), **{f"layer.{name}": each for name, each in neutral.items()}}


def torch_results(problem: Problem, together: bool) -> dict[str, Any]:
    """Output, gradient and meta-gradients of a problem in torch, by `torch.func`; tasks at once or in a loop."""
    func, torch = problem.kit.torch.func, problem.kit.torch
    tasks = support_and_query(problem.case)
    sets = [[problem.inputs([each[role] for each in task]) for role in (0, 1)] for task in tasks]

    def objective(params: Params, support: list[Any], query: list[Any], steps: int) -> Any:
        for _ in range(steps):
            gradients = func.grad(problem.loss)(params, support)
            params = {name: params[name] - RATE * gradients[name] for name in params}
        return problem.loss(params, query)

    def total(params: Params, steps: int) -> Any:
        if together:
            stacked = [[torch.stack(each) for each in zip(*role, strict=True)] for role in zip(*sets, strict=True)]
            return func.vmap(lambda support, query: objective(params, support, query, steps))(*stacked).mean()
        return torch.stack([objective(params, support, query, steps) for support, query in sets]).mean()

    params = start(problem)
    return {
        "output": problem.case.leave(problem.kit, problem.outputs(params, sets[0][0])),
        "gradient": back(problem, func.grad(problem.loss)(params, sets[0][0])),
        **{f"meta {steps}": back(problem, func.grad(total)(params, steps)) for steps in (1, STEPS)},
    }


def autograd_results(problem: Problem) -> dict[str, Any]:
    """The same by torch.autograd alone; without meta-gradients where torch cannot differentiate its layer twice."""
    torch, sets = problem.kit.torch, support_and_query(problem.case)
    twice = problem.case.twice
    params = {name: each.requires_grad_() for name, each in start(problem).items()}

    def gradients_of(value: Any, at: Params, create_graph: bool) -> Params:
        found = torch.autograd.grad(value, list(at.values()), create_graph=create_graph, materialize_grads=True)
        return dict(zip(at, found, strict=True))

    def total(steps: int) -> Any:
        objectives = []
        for task in sets:
            support, query = (problem.inputs([each[role] for each in task]) for role in (0, 1))
            current = params
            for _ in range(steps):
                gradients = gradients_of(problem.loss(current, support), current, create_graph=True)
                current = {name: current[name] - RATE * gradients[name] for name in current}
            objectives.append(problem.loss(current, query))
        return torch.stack(objectives).mean()

    support = problem.inputs([each[0] for each in sets[0]])
    metas = {f"meta {steps}": gradients_of(total(steps), params, False) for steps in (1, STEPS) if twice}
    return {
        "output": problem.case.leave(problem.kit, problem.outputs(params, support)),
        "gradient": back(problem, gradients_of(problem.loss(params, support), params, False)),
        **{name: back(problem, gradients) for name, gradients in metas.items()},
    }


def jax_results(problem: Problem, steps: Sequence[int] = (1, STEPS)) -> dict[str, Any]:
    """The same in JAX, all tasks at once. One program serves any number of steps: a rate of 0 is no step.

    Without `steps` there are no meta-gradients, which take most of the time to compile.
    """
    jax = problem.kit.jax
    tasks = support_and_query(problem.case)
    sets = [[problem.inputs([each[role] for each in task]) for role in (0, 1)] for task in tasks]

    def objective(params: Params, support: list[Any], query: list[Any], rates: Any) -> Any:
        def step(current: Params, rate: Any) -> tuple[Params, None]:
            gradients = jax.grad(problem.loss)(current, support)
            return {name: current[name] - rate * gradients[name] for name in current}, None

        return problem.loss(jax.lax.scan(step, params, rates)[0], query)

    def total(params: Params, rates: Any) -> Any:
        support, query = (
            [jax.numpy.stack(each) for each in zip(*role, strict=True)] for role in zip(*sets, strict=True)
        )
        return jax.vmap(objective, in_axes=(None, 0, 0, None))(params, support, query, rates).mean()

    @jax.jit
    def everything(params: Params, rates: Any) -> Any:
        support = sets[0][0]
        return (
            problem.outputs(params, support),
            jax.grad(problem.loss)(params, support),
            jax.vmap(lambda each: jax.grad(total)(params, each))(rates) if steps else {},
        )

    params = start(problem)
    rates = RATE * (np.arange(STEPS) < np.reshape(steps, (-1, 1)))
    output, gradient, metas = everything(params, problem.kit.array(problem.number(rates)))
    return {
        "output": problem.case.leave(problem.kit, output),
        "gradient": back(problem, gradient),
        **{
            f"meta {step}": back(problem, {name: each[row] for name, each in metas.items()})
            for row, step in enumerate(steps)
        },
    }


@functools.cache
def by_autograd(case: str) -> dict[str, Any]:
    """The results of a MetaModule by autograd, computed once for every law that asks for them."""
    return autograd_results(torch_problem(CASES[case]))


@functools.cache
def by_func(case: str, together: bool) -> dict[str, Any]:
    """The same by `torch.func`."""
    return torch_results(torch_problem(CASES[case]), together)


def assert_agree(found: Mapping[str, Any], expected: Mapping[str, Any], dtype: str = "float64") -> None:
    suffix = "" if dtype == "float64" else "_float32"
    for name, value in expected.items():
        assert_close(found[name], value, "forward" + suffix if name == "output" else "gradient" + suffix)


@EVERY_LAYER
def test_torch_agrees_with_pytorchs_own_layer(torch_kit, case):
    """With derivatives of `torch.autograd`, for which torch's own formulas are right."""
    assert_agree(by_autograd(str(case)), autograd_results(plain_problem(case)))


@EVERY_LAYER
@pytest.mark.parametrize("together", [True, False], ids=["vmap", "loop"])
def test_torch_func_agrees_with_autograd(torch_kit, case, together):
    assert_agree(by_func(str(case), together), by_autograd(str(case)))


@pytest.mark.parametrize(
    ("case", "dtype"),
    [
        pytest.param(
            case,
            dtype,
            id=f"{dtype}-{name}",
            marks=[
                pytest.mark.xdist_group(name),
                # A meta-gradient takes a second to compile: the other options of a kind wait for the full run.
                *([] if dtype == "float32" or FIRST_OF_ITS_KIND[case.kind] == name else [pytest.mark.slow]),
            ],
        )
        for name, case in CASES.items()
        for dtype in ("float64", "float32")
    ],
)
def test_jax_agrees_with_torch(jax_kit, torch_kit, case, dtype):
    """In float32 without meta-gradients: what differs there is rounding alone, and the formulas are the same."""
    exact = dtype == "float64"
    with jax_kit.float64() if exact else jax_kit.jax.numpy_dtype_promotion("standard"):
        found = jax_results(jax_problem(case, dtype), (1, STEPS) if exact else ())
    expected = by_autograd(str(case))
    assert_agree(found, expected if exact else {name: expected[name] for name in ("output", "gradient")}, dtype)


@EVERY_LAYER
@pytest.mark.parametrize("steps", [1, STEPS])
def test_meta_gradients_agree_with_finite_differences(torch_kit, case, steps):
    problem, torch = torch_problem(case), torch_kit.torch
    gradient = by_func(str(case), True)[f"meta {steps}"]
    rng = np.random.default_rng(3)
    direction = {name: rng.standard_normal(each.shape) for name, each in gradient.items()}
    if case.kind == "Embedding" and "padding_idx" in case.kwargs:  # by definition the padding's row has no gradient
        direction["layer.weight"][case.kwargs["padding_idx"]] = 0

    def value(offset: float) -> float:
        params = {name: each + offset * torch.tensor(direction[name]) for name, each in start(problem).items()}
        objectives = []
        for task in support_and_query(case):
            current = params
            support, query = (problem.inputs([each[role] for each in task]) for role in (0, 1))
            for _ in range(steps):
                gradients = torch.func.grad(problem.loss)(current, support)
                current = {name: current[name] - RATE * gradients[name] for name in current}
            objectives.append(problem.loss(current, query).item())
        return float(np.mean(objectives))

    h = 1e-4
    difference = (8 * (value(h) - value(-h)) - (value(2 * h) - value(-2 * h))) / (12 * h)  # of fourth order
    slope = sum(float((gradient[name] * direction[name]).sum()) for name in gradient)
    assert_close(slope, difference, "finite_difference")


def test_torch_casts_automatically_as_pytorchs_own_layers_do(torch_kit):
    """Under autocast the output of a layer with `params` has the dtype of PyTorch's, under `vmap` too."""
    torch = torch_kit.torch

    def dtypes(case):
        narrow = lambda value: value.astype(np.float32) if value.dtype.kind == "f" else value  # noqa: E731
        options = {k: narrow(v) if isinstance(v, np.ndarray) else v for k, v in case.options.items()}
        single = dataclasses.replace(case, options=options)
        inputs = [case.enter(torch_kit, narrow(each)) for each in case.values()]
        layer = case.build(torch_kit).float()
        params = {name: each.detach() for name, each in layer.named_parameters()}
        run = lambda _: single.call(torch_kit, layer, inputs, params=params)  # noqa: E731
        with torch.autocast("cpu", dtype=torch.bfloat16):
            plain = single.call(torch_kit, case.plain().float(), inputs)
            return [each.dtype for each in (plain, run(None), torch.func.vmap(run)(torch.zeros(2)))]

    found = {str(case): dtypes(case) for case in LAYERS}
    assert {name: each for name, each in found.items() if len(set(each)) > 1} == {}
    assert {each[0] for each in found.values()} == {torch.float32, torch.bfloat16}


def test_a_perturbed_weight_is_seen(torch_kit):
    """The comparison can fail: a change of one weight in ten thousand shows in all results."""
    case = LAYERS[0]
    problem, other = torch_problem(case), torch_problem(case)
    call = other.call
    other.call = lambda own, inputs: call({**own, "weight": own["weight"] * 1.01}, inputs)
    expected, found = autograd_results(problem), autograd_results(other)
    for name in expected:
        assert_differs(found[name], expected[name])
