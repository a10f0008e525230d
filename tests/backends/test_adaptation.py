"""The inner loop: one step of gradient descent that gradients flow through, and whole loops."""

import numpy as np
import pytest
from helpers import every
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


def test_params_of_another_model_are_an_error(torch_kit):
    linear = TorchLinear(torch_kit)
    params = {**torch_kit.parameters(linear.model), "unused": linear.torch.ones(1, requires_grad=True)}
    with pytest.raises(ValueError, match=r"`params` holds 'unused', which is no parameter of MetaLinear"):
        linear.update(linear.model, linear.loss(), params)
    with pytest.raises(ValueError, match=r"'bias' is missing"):
        linear.update(linear.model, linear.loss, {"weight": params["weight"]})


def test_a_tensor_loss_of_other_parameters_is_an_error(torch_kit):
    linear = TorchLinear(torch_kit)
    adapted = linear.update(linear.model, linear.loss(), step_size=RATE)
    with pytest.raises(ValueError, match=r"`loss` does not depend on parameter 'weight'.* with these `params`"):
        linear.update(linear.model, linear.loss(), adapted)


# A selection of the parameters


HEAD = ["2.weight", "2.bias"]


@pytest.mark.parametrize("names", ["2.*", ("2.weight", "2.bias"), lambda name: name.startswith("2")])
def test_only_selected_parameters_adapt(backend64, model, loss, names):
    update, params = backend64.adaptation.gradient_update_parameters, backend64.parameters(model)
    found, everything = update(model, loss, params, RATE, names=names), update(model, loss, params, RATE)
    assert list(found) == list(params)
    for name, value in params.items():
        if name in HEAD:
            assert_close(found[name], everything[name], "forward")
            assert_differs(found[name], value)
        else:
            assert found[name] is value


def test_outer_gradients_reach_what_does_not_adapt(backend64, model, loss):
    update, params = backend64.adaptation.gradient_update_parameters, backend64.parameters(model)

    def outer(params, names):
        return loss(update(model, loss, params, RATE, names=names))

    head_only, everything = (backend64.gradient(lambda p, a=a: outer(p, a), params) for a in ("2.*", None))
    for name in params:
        assert backend64.numpy(head_only[name]).any()
    assert_differs(head_only["0.weight"], everything["0.weight"])


def test_a_step_size_by_name_is_for_the_selected_parameters(backend64, model, loss):
    update, params = backend64.adaptation.gradient_update_parameters, backend64.parameters(model)
    found = update(model, loss, params, dict.fromkeys(HEAD, RATE), names="2.*")
    assert_identical(backend64.numpy(found), backend64.numpy(update(model, loss, params, RATE, names="2.*")))
    with pytest.raises(ValueError, match=r"`step_size` of the adapted part must hold every parameter, .2\.bias"):
        update(model, loss, params, {"2.weight": RATE}, names="2.*")
    with pytest.raises(ValueError, match=r"`step_size` holds '0\.weight', which is no parameter of the adapted part"):
        update(model, loss, params, dict.fromkeys(params, RATE), names="2.*")


def test_a_selection_must_match(backend64, model, loss):
    update = backend64.adaptation.gradient_update_parameters
    with pytest.raises(ValueError, match=r"`names` holds '3\.\*', which matches no parameter of MetaSequential; "):
        update(model, loss, names="3.*")
    with pytest.raises(ValueError, match="`names` selects no parameter of MetaSequential, got "):
        update(model, loss, names=lambda name: False)


def test_torch_parameters_that_do_not_adapt_may_be_frozen(torch_kit):
    linear = TorchLinear(torch_kit)
    linear.model.bias.requires_grad_(False)
    for loss in (linear.loss(), linear.loss):
        found = linear.update(linear.model, loss, step_size=RATE, names="weight")
        assert found["bias"] is linear.model.bias
        assert_differs(found["weight"], linear.model.weight)
    with pytest.raises(ValueError, match="parameter 'bias' does not require a gradient"):
        linear.update(linear.model, linear.loss())


