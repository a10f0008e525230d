"""MAML's meta-gradient is exact in both backends (contracts C7 and C8)."""

import functools

import numpy as np
import oracle
import pytest
from helpers import every
from tolerances import LIMITS, assert_close, assert_differs, assert_identical, relative_error

from backends.kits import make_kit
from backends.problems import PROBLEMS
from metabridge.configs import MAMLConfig

pytestmark = pytest.mark.xdist_group("maml")

EVERY_PROBLEM = pytest.mark.parametrize("name", PROBLEMS)
MLPS = pytest.mark.parametrize("name", [name for name, each in PROBLEMS.items() if each.run.model.name == "mlp"])


def learner(kit, problem, parameters, dtype="float64"):
    """A learner on the CPU, and its backend."""
    backend = kit.backend.Backend("cpu", dtype)
    return backend.learner(problem.run, parameters), backend


def meta_gradient(kit, problem, parameters=None, batch=None):
    """Meta-objective and neutral meta-gradient, float64."""
    trained, backend = learner(kit, problem, problem.parameters() if parameters is None else parameters)
    return trained.meta_gradient(backend.receive(problem.batch() if batch is None else batch))


def reference(problem, parameters=None, batch=None):
    """The same by the oracle."""
    loss = oracle.mean_squared_error if problem.run.episode.ways is None else oracle.cross_entropy
    parameters = problem.parameters() if parameters is None else parameters
    batch = problem.batch() if batch is None else batch
    return oracle.maml(problem.run.model, problem.run.algorithm, loss, parameters, batch)


@functools.cache
def computed(framework, name, first_order=False):
    """The meta-gradient of a problem, computed once for all tests; `framework` may be the oracle."""
    problem = PROBLEMS[name].with_algorithm(first_order=first_order)
    return reference(problem) if framework == "oracle" else meta_gradient(make_kit(framework), problem)


@EVERY_PROBLEM
def test_meta_gradient_is_that_of_the_reference(backend, name):
    objective, gradient = computed(backend.name, name)
    expected_objective, expected = computed("oracle", name)
    assert_close(objective, expected_objective, "forward")
    assert list(gradient) == list(expected)
    assert_close(gradient, expected, PROBLEMS[name].tolerance)


@EVERY_PROBLEM
def test_meta_gradients_of_both_backends_agree(torch_kit, jax_kit, name):
    objectives, gradients = zip(*(computed(kit.name, name) for kit in (torch_kit, jax_kit)), strict=True)
    assert_close(*objectives, "forward")
    assert_close(*gradients, PROBLEMS[name].tolerance)


@EVERY_PROBLEM
def test_meta_gradient_is_not_the_first_order_one(backend, name):
    assert_differs(computed("oracle", name, first_order=True)[1], computed(backend.name, name)[1])


@MLPS
def test_first_order_gradient_is_that_of_the_reference(backend, name):
    objective, gradient = computed(backend.name, name, first_order=True)
    assert_close(objective, computed(backend.name, name)[0], "forward")
    assert_close(gradient, computed("oracle", name, first_order=True)[1], PROBLEMS[name].tolerance)


@EVERY_PROBLEM
def test_gradient_reaches_every_parameter(backend, name):
    """Except a convolution's bias: the normalisation behind it subtracts it again, so its gradient is rounding."""
    _, gradient = computed(backend.name, name)
    for key, value in gradient.items():
        if key.endswith("conv.bias"):
            assert np.abs(value).max() < 1e-12
        else:
            assert np.linalg.norm(value) > 1e-4, key


# Against finite differences


def central_difference(objective, parameters, direction, step=1e-5):
    ahead, behind = ({key: each + sign * step * direction[key] for key, each in parameters.items()} for sign in (1, -1))
    return (objective(ahead) - objective(behind)) / (2 * step)


