"""Learners: the visible meta-step, and what it must leave alone."""

import logging
import threading
from dataclasses import replace

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

from backends.problems import PROBLEMS
from metabridge.configs import ANILConfig, OptimiserConfig

DTYPES = pytest.mark.parametrize("dtype", ["float32", "float64"])


def start(kit, name="sinusoid", dtype="float64", parameters=None):
    """A learner on the CPU, and a function from a number to a received meta-batch."""
    problem = PROBLEMS[name]
    backend = kit.backend.Backend("cpu", dtype)
    trained = backend.learner(problem.run, problem.parameters() if parameters is None else parameters)

    def batch(number=0, spoiled=False):
        episodes = problem.batch(number * problem.run.meta_batch_size)
        if spoiled:
            episodes["train"][0].reshape(-1)[3] = np.nan
        return backend.receive(episodes)

    return trained, batch


# What a step does


@DTYPES
@pytest.mark.parametrize("name", ["sinusoid", "vectors"])
def test_steps_lower_the_meta_objective(backend, name, dtype):
    trained, batch = start(backend, name, dtype)
    before, fixed = trained.parameters(), batch(0)
    losses = [float(trained.step(fixed)) for _ in range(60)]
    assert losses[-1] < 0.98 * losses[0]
    assert_close(trained.meta_gradient(fixed)[0], trained.loss_at(trained.parameters(), fixed), "forward_float32")
    assert trained.steps_done == 60
    assert_differs(trained.parameters(), before)


def test_a_step_returns_the_meta_objective_before_it(backend):
    trained, batch = start(backend)
    expected = trained.loss_at(trained.parameters(), batch())
    assert_close(trained.meta_gradient(batch())[0], expected, "forward")
    assert_close(float(trained.step(batch())), expected, "forward")


def test_the_first_step_is_adams(backend):
    """Adam's first update is −rate · gradient / (|gradient| + eps), whatever the moments' decay."""
    trained, batch = start(backend)
    before, optimiser = trained.parameters(), trained.run.optimiser
    _, gradient = trained.meta_gradient(batch())
    trained.step(batch())
    expected = {
        name: value - optimiser.learning_rate * gradient[name] / (np.abs(gradient[name]) + optimiser.eps)
        for name, value in before.items()
    }
    assert_close(trained.parameters(), expected, "forward")


@pytest.mark.parametrize(("name", "steps"), [("sinusoid, 3 steps", 30), ("vectors", 30)])
def test_both_backends_take_the_same_way(torch_kit, jax_kit, name, steps):
    losses, final = [], []
    for kit in (torch_kit, jax_kit):
        trained, batch = start(kit, name)
        losses.append(np.array([float(trained.step(batch(number))) for number in range(steps)]))
        final.append(trained.parameters())
    assert_close(*losses, "trajectory")
    assert_close(*final, "trajectory")
    assert losses[0].std() > 0


def test_the_other_backend_can_go_on(torch_kit, jax_kit):
    """Parameters are all that moves here: the optimiser starts anew in both."""
    for giver, taker in ((torch_kit, jax_kit), (jax_kit, torch_kit)):
        trained, batch = start(giver)
        for number in range(3):
            trained.step(batch(number))
        moved, moved_batch = start(taker, parameters=trained.parameters())
        assert_identical(moved.parameters(), trained.parameters())
        assert_close(float(moved.step(moved_batch(3))), float(trained.step(batch(3))), "forward")


OPTIMISERS = {
    "adam": OptimiserConfig(),
    "sgd": OptimiserConfig("sgd", 0.01),
    "momentum": OptimiserConfig("sgd", 0.01, momentum=0.9),
}


def with_optimiser(kit, name, dtype="float64"):
    """A learner of the vectors problem with another outer optimiser, and its batches."""
    problem = PROBLEMS["vectors"]
    backend = kit.backend.Backend("cpu", dtype)
    learner = backend.learner(replace(problem.run, optimiser=OPTIMISERS[name]), problem.parameters())
    return learner, lambda number: backend.receive(problem.batch(number * problem.run.meta_batch_size))


@DTYPES
@pytest.mark.parametrize("name", OPTIMISERS)
def test_a_state_goes_on_as_if_nothing_had_happened(backend, name, dtype):
    """Saved after every step and loaded into a fresh learner: the same bits as without a break."""
    learner, batch = with_optimiser(backend, name, dtype)
    for number in range(4):
        state = learner.state()
        fresh, _ = with_optimiser(backend, name, dtype)
        fresh.load_state(state)
        assert fresh.steps_done == learner.steps_done == number
        assert_identical(fresh.state(), state)
        losses = [float(each.step(batch(number))) for each in (learner, fresh)]
        assert losses[0] == losses[1]
        assert_identical(fresh.state(), learner.state())


