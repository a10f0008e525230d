"""Every algorithm of the table: both backends agree, and each record tells the truth about its algorithm."""

import functools
import warnings
from dataclasses import fields, replace

import numpy as np
import oracle
import pytest
from tolerances import assert_close, assert_differs, assert_identical

from backends.kits import make_kit
from backends.problems import PROBLEMS
from metabridge.adaptation.task_maps import Chunked
from metabridge.configs import ALGORITHMS, OptimiserConfig
from metabridge.networks.layers import Chain
from metabridge.networks.parts import join_parts, split_parts
from metabridge.toy.helpers import sinusoid

EVERY = pytest.mark.parametrize("name", ALGORITHMS)


@functools.cache
def problem(name, **changes):
    """The vectors problem under an algorithm."""
    base, record = PROBLEMS["vectors"], ALGORITHMS[name]
    choices = {each.name for each in fields(record)}
    usual = {"inner_steps": 2, "inner_lr": 0.3, "iterations": 60}
    algorithm = record(**{key: value for key, value in usual.items() if key in choices}, **changes)
    model = replace(base.run.model, outputs=None) if algorithm.embeds else base.run.model
    optimiser = OptimiserConfig(learning_rate=0.02)
    return replace(base, run=replace(base.run, model=model, algorithm=algorithm, optimiser=optimiser))


def start(kit, chosen, dtype="float64"):
    """A learner and a meta-batch on its device."""
    backend = kit.backend.Backend("cpu", dtype)
    return backend.learner(chosen.run, chosen.perturbed()), backend.receive(chosen.batch())


@functools.cache
def computed(kind, name, **changes):
    """Loss and neutral meta-gradient, once for all tests."""
    learner, batch = start(make_kit(kind), problem(name, **changes))
    return learner.meta_gradient(batch)


@EVERY
def test_both_backends_agree(torch_kit, jax_kit, name):
    (loss, gradient), (other_loss, other) = (computed(kit.name, name) for kit in (torch_kit, jax_kit))
    assert_close(loss, other_loss, "forward")
    assert_close(gradient, other, "meta_gradient_mlp")


@pytest.mark.parametrize("name", ["maml", "fomaml", "anil", "meta-sgd"])
def test_gradient_based_algorithms_are_those_of_the_reference(backend, name):
    chosen = problem(name)
    expected = oracle.maml(
        chosen.run.model, chosen.run.algorithm, oracle.cross_entropy, chosen.perturbed(), chosen.batch()
    )
    loss, gradient = computed(backend.name, name)
    assert_close(loss, expected[0], "forward")
    assert_close(gradient, expected[1], "meta_gradient_mlp")


@EVERY
def test_a_gradient_that_is_said_to_be_one_agrees_with_central_differences(backend, name):
    chosen = problem(name)
    learner, batch = start(backend, chosen)
    at, gradient = chosen.perturbed(), computed(backend.name, name)[1]
    rng, slopes, differences = np.random.default_rng(0), [], []
    for _ in range(4):
        direction = {key: rng.standard_normal(value.shape) for key, value in at.items()}
        ahead, behind = ({key: at[key] + sign * 1e-5 * direction[key] for key in at} for sign in (1, -1))
        differences.append((learner.loss_at(ahead, batch) - learner.loss_at(behind, batch)) / 2e-5)
        slopes.append(sum((gradient[key] * direction[key]).sum() for key in at))
    if chosen.run.algorithm.follows_gradient:
        assert_close(np.array(slopes), np.array(differences), "finite_difference")
    else:
        assert_differs(np.array(slopes), np.array(differences))