# A partial mapping, said to be one


def test_parameters_are_completed_by_the_stored_ones(backend64, model):
    stored, other = backend64.parameters(model), backend64.array(np.ones(2))
    found = backend64.adaptation.complete_parameters(model, {"2.bias": other})
    assert list(found) == list(stored)
    assert found["2.bias"] is other
    assert every(found[name] is stored[name] for name in found if name != "2.bias")
    inputs = backend64.array(np.ones((1, 3)))
    assert_close(model(inputs, params=found), model(inputs) - stored["2.bias"] + other, "forward")


def test_parameters_are_not_completed_under_wrong_names(backend64, model):
    with pytest.raises(ValueError, match=r"`params` holds '2\.bais', which is no parameter of MetaSequential; did you"):
        backend64.adaptation.complete_parameters(model, {"2.bais": None})
    with pytest.raises(ValueError, match="`model` must be a MetaModule, got dict"):
        backend64.adaptation.complete_parameters({}, {})


# Whole inner loops


class Loop:
    """A two-layer model and one support set."""

    def __init__(self, kit, model):
        self.kit, self.model, self.params = kit, model, kit.parameters(model)
        rng = np.random.default_rng(0)
        self.task = [kit.array(rng.standard_normal(shape)) for shape in ((5, 3), (5, 2))]
        self.loss = kit.functional.mean_squared_error

    def adapt(self, *task, **options):
        options.setdefault("optimiser", self.kit.optimisers.sgd(RATE))
        if options.pop("first_order", False):
            options["adjoint"] = self.kit.adjoints.FirstOrder()
        return self.kit.adaptation.adapt(self.model, self.loss, *(task or self.task), **options)

    def loss_of(self, params, task=None):
        inputs, targets = task or self.task
        return self.loss(self.model(inputs, params=params), targets)

    def meta_gradient(self, **options):
        return self.kit.gradient(lambda p: self.loss_of(self.adapt(params=p, **options).params), self.params)


@pytest.fixture
def loop(backend64, model):
    return Loop(backend64, model)


@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("names", [None, "2.*"])
def test_a_loop_is_its_steps_one_after_another(loop, names, first_order):
    def by_hand(params):
        for _ in range(3):
            update = loop.kit.adaptation.gradient_update_parameters
            params = update(loop.model, loop.loss_of, params, RATE, first_order, names)
        return params

    options = {"steps": 3, "names": names, "first_order": first_order}
    found = loop.adapt(params=loop.params, **options)
    assert list(found.params) == list(loop.params)
    assert_close(found.params, by_hand(loop.params), "forward")
    expected = loop.kit.gradient(lambda params: loop.loss_of(by_hand(params)), loop.params)
    assert_close(loop.meta_gradient(**options), expected, "gradient")


def test_a_loop_starts_from_the_models_own_parameters_which_stay(loop):
    before = {name: loop.kit.numpy(each).copy() for name, each in loop.params.items()}
    found = loop.adapt(steps=2)
    assert_identical(loop.kit.numpy(found.params), loop.kit.numpy(loop.adapt(steps=2, params=loop.params).params))
    assert_identical(loop.kit.numpy(loop.kit.parameters(loop.model)), before)
    assert found.buffers == {}


def test_no_steps_change_nothing(loop):
    assert every(value is loop.params[name] for name, value in loop.adapt(steps=0, params=loop.params).params.items())


def test_a_loop_returns_what_does_not_adapt_as_it_was(loop):
    found = loop.adapt(
        steps=2, params=loop.params, names="2.*", optimiser=loop.kit.optimisers.adam({"2.weight": 0.1, "2.bias": 0.2})
    )
    assert every((found.params[name] is value) == (name not in HEAD) for name, value in loop.params.items())
    gradient = loop.meta_gradient(steps=2, names="2.*")
    assert every(loop.kit.numpy(each).any() for each in gradient.values())