@pytest.mark.parametrize("name", OPTIMISERS)
def test_the_other_backend_loads_the_state(torch_kit, jax_kit, name):
    """Parameters, moments and counts: both backends name them alike, in one axis order."""
    learners = [with_optimiser(kit, name) for kit in (torch_kit, jax_kit)]
    for number in range(3):
        for learner, batch in learners:
            learner.step(batch(number))
    (torch_learner, torch_batch), (jax_learner, _) = learners
    assert list(torch_learner.state()) == list(jax_learner.state())
    assert_close(torch_learner.state(), jax_learner.state(), "trajectory")
    expected = [float(torch_learner.step(torch_batch(number))) for number in (3, 4)]
    fresh, batch = with_optimiser(torch_kit, name)
    fresh.load_state(jax_learner.state())
    assert_close(np.array([float(fresh.step(batch(number))) for number in (3, 4)]), np.array(expected), "trajectory")
    fresh, batch = with_optimiser(jax_kit, name)
    fresh.load_state(torch_learner.state())
    assert fresh.steps_done == 5
    assert_close(float(fresh.step(batch(5))), float(torch_learner.step(torch_batch(5))), "trajectory")


def test_a_state_of_another_run_is_refused_and_nothing_is_loaded(backend):
    learner, batch = with_optimiser(backend, "adam")
    learner.step(batch(0))
    before = learner.state()
    other, _ = with_optimiser(backend, "sgd")
    with pytest.raises(ValueError, match=r"`state` holds 'optimiser', which is no parameter of the learner; "):
        learner.load_state(other.state())
    with pytest.raises(ValueError, match=r"`state\['parameters/head.weight'\]` .* must have shape"):
        learner.load_state({**before, "parameters/head.weight": np.zeros((2, 2))})
    assert_identical(learner.state(), before)


def test_a_refused_step_that_nobody_has_seen_stops_every_look(backend):
    """The step does not wait for its loss, so the next look at the learner tells."""
    trained, batch = start(backend)
    loss = trained.step(batch(1, spoiled=True))
    looks = (trained.parameters, trained.state, lambda: trained.evaluate(batch()), lambda: trained.predict(batch()))
    for look in looks:
        with pytest.raises(FloatingPointError, match="meta-loss is nan at meta-step 0"):
            look()
    with pytest.raises(FloatingPointError, match="meta-loss is nan at meta-step 0"):
        float(loss)
    assert_identical(trained.parameters(), PROBLEMS["sinusoid"].parameters())
    assert trained.steps_done == 0


def test_a_loss_can_be_printed(backend):
    trained, batch = start(backend)
    assert f"{trained.step(batch()):.1f}".count(".") == 1


def test_looking_changes_nothing(backend):
    trained, batch = start(backend)
    trained.step(batch(0))
    before = trained.parameters()
    looks = [trained.meta_gradient, trained.predict, trained.evaluate, lambda b: trained.loss_at(before, b)]
    for look in looks:
        look(batch(1))
    assert_identical(trained.parameters(), before)
    assert trained.steps_done == 1


def test_parameters_given_and_returned_are_the_callers_own(backend):
    given = PROBLEMS["sinusoid"].parameters()
    trained, batch = start(backend, parameters=given)
    expected = trained.loss_at(PROBLEMS["sinusoid"].parameters(), batch())
    for mapping in (given, trained.parameters()):
        for array in mapping.values():
            array[...] = 0
    assert_close(float(trained.step(batch())), expected, "forward")


@DTYPES
def test_everything_is_computed_in_the_dtype_asked_for(backend, dtype):
    trained, batch = start(backend, dtype=dtype)
    trained.step(batch())
    assert {each.dtype for each in trained.parameters().values()} == {np.dtype(dtype)}
    assert {each.dtype for each in trained.meta_gradient(batch())[1].values()} == {np.dtype(dtype)}
    assert trained.predict(batch()).dtype == np.dtype(dtype)


# Failures


@DTYPES
def test_a_meta_objective_that_is_not_finite_stops_with_the_parameters_before_it(backend, dtype):
    trained, batch = start(backend, dtype=dtype)
    trained.step(batch(0))
    before = trained.parameters()
    with pytest.raises(
        FloatingPointError, match=r"meta-loss is nan at meta-step 1.* the inner or the outer learning rate"
    ):
        float(trained.step(batch(1, spoiled=True)))
    assert_identical(trained.parameters(), before)
    assert trained.steps_done == 1


def cancelling(size, bias=1.0):
    """Parameters of the sinusoid network in which two weights ±`size` of the head cancel; its bias is the error."""
    shapes = {name: array.shape for name, array in PROBLEMS["sinusoid"].parameters().items()}
    parameters = {name: np.full(shape, float("bias" in name)) for name, shape in shapes.items()}
    parameters["head.weight"][0, :2] = size, -size
    parameters["head.bias"][0] = bias
    return parameters