@EVERY
def test_second_derivatives_are_there_where_they_are_said_to_be(backend, name):
    algorithm = problem(name).run.algorithm
    assert algorithm.omits_second_order == (name == "fomaml")
    if algorithm.has_second_order or algorithm.omits_second_order:
        assert algorithm.with_second_order().has_second_order
        assert algorithm.without_second_order().omits_second_order
    else:
        with pytest.raises(ValueError, match="leaves out no second derivatives"):
            algorithm.with_second_order()
    if algorithm.omits_second_order:
        assert_differs(computed(backend.name, name)[1], computed(backend.name, "maml")[1])
    if algorithm.has_second_order:
        shortened = algorithm.without_second_order()
        assert not shortened.has_second_order
        choices = [each.name for each in fields(shortened)]
        changes = {
            key: getattr(shortened, key) for key in choices if getattr(shortened, key) != getattr(algorithm, key)
        }
        assert_differs(computed(backend.name, name)[1], computed(backend.name, name, **changes)[1])
    elif name == "fomaml":
        assert_identical(computed(backend.name, name)[1], computed(backend.name, "maml", first_order=True)[1])
    else:
        with pytest.raises(ValueError, match="has no second derivatives that could be left out"):
            algorithm.without_second_order()


@EVERY
def test_steps_may_be_chosen_where_there_are_inner_steps(backend, name):
    chosen = problem(name)
    learner, batch = start(backend, chosen)
    outputs = learner.predict(batch)
    assert outputs.shape == (3, 9, 3)
    if chosen.run.algorithm.has_inner_steps:
        assert_differs(learner.predict(batch, 0), outputs)
        assert_identical(learner.predict(batch, 2), outputs)
    else:
        with pytest.raises(ValueError, match=r"`steps` must be None: .* no inner steps, got 2"):
            learner.predict(batch, 2)


@EVERY
def test_training_lowers_the_loss_and_reaches_every_parameter(backend, name):
    learner, batch = start(backend, problem(name))
    if name == "reptile":  # it learns from support sets alone
        batch = dict.fromkeys(batch, batch["train"])
    before = learner.parameters()
    losses = [float(learner.step(batch)) for _ in range(40)]
    assert losses[-1] < 0.9 * losses[0]
    for key, value in learner.parameters().items():
        assert_differs(value, before[key])


@pytest.mark.parametrize(
    ("name", "task_map"),
    # Two algorithms show what the task maps do. Of the others, which vectorise above, the full run tries the loop.
    [(name, task_map) for name in ("maml", "protonet") for task_map in ("vectorised", "sequential", Chunked(2))]
    + [
        pytest.param(name, "sequential", marks=pytest.mark.slow)
        for name in ALGORITHMS
        if name not in ("maml", "protonet")
    ],
    ids=str,
)
def test_every_task_map_gives_the_same(backend64, name, task_map):
    chosen, kit = problem(name), backend64
    run, loss = chosen.run, kit.functional.cross_entropy
    modules = {part: kit.network(table) for part, table in run.parts.items() if isinstance(table, Chain)}
    algorithm = kit.algorithms.ALGORITHMS[name].from_config(run.algorithm, modules, loss, run.episode.ways, task_map)
    params = split_parts(kit.weights.from_neutral(chosen.perturbed(), run.layers), run.parts)
    batch = kit.backend.Backend("cpu", "float64").receive(chosen.batch())
    value, gradient = algorithm.meta_gradient(params, batch)
    expected_value, expected = computed(kit.name, name)
    assert_close(value, expected_value, "forward")
    assert_close(kit.weights.to_neutral(join_parts(gradient, run.parts), run.layers), expected, "meta_gradient_mlp")
    assert_close(algorithm.loss(params, batch), expected_value, "forward")
    assert algorithm.predict(params, batch).shape == (3, 9, 3)


def test_anil_adapts_the_head_alone(backend64):
    chosen, kit = problem("anil"), backend64
    params = kit.weights.from_neutral(chosen.perturbed(), chosen.run.model)
    batch = kit.backend.Backend("cpu", "float64").receive(chosen.batch())
    anil = kit.algorithms.ANIL(
        kit.network(chosen.run.model), kit.functional.cross_entropy, optimiser=kit.optimisers.sgd(0.3)
    )
    adapted = anil.adapt(params, *(each[0] for each in batch["train"]))
    for name, value in adapted.items():
        assert (value is params[name]) == (not name.startswith("head."))
    tail = kit.algorithms.ANIL(anil.model, anil.loss_function, optimiser=anil.optimiser, names="tail.*")
    with pytest.raises(ValueError, match=r"`names` holds 'tail\.\*', which matches no parameter"):
        tail.loss(params, batch)