def test_first_order_loops_have_another_gradient(loop):
    first_order, exact = (
        loop.meta_gradient(steps=2, first_order=True),
        loop.meta_gradient(steps=2),
    )
    assert_differs(first_order, exact)


def test_a_learned_rate_has_its_gradient_in_first_order_too(loop):
    def outer(rate, first_order):
        optimiser = loop.kit.optimisers.sgd(rate)
        return loop.loss_of(loop.adapt(params=loop.params, optimiser=optimiser, first_order=first_order).params)

    found, expected = (loop.kit.gradient(lambda r, f=f: outer(r, f), loop.kit.array(RATE)) for f in (True, False))
    assert_close(found, expected, "gradient")


def vectorised(kit, function):
    return kit.torch.func.vmap(function) if kit.name == "torch" else kit.jax.vmap(function)


def test_vectorised_loops_are_loops_one_by_one(loop):
    rng = np.random.default_rng(4)
    tasks = [rng.standard_normal(shape) for shape in ((2, 5, 3), (2, 5, 2))]
    clipped = loop.kit.optimisers.chain(loop.kit.optimisers.clip_by_global_norm(0.3), loop.kit.optimisers.adam(0.1))

    def adapted(*task):
        return loop.adapt(*task, params=loop.params, steps=2, optimiser=clipped).params

    adapted = loop.kit.compile(adapted)
    found = vectorised(loop.kit, adapted)(*map(loop.kit.array, tasks))
    for number in range(2):
        expected = adapted(*(loop.kit.array(each[number]) for each in tasks))
        assert_close({name: value[number] for name, value in found.items()}, expected, "gradient")


def test_jax_loops_take_any_transformation_of_optax(jax_kit):
    optax = pytest.importorskip("optax")
    with jax_kit.jax.enable_x64(True):
        layers = [jax_kit.layer("MetaLinear", 3, 4), jax_kit.relu, jax_kit.layer("MetaLinear", 4, 2)]
        loop = Loop(jax_kit, jax_kit.layer("MetaSequential", *layers))
        found = loop.adapt(steps=3, optimiser=optax.adam(0.1)).params
        assert_close(found, loop.adapt(steps=3, optimiser=jax_kit.optimisers.adam(0.1)).params, "gradient")
        for other in (optax.rmsprop(0.1), optax.chain(optax.add_decayed_weights(0.1), optax.sgd(0.1))):
            assert_differs(loop.adapt(optimiser=other).params, loop.params)


def test_jax_loops_compile(jax_kit):
    with jax_kit.float64():
        layers = [jax_kit.layer("MetaLinear", 3, 4), jax_kit.relu, jax_kit.layer("MetaLinear", 4, 2)]
        loop = Loop(jax_kit, jax_kit.layer("MetaSequential", *layers))
        compiled = jax_kit.jax.jit(lambda params, *task: loop.adapt(*task, params=params, steps=2).params)
        assert_close(compiled(loop.params, *loop.task), loop.adapt(steps=2).params, "forward")


@pytest.mark.parametrize("first_order", [False, True])
def test_torch_loops_leave_no_graph_where_none_is_wanted(torch_kit, first_order):
    layers = [torch_kit.layer("MetaLinear", 3, 4), torch_kit.relu, torch_kit.layer("MetaLinear", 4, 2)]
    loop = Loop(torch_kit, torch_kit.layer("MetaSequential", *layers))
    with torch_kit.torch.no_grad():
        without = loop.adapt(steps=3, first_order=first_order).params
    assert every(not value.requires_grad for value in without.values())
    assert_identical(torch_kit.numpy(without), torch_kit.numpy(loop.adapt(steps=3).params))