@MLPS
def test_every_entry_agrees_with_central_differences(backend, name):
    problem = PROBLEMS[name]
    parameters = problem.parameters()
    trained, own = learner(backend, problem, parameters)
    batch = own.receive(problem.batch())
    differences = {key: np.zeros(each.shape) for key, each in parameters.items()}
    for key, values in differences.items():
        for index in np.ndindex(values.shape):
            direction = {other: np.zeros(each.shape) for other, each in parameters.items()}
            direction[key][index] = 1
            values[index] = central_difference(lambda at: trained.loss_at(at, batch), parameters, direction)
    assert_close(trained.meta_gradient(batch)[1], differences, "finite_difference")


def test_conv4_agrees_with_central_differences_along_random_directions(backend):
    problem = PROBLEMS["images"]
    parameters, rng = problem.parameters(), np.random.default_rng(0)
    trained, own = learner(backend, problem, parameters)
    batch = own.receive(problem.batch())
    _, gradient = computed(backend.name, "images")
    slopes, differences = [], []
    for _ in range(5):
        direction = {key: rng.standard_normal(each.shape) for key, each in parameters.items()}
        length = np.sqrt(sum((each**2).sum() for each in direction.values()))
        direction = {key: each / length for key, each in direction.items()}
        slopes.append(sum((gradient[key] * direction[key]).sum() for key in direction))
        step = 1e-6  # short: there are many kinks of ReLU and max-pooling to cross
        differences.append(central_difference(lambda at: trained.loss_at(at, batch), parameters, direction, step))
    assert_close(np.array(slopes), np.array(differences), "finite_difference")


def test_the_first_order_gradient_fails_the_same_comparisons(backend):
    """What the comparisons above are for: they must tell the two apart."""
    for name in PROBLEMS:
        with pytest.raises(AssertionError, match="relative error"):
            assert_close(
                computed("oracle", name, first_order=True)[1], computed(backend.name, name)[1], "finite_difference"
            )


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("sinusoid", "features.layer1.linear.bias"),
        ("sinusoid", "head.weight"),
        ("images", "features.layer1.conv.weight"),
        ("images", "features.layer4.norm.weight"),
        ("images", "head.bias"),
    ],
)
def test_one_perturbed_weight_is_seen(backend, name, key):
    problem = PROBLEMS[name]
    perturbed = problem.parameters()
    perturbed[key].reshape(-1)[0] += 1e-5
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(meta_gradient(backend, problem, perturbed)[1], computed("oracle", name)[1], problem.tolerance)


# Laws


@EVERY_PROBLEM
def test_the_order_of_tasks_does_not_matter(backend, name):
    problem = PROBLEMS[name]
    order = np.array([2, 0, 1])
    shuffled = {key: (inputs[order], targets[order]) for key, (inputs, targets) in problem.batch().items()}
    objective, gradient = meta_gradient(backend, problem, batch=shuffled)
    assert_close(objective, computed(backend.name, name)[0], "forward")
    assert_close(gradient, computed(backend.name, name)[1], "gradient")


@EVERY_PROBLEM
def test_the_meta_batch_is_the_mean_of_its_tasks(backend, name):
    problem = PROBLEMS[name]
    singles = [
        {
            key: (inputs[[i]].repeat(3, 0), targets[[i]].repeat(3, 0))
            for key, (inputs, targets) in problem.batch().items()
        }
        for i in range(3)
    ]
    results = [meta_gradient(backend, problem, batch=each) for each in singles]
    objective, gradient = computed(backend.name, name)
    assert_close(np.mean([value for value, _ in results]), objective, "forward")
    mean = {key: np.mean([each[key] for _, each in results], axis=0) for key in gradient}
    assert_close(gradient, mean, "gradient")


def both_task_maps(kit, problem):
    """The algorithm of a problem with each task map, float64 parameters and a meta-batch."""
    network, run = kit.network(problem.run.model), problem.run
    loss = kit.functional.mean_squared_error if run.episode.ways is None else kit.functional.cross_entropy
    algorithms = {
        task_map: kit.algorithms.MAML.from_config(
            run.algorithm, {"network": lambda p, x: network(x, params=p)}, loss, None, task_map
        )
        for task_map in ("vectorised", "sequential")
    }
    params = kit.weights.from_neutral(problem.parameters(), run.model)
    return algorithms, params, kit.backend.Backend("cpu", "float64").receive(problem.batch())