def linear_tasks(rng):
    """Two tasks of a linear model: support and query inputs `(2, n, 3)`, targets `(2, n, 1)`."""
    return {
        name: (rng.standard_normal((2, n, 3)), rng.standard_normal((2, n, 1)))
        for name, n in (("train", 5), ("test", 4))
    }


def implicit_gradient(weight, tasks, proximal):
    """Closed form for the mean squared error: φ = (H + λI)⁻¹ (2Xᵀy/n + λθ), g = λ (H + λI)⁻¹ ∇L_q(φ)."""
    total = np.zeros_like(weight)
    for (support, targets), (queries, wanted) in zip(*(zip(*tasks[key], strict=True) for key in tasks), strict=True):
        operator = 2 * support.T @ support / len(support) + proximal * np.eye(3)
        after = np.linalg.solve(operator, 2 * support.T @ targets / len(support) + proximal * weight)
        slope = 2 * queries.T @ (queries @ after - wanted) / len(queries)
        total += proximal * np.linalg.solve(operator, slope) / 2
    return total


def test_the_implicit_gradient_of_a_quadratic_is_the_closed_form(backend64):
    """Rajeswaran et al. 2019, equation 6; the derivative of any converged path, however long."""
    kit, rng = backend64, np.random.default_rng(0)
    tasks, weight = linear_tasks(rng), rng.standard_normal((3, 1))
    batch = {key: tuple(kit.array(each) for each in pair) for key, pair in tasks.items()}
    params = {"w": kit.array(weight)}
    imaml = kit.algorithms.ImplicitMAML(
        lambda params, inputs: inputs @ params["w"],
        kit.functional.mean_squared_error,
        proximal=2.0,
        cg_steps=3,
        optimiser=kit.optimisers.sgd(0.1),
        steps=400,
    )
    _, gradient = imaml.meta_gradient(params, batch)
    expected = implicit_gradient(weight, tasks, 2.0)
    assert np.abs(expected).max() > 0.1
    assert_close(gradient["w"], expected, "gradient")
    support = tuple(each[0] for each in batch["train"])
    assert float(imaml.residual(params, *support)) < 1e-12
    with pytest.raises(ValueError, match="`names` must be None: the pull to θ is that of all parameters, got 'w'"):
        kit.algorithms.ImplicitMAML(imaml.model, imaml.loss_function, optimiser=imaml.optimiser, names="w")
    imaml.steps = 1
    assert float(imaml.residual(params, *support)) > 1e-3
    assert_differs(kit.numpy(imaml.meta_gradient(params, batch)[1]["w"]), expected)


def test_conjugate_gradients_solve_a_linear_system(backend64):
    rng = np.random.default_rng(1)
    root, right = rng.standard_normal((4, 4)), rng.standard_normal(4)
    matrix = root @ root.T + np.eye(4)
    operator = backend64.array(matrix)
    solve = backend64.solvers.conjugate_gradient
    found = solve(lambda tree: {"x": operator @ tree["x"]}, {"x": backend64.array(right)}, 4)["x"]
    assert_close(found, np.linalg.solve(matrix, right), "gradient")
    assert_differs(
        backend64.numpy(solve(lambda x: operator @ x, backend64.array(right), 2)), np.linalg.solve(matrix, right)
    )
    zero = backend64.array(np.zeros(4))
    assert_identical(backend64.numpy(solve(lambda x: operator @ x, zero, 4)), np.zeros(4))


def test_prototypes_are_class_means_and_logits_their_distances(backend64):
    """Snell et al. 2017, equations 1 and 2, in NumPy; labels in any order."""
    rng = np.random.default_rng(0)
    support, labels = rng.standard_normal((2, 6, 4)), np.array([[2, 0, 1, 1, 0, 2], [0, 0, 1, 2, 2, 1]])
    queries, weight = rng.standard_normal((2, 5, 4)), rng.standard_normal((4, 3))
    expected = []
    for inputs, targets, points in zip(support, labels, queries, strict=True):
        centres = np.stack([(inputs[targets == c] @ weight).mean(0) for c in range(3)])
        expected.append(-(((points @ weight)[:, None] - centres[None]) ** 2).sum(-1))
    array = backend64.array
    protonet = backend64.algorithms.Prototypical(lambda params, inputs: inputs @ params["w"], ways=3)
    batch = {"train": (array(support), array(labels)), "test": (array(queries), array(np.zeros((2, 5), np.int64)))}
    assert_close(protonet.predict({"w": array(weight)}, batch), np.stack(expected), "forward")


