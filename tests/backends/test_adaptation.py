"""One step of gradient descent that gradients flow through."""

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

# A model of one weight with hand-made derivatives: support loss L = a/2 · (w − c)², query loss M = b/2 · (w' − d)².
A, C, B, D = 3.0, -1.0, 2.0, 0.5
WEIGHT, RATE = 0.7, 0.1
ADAPTED = WEIGHT - RATE * A * (WEIGHT - C)


class Toy:
    """The one-weight model in a framework."""

    def __init__(self, kit):
        self.kit = kit
        self.model = kit.layer("MetaLinear", 1, 1, bias=False)
        self.update = kit.adaptation.gradient_update_parameters

    def params(self, weight=WEIGHT):
        return {"weight": self.kit.array(np.full((1, 1), weight))}

    def support(self, params):
        return (A / 2 * (params["weight"] - C) ** 2).sum()

    def query(self, params):
        return (B / 2 * (params["weight"] - D) ** 2).sum()

    def outer_gradient(self, **options):
        """d query(θ') / d θ, differentiated through the update."""

        def adapted(params):
            return self.query(self.update(self.model, self.support, params, **options))

        return self.kit.numpy(self.kit.gradient(adapted, self.params()))["weight"].item()


@pytest.fixture
def toy(backend64):
    return Toy(backend64)


def test_one_step_of_gradient_descent(toy):
    after = toy.update(toy.model, toy.support, toy.params(), step_size=RATE)
    assert_close(after["weight"], np.full((1, 1), ADAPTED), "forward")
    assert_close(toy.params()["weight"], np.full((1, 1), WEIGHT), "forward")


def test_gradient_of_the_update_by_hand(toy):
    assert_close(toy.outer_gradient(step_size=RATE), B * (ADAPTED - D) * (1 - RATE * A), "gradient")


def test_first_order_gradient_by_hand_is_another_one(toy):
    first_order = toy.outer_gradient(step_size=RATE, first_order=True)
    assert_close(first_order, B * (ADAPTED - D), "gradient")
    assert_differs(first_order, toy.outer_gradient(step_size=RATE))
    after = toy.update(toy.model, toy.support, toy.params(), step_size=RATE, first_order=True)
    assert_close(after["weight"], np.full((1, 1), ADAPTED), "forward")


def test_the_default_step_size_is_that_of_torchmeta(toy):
    after = toy.update(toy.model, toy.support, toy.params())
    assert_identical(after, toy.update(toy.model, toy.support, toy.params(), step_size=0.5))


@pytest.mark.parametrize("by_name", [False, True])
@pytest.mark.parametrize("first_order", [False, True])
def test_gradients_reach_a_learned_step_size(toy, by_name, first_order):
    def adapted(rate):
        size = {"weight": rate} if by_name else rate
        return toy.query(toy.update(toy.model, toy.support, toy.params(), size, first_order))

    found = toy.kit.gradient(adapted, toy.kit.array(RATE))
    assert_close(found, -B * (ADAPTED - D) * A * (WEIGHT - C), "gradient")


# A model of two layers


@pytest.fixture
def model(backend64):
    layers = [backend64.layer("MetaLinear", 3, 4), backend64.relu, backend64.layer("MetaLinear", 4, 2)]
    return backend64.layer("MetaSequential", *layers)


@pytest.fixture
def loss(backend64, model):
    """Mean squared error on fixed data, as a function of the parameters."""
    rng = np.random.default_rng(0)
    inputs, targets = (backend64.array(rng.standard_normal(shape)) for shape in ((5, 3), (5, 2)))
    return lambda params: backend64.functional.mean_squared_error(model(inputs, params=params), targets)


def test_all_forms_of_step_size_agree_and_keep_names_and_order(backend64, model, loss):
    update = backend64.adaptation.gradient_update_parameters
    params = backend64.parameters(model)
    expected = update(model, loss, params, step_size=RATE)
    forms = [
        backend64.array(RATE),
        dict.fromkeys(params, RATE),
        dict.fromkeys(reversed(params), backend64.array(RATE)),
        {name: backend64.array(np.full(each.shape, RATE)) for name, each in params.items()},
    ]
    for form in forms:
        found = update(model, loss, params, form)
        assert list(found) == list(expected) == list(params) == ["0.weight", "0.bias", "2.weight", "2.bias"]
        assert_identical(backend64.numpy(found), backend64.numpy(expected))


def test_each_name_has_its_own_step_size(backend64, model, loss):
    params = backend64.parameters(model)
    sizes = {name: 0.1 * number for number, name in enumerate(params)}
    found = backend64.adaptation.gradient_update_parameters(model, loss, params, sizes)
    gradients = backend64.gradient(loss, params)
    for name, size in sizes.items():
        assert_close(found[name], params[name] - size * gradients[name], "forward")


def test_parameters_default_to_the_models_own_which_stay(backend64, model, loss):
    before = {name: backend64.numpy(each).copy() for name, each in backend64.parameters(model).items()}
    update = backend64.adaptation.gradient_update_parameters
    found = backend64.numpy(update(model, loss, step_size=RATE))
    assert_identical(found, backend64.numpy(update(model, loss, backend64.parameters(model), RATE)))
    assert_identical(backend64.numpy(backend64.parameters(model)), before)
    assert_differs(found, before)


