"""Compiled functions of JAX's algorithms never answer for what has changed since."""

import importlib

import numpy as np
import pytest
from tolerances import assert_close, assert_differs, assert_identical

from metabridge.adaptation.task_maps import Chunked

nnx = pytest.importorskip("flax.nnx")


class Network(nnx.Module):
    """Everything that a call can depend on besides parameters: random numbers, statistics, flags and settings."""

    def __init__(self):
        rngs = nnx.Rngs(0)
        self.first, self.second = nnx.Linear(2, 4, rngs=rngs), nnx.Linear(4, 1, rngs=rngs)
        self.dropout, self.norm = nnx.Dropout(0.5, rngs=rngs), nnx.BatchNorm(4, rngs=rngs)
        self.scale, self.activation = [1.0], nnx.relu

    def __call__(self, inputs):
        return self.second(self.activation(self.norm(self.dropout(self.first(inputs))))) * self.scale[0]


def shift_statistics(algorithm):
    algorithm.model.norm.mean.set_value(algorithm.model.norm.mean.get_value() + 1)


CHANGES = {
    "reseed": lambda algorithm: nnx.reseed(algorithm.model, default=7),
    "eval": lambda algorithm: algorithm.model.eval(),
    "setting": lambda algorithm: algorithm.model.scale.__setitem__(0, 2.0),
    "function": lambda algorithm: setattr(algorithm.model, "activation", nnx.tanh),
    "layer": lambda algorithm: setattr(algorithm.model, "dropout", lambda inputs: 2 * inputs),
    "steps": lambda algorithm: setattr(algorithm, "steps", 4),
    "loss": lambda algorithm: setattr(algorithm, "loss_function", lambda outputs, targets: abs(outputs).mean()),
}


def start(kit, network):
    maml = kit.algorithms.MAML(network, kit.functional.mean_squared_error, optimiser=kit.optimisers.sgd(0.1), steps=2)
    rng = np.random.default_rng(0)
    batch = {name: tuple(kit.array(rng.standard_normal((3, 5, n))) for n in (2, 1)) for name in ("train", "test")}
    return maml, batch


def loss(maml, batch):
    return np.asarray(maml.meta_gradient(dict(maml.model.meta_named_parameters()), batch)[0])


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_is_seen(jax_kit, change):
    maml, batch = start(jax_kit, Network())
    before = loss(maml, batch)
    CHANGES[change](maml)
    changed = loss(maml, batch)
    maml._programs = type(maml._programs)(maml)
    assert_identical(changed, loss(maml, batch))
    assert_differs(changed, before)


def test_statistics_and_random_numbers_are_arguments(jax_kit):
    """Training moves both at every step: no program is compiled anew for them."""
    maml, batch = start(jax_kit, Network())
    maml.model.norm.use_running_average = True
    before = loss(maml, batch)
    programs = dict(maml._programs._compiled)
    shift_statistics(maml)
    nnx.reseed(maml.model, default=7)
    assert_differs(loss(maml, batch), before)
    assert maml._programs._compiled == programs


def test_leaves_that_are_no_arrays_are_told_apart_by_their_places(jax_kit):
    def apply(params, inputs):
        return inputs[..., :1] * (params["a"] if params["b"] is True else 3 * params["b"])

    maml, batch = start(jax_kit, apply)
    _, first = maml.meta_gradient({"a": 1.0, "b": True}, batch)
    _, second = maml.meta_gradient({"a": True, "b": 1.0}, batch)
    assert first["b"] is None
    assert second["a"] is None
    assert_differs(np.asarray(first["a"]), np.asarray(second["b"]))


def test_a_leaf_that_cannot_be_told_apart_is_named(jax_kit):
    maml, batch = start(jax_kit, lambda params, inputs: inputs[..., :1] * params["a"])
    with pytest.raises(TypeError, match=r"`params` holds a set at 'b\.c', which is neither an array nor hashable"):
        maml.meta_gradient({"a": 1.0, "b": {"c": {1, 2}}}, batch)


def test_programs_are_kept_while_they_are_used(jax_kit):
    """A function that is new at every call is a new program; the one in use stays."""
    module = importlib.import_module("jax_backend.programs")
    traced = []
    maml, _ = start(jax_kit, Network())
    run, one = maml._programs.run, np.ones(2)

    def compute(params, batch):
        traced.append(1)
        return params["a"] + batch

    for _ in range(module.MOST_KEPT + 5):
        run(compute, {"a": one, "f": lambda: None}, one, ())
        run(compute, {"a": one, "f": None}, one, ())
    assert len(maml._programs._compiled) == module.MOST_KEPT
    assert len(traced) == module.MOST_KEPT + 6


@pytest.mark.parametrize("task_map", ["sequential", Chunked(2)], ids=str)
def test_random_operations_draw_the_same_for_all_tasks_in_every_map(jax_kit, task_map):
    losses = []
    for each in ("vectorised", task_map):
        maml, batch = start(jax_kit, Network())
        maml.task_map = each
        losses.append(loss(maml, batch))
    assert_close(losses[0], losses[1], "forward_float32")