def test_the_prototype_of_a_class_without_examples_is_zero(backend64):
    array = backend64.array
    found = backend64.functional.get_prototypes(array(np.ones((2, 4, 3))), array(np.array([[0, 0, 2, 2]] * 2)), 3)
    assert_identical(backend64.numpy(found)[:, 1], np.zeros((2, 3)))
    assert_identical(backend64.numpy(found)[:, 2], np.ones((2, 3)))


def test_distances_need_as_many_features(backend64):
    array = backend64.array
    with pytest.raises(ValueError, match=r"`centres` must have 3 features like `points`, got 4"):
        backend64.functional.squared_distances(array(np.ones((2, 3))), array(np.ones((5, 4))))


# Any model


def test_plain_modules_and_functions_are_models(backend64):
    """A MetaModule, the framework's own module and a pure function of the same numbers have the same gradient."""
    kit, rng = backend64, np.random.default_rng(0)
    plain = kit.plain_linear(4, 3)
    arrays = [kit.array(rng.standard_normal((2, 6, size))) for size in (4, 3, 4, 3)]
    batch = {"train": tuple(arrays[:2]), "test": tuple(arrays[2:])}
    options = {"optimiser": kit.optimisers.sgd(0.1), "steps": 2}
    of_module = kit.algorithms.MAML(plain, kit.functional.mean_squared_error, **options)
    params = dict(of_module.model.meta_named_parameters())
    value, gradient = of_module.meta_gradient(params, batch)
    kernel, bias = next(name for name in params if name != "bias"), "bias"
    transposed = kit.name == "torch"

    def apply(params, inputs):
        return inputs @ (params[kernel].T if transposed else params[kernel]) + params[bias]

    of_function = kit.algorithms.MAML(apply, kit.functional.mean_squared_error, **options)
    other_value, other = of_function.meta_gradient(params, batch)
    assert_close(other_value, value, "forward")
    assert_close(kit.numpy(other), kit.numpy(gradient), "gradient")


def test_what_is_no_model_is_refused(backend):
    sgd = backend.optimisers.sgd(0.1)
    with pytest.raises(TypeError, match=r"`model` must be a module or a function apply\(params, inputs\), got int"):
        backend.algorithms.MAML(3, backend.functional.cross_entropy, optimiser=sgd)
    module_class = type(backend.plain_linear(2, 2))
    with pytest.raises(TypeError, match=r"`model` must be an instance, got the class Linear; pass Linear\(…\)"):
        backend.algorithms.MAML(module_class, backend.functional.cross_entropy, optimiser=sgd)
    with pytest.raises(ValueError, match=r"`task_map` must be 'auto', .*, got 'fast'"):
        backend.algorithms.MAML(lambda p, x: x, backend.functional.cross_entropy, optimiser=sgd, task_map="fast")
    with pytest.raises(TypeError, match=r"`optimiser` must be a pair of functions \(init, update\)"):
        backend.algorithms.MAML(lambda p, x: x, backend.functional.cross_entropy, optimiser=0.1)
    with pytest.raises(ValueError, match=r"`ways` must be an integer of at least 2, got 1"):
        backend.algorithms.Prototypical(lambda p, x: x, ways=1)
    with pytest.raises(NotImplementedError, match="Algorithm must define task_loss"):
        backend.algorithms.Algorithm(lambda p, x: x).task_loss({}, {})