def test_torch_loops_work_with_plain_autograd(torch_kit):
    layers = [torch_kit.layer("MetaLinear", 3, 4), torch_kit.relu, torch_kit.layer("MetaLinear", 4, 2)]
    loop = Loop(torch_kit, torch_kit.layer("MetaSequential", *layers))
    for first_order in (False, True):
        outer = loop.loss_of(loop.adapt(steps=2, first_order=first_order).params)
        found = torch_kit.torch.autograd.grad(outer, list(loop.params.values()))
        expected = loop.meta_gradient(steps=2, first_order=first_order)
        assert_close(dict(zip(loop.params, found, strict=True)), expected, "gradient")


# Running statistics in a loop


class Images:
    """Batch normalisation, then an affine map of each pixel, on one support set whose statistics are its own."""

    def __init__(self, kit):
        self.kit = kit
        self.model = kit.layer("MetaSequential", kit.layer("MetaBatchNorm2d", 2), kit.layer("MetaConv2d", 2, 1, 1))
        rng = np.random.default_rng(6)
        self.images = 3.0 + 2.0 * rng.standard_normal((4, 3, 3, 2))
        self.task = [kit.images(self.images), kit.images(rng.standard_normal((4, 3, 3, 1)))]
        self.buffers = dict(self.model.meta_named_buffers())
        self.names = [name for name in self.buffers if name.endswith(("mean", "var"))]

    def shifted(self, by):
        """Statistics that are not the initial ones."""
        return {name: value + by if name in self.names else value for name, value in self.buffers.items()}

    def adapt(self, **options):
        optimiser = self.kit.optimisers.sgd(RATE)
        loss = self.kit.functional.mean_squared_error
        return self.kit.adaptation.adapt(self.model, loss, *self.task, optimiser=optimiser, **options)

    def values(self, buffers):
        return {name: self.kit.numpy(buffers[name]).copy() for name in self.buffers}


@pytest.fixture
def images(backend64):
    return Images(backend64)


def test_statistics_of_the_batch_neither_use_nor_change_the_running_ones(images):
    before = images.values(images.buffers)
    found = images.adapt(steps=2)
    given = images.shifted(1.0)
    other = images.adapt(steps=2, buffers=given)
    assert_identical(images.kit.numpy(found.params), images.kit.numpy(other.params))
    assert_identical(images.values(found.buffers), before)
    assert every(other.buffers[name] is given[name] for name in given)
    assert_identical(images.values(dict(images.model.meta_named_buffers())), before)


def test_frozen_statistics_are_used_and_stay(images):
    given = images.shifted(1.0)
    found = images.adapt(steps=2, buffers=given, batch_norm="frozen")
    assert every(found.buffers[name] is given[name] for name in given)
    assert_differs(found.params, images.adapt(steps=2, buffers=given).params)
    assert_differs(found.params, images.adapt(steps=2, batch_norm="frozen").params)
    images.model.eval()
    assert_close(found.params, images.adapt(steps=2, buffers=given).params, "forward")


def test_every_step_has_its_own_statistics(images):
    steps = images.kit.adaptation.per_step_buffers(images.model, 2)
    given = [images.shifted(float(number)) for number in range(len(steps))]
    found = images.adapt(steps=2, buffers=given, batch_norm="per-step")
    assert_close(found.params, images.adapt(steps=2).params, "forward")  # each step normalises by its batch
    mean, var = images.names
    for number in range(2):
        moved = {mean: images.images.mean((0, 1, 2)), var: images.images.var((0, 1, 2), ddof=1)}
        expected = {name: 0.9 * images.kit.numpy(given[number][name]) + 0.1 * moved[name] for name in moved}
        assert_close({name: found.buffers[number][name] for name in moved}, expected, "forward")
    assert len(found.buffers) == 3
    assert_identical(images.values(found.buffers[2]), images.values(given[2]))