def overflowing_gradient():
    """The gradient of the layers below the head is not finite. The head alone adapts: the inner loop stays finite."""
    run = replace(PROBLEMS["sinusoid"].run, algorithm=ANILConfig(1, 0.1), optimiser=OptimiserConfig("sgd", 0.1))
    return run, cancelling(1e200, 1e150)


def overflowing_update():
    """The outer optimiser makes infinite parameters of a finite meta-gradient."""
    problem = PROBLEMS["sinusoid"]
    run = replace(problem.run, optimiser=OptimiserConfig("sgd", 1e308))
    return run, {name: 10 * array for name, array in problem.parameters().items()}


REFUSED = {
    "gradient": (overflowing_gradient, "the meta-gradient holds (inf|nan) at meta-step 0, where the meta-loss is "),
    "update": (overflowing_update, "the outer optimiser makes inf of a finite meta-gradient at meta-step 0; "),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_step_with_a_finite_loss_is_refused_for_its_gradient_or_update(backend, case):
    make, message = REFUSED[case]
    run, parameters = make()
    own = backend.backend.Backend("cpu", "float64")
    trained, batch = own.learner(run, parameters), own.receive(PROBLEMS["sinusoid"].batch())
    assert np.isfinite(trained.loss_at(parameters, batch))
    before = trained.state()
    loss = trained.step(batch)
    for look in (trained.state, loss.__float__):
        with pytest.raises(FloatingPointError, match=message):
            look()
    assert_identical(trained.state(), before)
    assert trained.steps_done == 0


@DTYPES
def test_a_step_is_refused_whose_moments_overflow(backend, dtype):
    """The square of a finite gradient may be infinite; Adam would never move that parameter again."""
    size = {"float32": 1e21, "float64": 1e160}[dtype]
    run, parameters = replace(PROBLEMS["sinusoid"].run, algorithm=ANILConfig(1, 1e-30)), cancelling(size)
    own = backend.backend.Backend("cpu", dtype)
    trained = own.learner(run, parameters)
    with pytest.raises(FloatingPointError, match="the outer optimiser makes inf of a finite meta-gradient"):
        float(trained.step(own.receive(PROBLEMS["sinusoid"].batch())))
    assert_identical(trained.parameters(), {name: array.astype(dtype) for name, array in parameters.items()})


def test_a_refused_step_is_named_with_its_loss_and_number_after_others(backend):
    trained, batch = start(backend)
    trained.step(batch(0))
    refused = trained.step(batch(1, spoiled=True))
    later = [trained.step(batch(number)) for number in range(2)]
    with pytest.raises(FloatingPointError, match="meta-loss is nan at meta-step 1;"):
        trained.parameters()
    assert [refused.step, *(each.step for each in later)] == [1, 1, 2]
    assert trained.steps_done == 3


def test_training_goes_on_after_a_refused_step_as_if_it_had_not_been(backend):
    trained, batch = start(backend)
    undisturbed, _ = start(backend)
    for number in range(3):
        with pytest.raises(FloatingPointError, match="the meta-loss is nan"):
            float(trained.step(batch(number, spoiled=True)))
        trained.step(batch(number))
        undisturbed.step(batch(number))
    assert_identical(trained.parameters(), undisturbed.parameters())


def test_a_loss_from_before_another_state_hides_no_refusal_after_it(backend):
    trained, batch = start(backend)
    state = trained.state()
    earlier = trained.step(batch(0, spoiled=True))
    trained.load_state(state)
    with pytest.raises(FloatingPointError, match="the meta-loss is nan"):
        float(earlier)
    trained.step(batch(0, spoiled=True))
    with pytest.raises(FloatingPointError, match="the meta-loss is nan"):
        trained.state()


def test_parameters_of_another_network_are_refused(backend):
    with pytest.raises(
        ValueError, match=r"the run must hold every parameter.*'features\.layer2\.linear\.weight' is missing"
    ):
        start(backend, "sinusoid", parameters=PROBLEMS["vectors"].parameters())


# JAX: 64-bit mode, compilation


def dtype_elsewhere(jax):
    """The dtype of a new array in another thread, the user's."""
    found = []
    thread = threading.Thread(target=lambda: found.append(jax.numpy.ones(1).dtype))
    thread.start()
    thread.join()
    return found[0]


@DTYPES
def test_64_bit_mode_is_on_inside_the_learner_only(jax_kit, dtype):
    jax, seen = jax_kit.jax, []

    def look():
        return jax.numpy.ones(1).dtype, dtype_elsewhere(jax), jax.config.jax_enable_x64

    before = look()
    trained, batch = start(jax_kit, "vectors", dtype)
    trained.step(batch())
    trained.meta_gradient(batch())
    trained.loss_at(trained.parameters(), batch())
    trained.predict(batch())
    trained.evaluate(batch())
    assert look() == before == (np.float32, np.float32, False)
    with jax_kit.training.precision(dtype):
        seen = look()
    assert seen[0] == np.dtype(dtype)
    assert seen[1] == np.float32  # another thread sees none of it
    assert look() == before


def test_other_threads_keep_32_bits_while_a_learner_works(jax_kit):
    """Seen from inside a step: its function looks at another thread while JAX traces it."""
    jax = jax_kit.jax
    trained, batch = start(jax_kit)
    seen = []

    def spying(params, inputs):
        seen.append((jax.numpy.ones(1).dtype, dtype_elsewhere(jax)))
        return inputs @ params["head.weight"][:1]

    maml = jax_kit.algorithms.MAML(spying, jax_kit.functional.mean_squared_error, optimiser=jax_kit.optimisers.sgd(0.1))
    with jax_kit.training.precision("float64"):
        maml.loss(trained.params, batch())
    assert set(seen) == {(np.dtype(np.float64), np.dtype(np.float32))}


def test_64_bit_mode_of_the_user_survives(jax_kit):
    jax = jax_kit.jax
    with jax.enable_x64(True):
        trained, batch = start(jax_kit, dtype="float32")
        trained.step(batch())
        assert trained.predict(batch()).dtype == np.float32
        assert jax.numpy.ones(1).dtype == np.float64


def test_64_bit_mode_ends_with_a_step_that_fails(jax_kit):
    trained, batch = start(jax_kit)
    with pytest.raises(FloatingPointError, match="the meta-loss is nan"):
        float(trained.step(batch(spoiled=True)))
    assert jax_kit.jax.numpy.ones(1).dtype == np.float32


def compiled_during(jax, caplog, action):
    """How many programs JAX compiled meanwhile."""
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="jax"), jax.log_compiles(True):
        action()
    return sum("Compiling" in record.getMessage() for record in caplog.records)