def test_what_is_no_meta_batch_is_refused(backend):
    array, loss = backend.array, backend.functional.mean_squared_error
    maml = backend.algorithms.MAML(lambda p, x: x * p["w"], loss, optimiser=backend.optimisers.sgd(0.1))
    params = {"w": array(np.float32(1))}

    def pair(inputs, targets):
        return array(np.ones(inputs, np.float32)), array(np.ones(targets, np.float32))

    one_task = [
        (pair((3,), (3,)), pair((3,), (3,))),
        (pair((10, 1), (10, 1)), pair((10, 1), (10, 1))),  # which would pass for ten tasks
        (pair((10, 8, 8, 3), (10, 1)), pair((10, 8, 8, 3), (10, 1))),
    ]
    sine = sinusoid(shots=2).episodes([0, 1])
    uneven = {"train": pair((2, 3, 1), (2, 3, 1)), "test": pair((4, 3, 1), (4, 3, 1))}
    for call in (maml.loss, maml.meta_gradient, maml.predict):
        for train, test in one_task:
            with pytest.raises(ValueError, match=r"`batch\['train'\]` must be inputs .* B tasks, .*; write x\[None\]"):
                call(params, {"train": train, "test": test})
        with pytest.raises(ValueError, match="`batch` must have equally many tasks in all its arrays, at least"):
            call(params, uneven)
        with pytest.raises(ValueError, match="`batch` must have equally many tasks in all its arrays, at least"):
            call(params, {name: pair((0, 3, 1), (0, 3, 1)) for name in ("train", "test")})
        with pytest.raises(ValueError, match=r"`batch` must be a mapping split → \(inputs, targets\), got tuple"):
            call(params, pair((2, 3, 1), (2, 3, 1)))
        with pytest.raises(
            ValueError,
            match=rf"must hold arrays of {backend}_backend, got numpy\.ndarray in EpisodeBatch; .* to_backend\(batch\)",
        ):
            call(params, sine)
        call(params, backend.data.to_backend(sine))


def test_parameters_without_a_gradient_go_along(backend64):
    """Integers, and arrays without entries; a model may have no parameters at all."""
    kit, rng = backend64, np.random.default_rng(0)
    batch = {part: tuple(kit.array(rng.standard_normal((3, 4, 2))) for _ in range(2)) for part in ("train", "test")}
    params = {"a": np.full(2, 1.5), "n": np.array(1), "empty": np.zeros((0, 2))}
    params = {name: kit.array(value) for name, value in params.items()}
    optimiser = kit.optimisers.chain(kit.optimisers.clip_by_global_norm(1.0), kit.optimisers.adam(0.1))
    made = functools.partial(kit.algorithms.MAML, loss=kit.functional.mean_squared_error, optimiser=optimiser)
    maml = made(lambda p, inputs: inputs * p["a"] + p["a"][p["n"]] + p["empty"].sum())
    gradient = maml.meta_gradient(params, batch)[1]
    assert gradient["n"] is None
    assert kit.numpy(gradient["a"]).all()
    assert kit.numpy(gradient["empty"]).shape == (0, 2)
    adapted = maml.adapt(params, *(each[0] for each in batch["train"]))
    assert adapted["n"] is params["n"]
    assert_differs(adapted["a"], params["a"])
    for task_map in ("vectorised", "sequential"):
        without = made(lambda p, inputs: inputs, task_map=task_map)
        loss, gradient = without.meta_gradient({}, batch)
        assert gradient == {}
        assert_close(loss, ((kit.numpy(batch["test"][0]) - kit.numpy(batch["test"][1])) ** 2).mean(), "forward")


@pytest.mark.parametrize("task_map", ["vectorised", "sequential"])
def test_a_task_loss_must_be_a_scalar(backend, task_map):
    class Wrong(backend.algorithms.Algorithm):
        def task_loss(self, params, task):
            return self.result(task["test"][0][:, 0] * params["w"])

    one = backend.array(np.ones((2, 3, 1), np.float32))
    batch = {"train": (one, one), "test": (one, one)}
    results = {
        r"got shape \(3,\); average it over the examples": lambda values: values,
        "got None; return the loss": lambda values: None,
        "array, got tuple; return nothing else": lambda values: (values.mean(), values),
    }
    for message, result in results.items():
        algorithm = Wrong(lambda p, x: x, task_map)
        algorithm.result = result
        for name in ("loss", "meta_gradient"):
            with pytest.raises(ValueError, match=f"`task_loss` must be a scalar.*{message}"):
                getattr(algorithm, name)({"w": backend.array(np.float32(1))}, batch)