def test_in_evaluation_mode_every_step_normalises_by_its_own_statistics(images):
    images.model.eval()
    given = [images.shifted(float(number)) for number in range(3)]

    def adapted(*changes):
        return images.adapt(steps=2, buffers=list(changes), batch_norm="per-step")

    found = adapted(*given)
    for before, after in zip(given, found.buffers, strict=True):
        assert_identical(images.values(after), images.values(before))
    for number, matters in ((0, True), (1, True), (2, False)):
        changed = adapted(*given[:number], images.shifted(7.0), *given[number + 1 :])
        if matters:
            assert_differs(changed.params, found.params)
        else:
            assert_identical(images.kit.numpy(changed.params), images.kit.numpy(found.params))


def test_statistics_per_step_are_independent_copies(torch_kit, backend64):
    for kit in (torch_kit, backend64):
        images = Images(kit)
        copies = kit.adaptation.per_step_buffers(images.model, 2)
        assert len(copies) == 3
        for each in copies:
            assert_identical(images.values(each), images.values(images.buffers))
            assert every(each[name] is not images.buffers[name] for name in each)
    images = Images(torch_kit)
    first, second = torch_kit.adaptation.per_step_buffers(images.model, 1)
    first[images.names[0]] += 1
    assert_identical(images.values(second), images.values(images.buffers))


# Wrong arguments of a loop


WRONG = {
    "policy": ({"batch_norm": "none"}, "`batch_norm` must be 'batch' or 'frozen' or 'per-step', got 'none'"),
    "steps": ({"steps": -1}, "`steps` must be an integer of at least 0, got -1"),
    "steps, no integer": ({"steps": 1.0}, r"`steps` must be an integer of at least 0, got 1\.0"),
    "names": ({"names": "3.*"}, r"`names` holds '3\.\*', which matches no parameter of MetaSequential"),
    "missing": ({"params": {}}, r"`params` of MetaSequential must hold every parameter, '0\.weight' is missing"),
    "one mapping for all steps": (
        {"batch_norm": "per-step", "buffers": {}},
        r'`buffers` must be a list of steps \+ 1 = 2 mappings with batch_norm="per-step", got dict; make it with',
    ),
    "own buffers for all steps": ({"batch_norm": "per-step"}, r"2 mappings .*, got NoneType; make it with"),
    "too few": (
        {"batch_norm": "per-step", "buffers": [{}, {}], "steps": 2},
        r"= 3 mappings .*, got 2 of them; make it with per_step_buffers\(model, 2\)",
    ),
    "a list without steps": (
        {"buffers": [{}, {}]},
        "`buffers` must be a mapping .*, got list; a list of mappings goes",
    ),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_of_a_loop(loop, case):
    options, message = WRONG[case]
    with pytest.raises(ValueError, match=message):
        loop.adapt(**options)


def test_a_loop_needs_a_meta_module_a_scalar_loss_and_an_optimiser(loop):
    adapt, optimiser = loop.kit.adaptation.adapt, loop.kit.optimisers.sgd(RATE)
    with pytest.raises(
        TypeError, match=r"`model` must be a module or a function apply\(params, inputs\), got NoneType"
    ):
        adapt(None, loop.loss, *loop.task, optimiser=optimiser)
    with pytest.raises(ValueError, match=r"`loss` must be a scalar, got shape \(5, 2\); average it over the examples"):
        adapt(loop.model, lambda outputs, targets: outputs - targets, *loop.task, optimiser=optimiser)
    for other in (0.1, type(optimiser), None):
        with pytest.raises(
            TypeError, match=r"`optimiser` must be a pair of functions \(init, update\), got .*; make one"
        ):
            loop.adapt(optimiser=other)


def test_statistics_per_step_need_a_meta_module_and_a_count(loop):
    with pytest.raises(ValueError, match="`model` must be a MetaModule, got NoneType"):
        loop.kit.adaptation.per_step_buffers(None, 1)
    with pytest.raises(ValueError, match="`steps` must be an integer of at least 0, got -1"):
        loop.kit.adaptation.per_step_buffers(loop.model, -1)