@pytest.mark.parametrize("name", ["sinusoid, 3 steps", "vectors", "images"])
def test_vectorised_and_sequential_meta_gradients_agree(backend64, name):
    """A learner on a CPU vectorises matrix products and loops over convolutions; here it is the other way."""
    problem = PROBLEMS[name]
    algorithms, params, batch = both_task_maps(backend64, problem)
    maml = algorithms["sequential" if problem.run.model.name == "mlp" else "vectorised"]
    objective, gradient = backend64.compile(maml.meta_gradient)(params, batch)
    expected_objective, expected = computed(backend64.name, name)
    assert_close(objective, expected_objective, "forward")
    assert_close(backend64.weights.to_neutral(gradient, problem.run.model), expected, problem.tolerance)


@pytest.mark.parametrize("name", ["sinusoid, 3 steps", "vectors"])
def test_vectorised_and_sequential_values_agree(backend64, name):
    algorithms, params, batch = both_task_maps(backend64, PROBLEMS[name])
    predictions = []
    for maml in algorithms.values():
        predictions.append(backend64.compile(maml.predict)(params, batch))
        objective = backend64.compile(maml.loss)(params, batch)
        assert_close(objective, computed(backend64.name, name)[0], "forward")
    assert_close(*predictions, "forward")


@pytest.mark.parametrize("task_map", ["vectorised", "sequential"])
def test_prediction_takes_another_number_of_steps(backend64, task_map):
    problem = PROBLEMS["sinusoid, 3 steps"]
    algorithms, params, batch = both_task_maps(backend64, problem)
    maml, inputs = algorithms[task_map], batch["test"][0]
    unadapted = np.stack([backend64.numpy(maml.apply(params, each)) for each in inputs])
    assert_close(maml.predict(params, batch, 0), unadapted, "forward")
    assert_identical(backend64.numpy(maml.predict(params, batch)), backend64.numpy(maml.predict(params, batch, 3)))
    assert_differs(maml.predict(params, batch, 1), maml.predict(params, batch, 3))


@pytest.mark.parametrize("task_map", ["vectorised", "sequential"])
@pytest.mark.parametrize("first_order", [False, True])
@pytest.mark.parametrize("steps", [1, 3])
def test_linear_regression_has_a_closed_form(backend64, steps, first_order, task_map):
    rng = np.random.default_rng(0)
    tasks = {key: (rng.standard_normal((4, 5, 3)), rng.standard_normal((4, 5, 1))) for key in ("train", "test")}
    config, weight = MAMLConfig(steps, 0.1, first_order), rng.standard_normal((3, 1))
    loss = backend64.functional.mean_squared_error
    maml = backend64.algorithms.MAML.from_config(
        config, {"network": lambda p, x: x @ p["weight"]}, loss, None, task_map
    )
    batch = {key: tuple(backend64.array(each) for each in split) for key, split in tasks.items()}
    objective, gradient = maml.meta_gradient({"weight": backend64.array(weight)}, batch)
    singles = [{key: (inputs[i], targets[i]) for key, (inputs, targets) in tasks.items()} for i in range(4)]
    results = [oracle.linear_regression_maml(config, weight, task) for task in singles]
    assert_close(objective, np.mean([value for value, _ in results]), "forward")
    assert_close(gradient["weight"], np.mean([each for _, each in results], axis=0), "gradient")


# Constant images: every window of every pooling is a tie


def constant_images(shade):
    """The images problem's batch with every image one shade; `shade` maps a shape to numbers in [0, 1]."""
    return {
        key: (np.broadcast_to(shade((*targets.shape, 1, 1, 1)), inputs.shape).astype(np.float32), targets)
        for key, (inputs, targets) in PROBLEMS["images"].batch().items()
    }