def test_optimisers_of_another_framework_are_refused(torch_kit, jax_kit):
    """They would compute with its arrays, or lose the graph."""
    optax = pytest.importorskip("optax")
    foreign = [(torch_kit, optax.adam(0.1), "optax"), (jax_kit, torch_kit.optimisers.adam(0.1), "torch_backend")]
    for kit, optimiser, package in foreign:
        message = f"`optimisers?` must compute with the backend's own arrays, got one of {package}; make one with sgd"
        with pytest.raises(TypeError, match=message):
            kit.algorithms.MAML(lambda p, x: x, kit.functional.mean_squared_error, optimiser=optimiser)
        loss = kit.functional.mean_squared_error
        with pytest.raises(TypeError, match=message):
            kit.adaptation.adapt(lambda p, x: x, loss, None, None, optimiser=optimiser, params={})
        with pytest.raises(TypeError, match=message):
            kit.optimisers.chain(optimiser)


def test_torch_params_are_tensors(torch_kit):
    torch, loss = torch_kit.torch, torch_kit.functional.mean_squared_error
    maml = torch_kit.algorithms.MAML(lambda p, x: x * p["w"], loss, optimiser=torch_kit.optimisers.sgd(0.1))
    batch = {name: (torch.ones(2, 3, 1), torch.ones(2, 3, 1)) for name in ("train", "test")}
    message = r"`params\['w'\]` must be a Tensor, got float; make it a Tensor"
    for call in (maml.loss, maml.meta_gradient, maml.predict):
        with pytest.raises(ValueError, match=message):
            call({"w": 0.5}, batch)
    with pytest.raises(ValueError, match=message):
        maml.adapt({"w": 0.5}, *batch["train"])


def test_auto_looks_for_convolutions_in_the_model(backend):
    """On a CPU: a weight of three axes need be no convolution's, but that of a function may be."""
    kit, loss, sgd = backend, backend.functional.mean_squared_error, backend.optimisers.sgd(0.1)
    convolution, bilinear = kit.layer("MetaConv2d", 1, 2, 3), kit.layer("MetaBilinear", 2, 2, 2)

    def resolved(model, params):
        return kit.algorithms.MAML(model, loss, optimiser=sgd).resolved_task_map(params)

    assert resolved(convolution, kit.parameters(convolution)) == "sequential"
    assert resolved(bilinear, kit.parameters(bilinear)) == "vectorised"
    assert resolved(lambda params, inputs: inputs, kit.parameters(bilinear)) == "sequential"


def test_an_adjoint_is_a_value(backend):
    for wrong in ("first", backend.adjoints.FirstOrder, None):
        with pytest.raises(TypeError, match=r"`adjoint` must be an adjoint, got .*; pass Unrolled\(\) or FirstOrder"):
            backend.algorithms.MAML(
                lambda p, x: x, backend.functional.cross_entropy, optimiser=backend.optimisers.sgd(0.1), adjoint=wrong
            )


def test_first_order_maml_has_no_other_adjoint(backend):
    loss, sgd, adjoints = backend.functional.cross_entropy, backend.optimisers.sgd(0.1), backend.adjoints
    first = backend.algorithms.FirstOrderMAML(lambda p, x: x, loss, optimiser=sgd, adjoint=adjoints.FirstOrder())
    assert first.adjoint == adjoints.FirstOrder()
    with pytest.raises(TypeError, match=r"`adjoint` of FirstOrderMAML must be FirstOrder\(\), got Unrolled\(\); use"):
        backend.algorithms.FirstOrderMAML(lambda p, x: x, loss, optimiser=sgd, adjoint=adjoints.Unrolled())