def test_steps_chain(backend64, model, loss):
    update, params = backend64.adaptation.gradient_update_parameters, backend64.parameters(model)
    losses = []
    for _ in range(20):
        losses.append(backend64.numpy(loss(params)).item())
        params = update(model, loss, params, RATE)
    assert losses == sorted(losses, reverse=True)


def test_a_callable_loss_that_ignores_a_parameter_leaves_it_as_it_is(backend64, model):
    params = backend64.parameters(model)
    found = backend64.adaptation.gradient_update_parameters(model, lambda p: (p["0.weight"] ** 2).sum(), params)
    assert_identical(backend64.numpy(found["2.bias"]), backend64.numpy(params["2.bias"]))
    assert_close(backend64.numpy(found["0.weight"]), np.zeros(params["0.weight"].shape), "forward")  # w − ½ · 2w


# Wrong arguments


def test_only_meta_modules_are_adapted(backend64, loss):
    for other in (backend64.plain_linear(3, 2), None):
        with pytest.raises(ValueError, match=rf"`model` must be a MetaModule, got {type(other).__name__}; build it"):
            backend64.adaptation.gradient_update_parameters(other, loss)


def test_a_step_size_for_every_parameter_and_no_other(backend64, model, loss):
    sizes = dict.fromkeys(backend64.parameters(model), RATE)
    update = backend64.adaptation.gradient_update_parameters
    with pytest.raises(ValueError, match=r"step_size.*'2\.bias' is missing"):
        update(model, loss, step_size={name: size for name, size in sizes.items() if name != "2.bias"})
    with pytest.raises(ValueError, match=r"step_size.*'2\.bais'.* did you mean '2\.bias'"):
        update(model, loss, step_size={**sizes, "2.bais": RATE})


def test_jax_differentiates_functions_only(jax_kit):
    model = jax_kit.layer("MetaLinear", 3, 2)
    with pytest.raises(
        TypeError, match=r"`loss` must be a function of the parameters, got .*; pass for example lambda"
    ):
        jax_kit.adaptation.gradient_update_parameters(model, jax_kit.array(1.0))


def test_jax_step_sizes_by_name_need_named_parameters(jax_kit):
    values = [jax_kit.array(1.0)]
    with pytest.raises(TypeError, match=r"`step_size` by name needs `params` to be a mapping.*, got list"):
        jax_kit.adaptation.sgd_update(values, values, {"a": 0.1})


# A loss that is a tensor, Torchmeta's form


class TorchLinear:
    """A two-parameter model, with leaves that need gradients."""

    def __init__(self, kit):
        self.torch, self.update = kit.torch, kit.adaptation.gradient_update_parameters
        self.model = kit.layer("MetaLinear", 3, 2)
        rng = np.random.default_rng(1)
        self.inputs, self.targets = kit.array(rng.standard_normal((5, 3))), kit.array(rng.standard_normal((5, 2)))

    def loss(self, params=None):
        return ((self.model(self.inputs, params=params) - self.targets) ** 2).mean()

    def meta_gradient(self, params):
        return self.torch.autograd.grad(self.loss(params), list(self.model.parameters()))


@pytest.mark.parametrize("first_order", [False, True])
def test_tensor_and_callable_losses_agree_through_two_steps(torch_kit, first_order):
    linear = TorchLinear(torch_kit)
    by_value = by_function = None
    for _ in range(2):
        by_value = linear.update(linear.model, linear.loss(by_value), by_value, RATE, first_order)
        by_function = linear.update(linear.model, linear.loss, by_function, RATE, first_order)
    assert_close(by_value, by_function, "forward")
    for one, other in zip(linear.meta_gradient(by_value), linear.meta_gradient(by_function), strict=True):
        assert_close(one, other, "gradient")


def test_tensor_loss_differs_between_first_and_second_order(torch_kit):
    linear = TorchLinear(torch_kit)
    exact, first_order = (
        linear.meta_gradient(linear.update(linear.model, linear.loss(), step_size=RATE, first_order=first))
        for first in (False, True)
    )
    for one, other in zip(first_order, exact, strict=True):
        assert_differs(one, other)


def test_a_learned_step_size_takes_gradients_of_a_tensor_loss(torch_kit):
    linear = TorchLinear(torch_kit)
    rate = linear.torch.tensor(RATE, dtype=linear.torch.float64, requires_grad=True)
    by_value = linear.loss(linear.update(linear.model, linear.loss(), step_size=rate))
    (found,) = linear.torch.autograd.grad(by_value, rate)
    expected = torch_kit.gradient(
        lambda size: linear.loss(linear.update(linear.model, linear.loss, step_size=size)), rate.detach()
    )
    assert_close(found, expected, "gradient")


def test_a_tensor_loss_must_depend_on_every_parameter(torch_kit):
    linear = TorchLinear(torch_kit)
    params = {**torch_kit.parameters(linear.model), "unused": linear.torch.ones(1, requires_grad=True)}
    with pytest.raises(ValueError, match=r"`loss` does not depend on parameter 'unused', so it cannot be adapted"):
        linear.update(linear.model, linear.loss(), params)


def test_a_tensor_loss_of_other_parameters_is_an_error(torch_kit):
    linear = TorchLinear(torch_kit)
    adapted = linear.update(linear.model, linear.loss(), step_size=RATE)
    with pytest.raises(ValueError, match=r"`loss` does not depend on parameter 'weight'.* with these `params`"):
        linear.update(linear.model, linear.loss(), adapted)