@pytest.mark.parametrize("shade", [np.ones, np.random.default_rng(0).random], ids=["white", "grey"])
def test_meta_gradients_on_constant_images_agree(torch_kit, jax_kit, shade):
    problem, batch = PROBLEMS["images"], constant_images(shade)
    results = [meta_gradient(kit, problem, batch=batch) for kit in (torch_kit, jax_kit)]
    expected = reference(problem, batch=batch)
    for objective, gradient in results:
        assert_close(objective, expected[0], "forward")
        assert_close(gradient, expected[1], problem.tolerance)
    assert_close(results[0][1], results[1][1], problem.tolerance)


def test_meta_gradients_on_black_images_agree_away_from_the_kink(torch_kit, jax_kit):
    """A support set of nothing but black has variance 0 behind the first convolution.

    With the initial bias of 0 the ReLU then sees exactly 0 plus the rounding error of a mean, whose sign no two
    programs share, so there is no derivative to agree on; with any other bias there is. Errors are amplified by
    1/√eps = 316 in every block.
    """
    problem, batch = PROBLEMS["images"], constant_images(np.zeros)
    results = [meta_gradient(kit, problem, problem.perturbed(), batch) for kit in (torch_kit, jax_kit)]
    expected = reference(problem, problem.perturbed(), batch)
    for _, gradient in results:
        assert_close(gradient, expected[1], problem.tolerance)
    at_the_kink = [meta_gradient(kit, problem, batch=batch) for kit in (torch_kit, jax_kit)]
    for objective, gradient in at_the_kink:
        assert np.isfinite(objective)
        assert every(np.isfinite(each).all() for each in gradient.values())


# float32, and evaluation


@pytest.mark.parametrize("name", ["sinusoid", "vectors"])
def test_float32_meta_gradients_agree(torch_kit, jax_kit, name):
    problem = PROBLEMS[name]
    gradients = []
    for kit in (torch_kit, jax_kit):
        trained, own = learner(kit, problem, problem.parameters(), "float32")
        objective, gradient = trained.meta_gradient(own.receive(problem.batch()))
        assert {each.dtype for each in gradient.values()} == {np.dtype(np.float32)}
        assert_close(objective, computed("oracle", name)[0], "forward_float32")
        gradients.append(gradient)
    assert_close(*gradients, "gradient_float32")
    assert relative_error(gradients[0], computed("oracle", name)[1]) > LIMITS[problem.tolerance]  # really float32


@pytest.mark.parametrize("name", ["sinusoid", "images"])
@pytest.mark.parametrize("task_map", ["vectorised", "sequential"])
def test_evaluation_builds_no_graph(torch_kit, name, task_map):
    algorithms, params, batch = both_task_maps(torch_kit, PROBLEMS[name])
    for each in params.values():
        each.requires_grad_()
    maml = algorithms[task_map]
    outputs = maml.predict(params, batch)
    assert outputs.grad_fn is None
    assert not outputs.requires_grad
    first = {key: (inputs[0], targets[0]) for key, (inputs, targets) in batch.items()}
    with_graph = maml.predict_task(params, first)
    assert with_graph.requires_grad
    assert_close(outputs[0], with_graph, "forward")


def test_evaluation_measures_the_adapted_network(backend):
    for name in ("vectors", "sinusoid"):
        problem = PROBLEMS[name]
        trained, own = learner(backend, problem, problem.parameters())
        batch = own.receive(problem.batch())
        outputs, targets = trained.predict(batch), problem.batch()["test"][1]
        if name == "vectors":
            expected = (outputs.argmax(-1) == targets).mean(1)
        else:
            expected = ((outputs - targets) ** 2).mean((1, 2))
            assert_close(expected.mean(), trained.meta_gradient(batch)[0], "forward")
        assert_close(trained.evaluate(batch), expected, "forward")
        assert_differs(trained.predict(batch, 0), trained.predict(batch, 2))
        assert_identical(trained.predict(batch, problem.run.algorithm.inner_steps), outputs)