def test_learned_rates_have_gradients(torch_kit):
    """Tensors in the optimiser, by `loss(…).backward()`: one step of size r on (w − x)²/2, seen at y."""
    torch = torch_kit.torch
    rate, weight = torch.tensor(0.1, requires_grad=True, dtype=torch.float64), torch.ones(1, dtype=torch.float64)
    maml = torch_kit.algorithms.MAML(
        lambda p, x: p["w"] - x, lambda d, _: (d**2).mean() / 2, optimiser=torch_kit.optimisers.sgd(rate)
    )
    ones = torch.ones(1, 1, 1, dtype=torch.float64)
    maml.loss({"w": weight}, {"train": (3 * ones, ones), "test": (5 * ones, ones)}).backward()
    after = 1 - 0.1 * (1 - 3)
    assert_close(rate.grad, np.array((after - 5) * -(1 - 3)), "gradient")


# JAX: programs


def jax_task():
    rng = np.random.default_rng(0)
    return {name: (rng.standard_normal((3, 6, 4)), rng.standard_normal((3, 6, 3))) for name in ("train", "test")}


def test_jax_algorithms_compile_once(jax_kit):
    traces = []

    def apply(params, inputs):
        traces.append(1)
        return inputs @ params["w"]

    maml = jax_kit.algorithms.MAML(apply, jax_kit.functional.mean_squared_error, optimiser=jax_kit.optimisers.sgd(0.1))
    params, batch = {"w": jax_kit.array(np.ones((4, 3), np.float32))}, jax_kit.jax.tree.map(jax_kit.array, jax_task())
    maml.meta_gradient(params, batch)
    once = len(traces)
    for _ in range(3):
        maml.meta_gradient(params, batch)
    assert len(traces) == once > 0


def test_jax_sees_that_a_module_has_changed(jax_kit):
    """Running statistics and settings are part of a program: after `eval()` or a new statistic it is another one."""
    kit = jax_kit
    module = kit.modules.as_meta_module(kit.batch_normalised(), batch_norm="frozen")
    maml = kit.algorithms.MAML(module, kit.functional.mean_squared_error, optimiser=kit.optimisers.sgd(0.1), steps=0)
    params = dict(module.meta_named_parameters())
    batch = {name: (x.astype(np.float32), x.astype(np.float32)) for name, (x, _) in jax_task().items()}
    first = np.asarray(maml.predict(params, batch))
    statistic = module.layers[1].mean
    statistic.set_value(statistic.get_value() + 1)
    assert_differs(np.asarray(maml.predict(params, batch)), first)


def test_jax_takes_leaves_that_are_no_numbers_along(jax_kit):
    """A function, a string and an integer in `params`, as in an Equinox module."""
    jnp = jax_kit.jax.numpy
    params = {"w": jnp.ones((4, 3)), "act": jnp.tanh, "power": 2, "name": "mine", "count": jnp.arange(3)}

    def apply(params, inputs):
        assert params["name"] == "mine"
        return params["act"](inputs @ params["w"]) ** params["power"] + params["count"]

    maml = jax_kit.algorithms.MAML(apply, jax_kit.functional.mean_squared_error, optimiser=jax_kit.optimisers.sgd(0.1))
    batch = jax_kit.jax.tree.map(lambda each: jnp.asarray(each, jnp.float32), jax_task())
    _, gradient = maml.meta_gradient(params, batch)
    assert gradient["w"].shape == (4, 3)
    assert [gradient[name] for name in ("act", "power", "name", "count")] == [None] * 4
    adapted = maml.adapt(params, *(each[0] for each in batch["train"]))
    assert adapted["act"] is jnp.tanh
    assert_differs(adapted["w"], params["w"])


def test_jax_warns_once_of_slow_convolutions(jax_kit):
    linen = pytest.importorskip("flax.linen")
    network = linen.Conv(2, (3, 3))
    images = jax_kit.array(np.ones((2, 3, 8, 8, 1), np.float32))
    batch = {name: (images, jax_kit.array(np.zeros((2, 3, 8, 8, 2), np.float32))) for name in ("train", "test")}
    params = network.init(jax_kit.jax.random.key(0), images[0])
    maml = jax_kit.algorithms.MAML(
        network.apply, lambda out, target: ((out - target) ** 2).mean(), optimiser=jax_kit.optimisers.sgd(0.1)
    )
    with pytest.warns(UserWarning, match="use MetaConv2d of jax_backend.modules"):
        maml.meta_gradient(params, batch)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        maml.meta_gradient(params, batch)
