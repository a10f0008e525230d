"""The reference itself: its hand-written derivatives against complex steps through everything."""

import numpy as np
import oracle
import pytest
from tolerances import assert_close, assert_differs

from metabridge.configs import MAMLConfig, ModelConfig
from metabridge.networks.parameters import initial_parameters

MLP = ModelConfig("mlp", (3,), 2, (5, 4))
CONV4 = ModelConfig("conv4", (16, 16, 1), 3, (2, 2, 2, 2))


def float64_parameters(model):
    return {name: array.astype(np.float64) for name, array in initial_parameters(model, 0).items()}


def made_batch(model, tasks=2, count=6):
    rng = np.random.default_rng(1)

    def split():
        inputs = rng.random((tasks, count, *model.input_shape))
        if model.name == "mlp":
            return inputs, rng.standard_normal((tasks, count, model.outputs))
        return inputs, rng.integers(model.outputs, size=(tasks, count))

    return {"train": split(), "test": split()}


LOSSES = {"mlp": oracle.mean_squared_error, "conv4": oracle.cross_entropy}
MODELS = pytest.mark.parametrize("model", [MLP, CONV4], ids=lambda model: model.name)


def complex_step(function, params, direction):
    """Derivative of a real function of parameters along a direction."""
    return function(oracle.add(params, direction, 1j * oracle.STEP)).imag / oracle.STEP


def directions(params, count=3):
    rng = np.random.default_rng(2)
    return [{name: rng.standard_normal(array.shape) for name, array in params.items()} for _ in range(count)]


def along(gradient, direction):
    return sum((gradient[name] * direction[name]).sum() for name in direction)


@MODELS
def test_backward_pass_is_the_derivative_of_the_forward_pass(model):
    params, loss = float64_parameters(model), LOSSES[model.name]
    inputs, targets = (each[0] for each in made_batch(model)["train"])
    _, gradient = oracle.loss_and_gradient(model, loss, params, inputs, targets)
    for direction in directions(params):
        derivative = complex_step(
            lambda p: oracle.loss_and_gradient(model, loss, p, inputs, targets)[0], params, direction
        )
        assert_close(along(gradient, direction), derivative, "gradient")


@MODELS
@pytest.mark.parametrize("steps", [1, 3])
def test_meta_gradient_is_the_derivative_of_the_adapted_loss(model, steps):
    params, loss, batch = float64_parameters(model), LOSSES[model.name], made_batch(model, tasks=1)
    algorithm = MAMLConfig(inner_steps=steps, inner_lr=0.1)
    train, test = ([each[0] for each in batch[name]] for name in ("train", "test"))

    def adapted_loss(current):
        for _ in range(steps):
            gradient = oracle.loss_and_gradient(model, loss, current, *train)[1]
            current = oracle.add(current, gradient, -algorithm.inner_lr)
        return oracle.loss_and_gradient(model, loss, current, *test)[0]

    value, gradient = oracle.maml(model, algorithm, loss, params, batch)
    assert_close(value, adapted_loss(params), "forward")
    for direction in directions(params):
        assert_close(along(gradient, direction), complex_step(adapted_loss, params, direction), "gradient")
    first_order = MAMLConfig(inner_steps=steps, inner_lr=0.1, first_order=True)
    assert_differs(oracle.maml(model, first_order, loss, params, batch)[1], gradient)


def plain_descent(weight, inputs, targets, steps, rate):
    for _ in range(steps):
        weight = weight - rate * 2 / len(inputs) * inputs.T @ (inputs @ weight - targets)
    return weight


@pytest.mark.parametrize("steps", [1, 3])
def test_closed_form_of_linear_regression_is_plain_descent_and_its_derivative(steps):
    rng = np.random.default_rng(3)
    task = {name: (rng.standard_normal((5, 4)), rng.standard_normal((5, 1))) for name in ("train", "test")}
    algorithm = MAMLConfig(inner_steps=steps, inner_lr=0.1)
    weight = rng.standard_normal((4, 1))

    def adapted_loss(params):
        query, targets = task["test"]
        return ((query @ plain_descent(params["weight"], *task["train"], steps, 0.1) - targets) ** 2).mean()

    value, gradient = oracle.linear_regression_maml(algorithm, weight, task)
    assert_close(value, adapted_loss({"weight": weight}), "forward")
    derivatives = [
        complex_step(adapted_loss, {"weight": weight}, {"weight": np.eye(4)[:, [column]]}) for column in range(4)
    ]
    assert_close(gradient[:, 0], np.array(derivatives), "gradient")


@pytest.mark.parametrize("steps", [1, 3])
def test_first_order_gradient_of_linear_regression_is_that_of_the_adapted_weight(steps):
    rng = np.random.default_rng(4)
    task = {name: (rng.standard_normal((5, 4)), rng.standard_normal((5, 1))) for name in ("train", "test")}
    weight = rng.standard_normal((4, 1))
    algorithm = MAMLConfig(inner_steps=steps, inner_lr=0.1, first_order=True)
    value, gradient = oracle.linear_regression_maml(algorithm, weight, task)
    adapted = plain_descent(weight, *task["train"], steps, 0.1)
    query, targets = task["test"]
    assert_close(gradient, 2 / 5 * query.T @ (query @ adapted - targets), "gradient")
    exact_value, exact = oracle.linear_regression_maml(MAMLConfig(inner_steps=steps, inner_lr=0.1), weight, task)
    assert_close(value, exact_value, "forward")
    assert_differs(gradient, exact)