@pytest.mark.slow
@DTYPES
def test_only_the_first_step_compiles(jax_kit, caplog, dtype):
    trained, batch = start(jax_kit, "vectors", dtype)
    batches = [batch(number) for number in range(4)]
    jax_kit.jax.clear_caches()
    assert compiled_during(jax_kit.jax, caplog, lambda: trained.step(batches[0])) > 0
    for other in batches[1:]:
        assert compiled_during(jax_kit.jax, caplog, lambda other=other: trained.step(other)) == 0


def test_a_second_learner_of_the_same_run_compiles_nothing(jax_kit, caplog):
    (first, batch), (second, _) = start(jax_kit, "vectors"), start(jax_kit, "vectors")
    received = batch()
    first.step(received)
    assert compiled_during(jax_kit.jax, caplog, lambda: second.step(received)) == 0


# PyTorch: global state


def test_jax_maps_tasks_as_the_learners_device_likes(jax_kit, monkeypatch):
    """On a machine with a GPU a learner on the CPU still computes convolutions task by task."""
    monkeypatch.setattr(jax_kit.jax, "default_backend", lambda: "gpu")
    problem = PROBLEMS["images"]
    trained = jax_kit.backend.Backend("cpu", "float64").learner(problem.run, problem.parameters())
    resolved = []
    jax_kit.jax.make_jaxpr(lambda params: resolved.append(trained.algorithm.resolved_task_map(params)))(trained.params)
    assert resolved == ["sequential"]


def test_torchs_global_state_is_the_users(torch_kit):
    torch = torch_kit.torch

    def look():
        threads = torch.get_num_threads(), torch.are_deterministic_algorithms_enabled()
        return torch.get_default_dtype(), torch.is_grad_enabled(), torch.get_default_device(), *threads

    torch.manual_seed(0)
    before, random_state = look(), torch.random.get_rng_state()
    trained, batch = start(torch_kit, "images")
    trained.step(batch())
    trained.meta_gradient(batch())
    trained.loss_at(trained.parameters(), batch())
    trained.evaluate(batch())
    assert look() == before
    assert torch.equal(torch.random.get_rng_state(), random_state)


@pytest.mark.parametrize("mode", ["no_grad", "inference_mode", "float64 default"])
def test_the_users_torch_modes_do_not_change_the_result(torch_kit, mode):
    torch = torch_kit.torch
    trained, batch = start(torch_kit)
    expected = trained.meta_gradient(batch())
    if mode == "float64 default":
        torch.set_default_dtype(torch.float64)
        try:
            trained, batch = start(torch_kit)
            found = trained.meta_gradient(batch())
        finally:
            torch.set_default_dtype(torch.float32)
    else:
        with getattr(torch, mode)():
            found = trained.meta_gradient(batch())
    assert_close(found[0], expected[0], "forward")
    assert_close(found[1], expected[1], "gradient")
