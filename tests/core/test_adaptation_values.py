"""Values that both backends decide before an array exists: trees, task maps, steps, states, losses."""

import math
from typing import NamedTuple

import numpy as np
import pytest
from helpers import every

from metabridge.adaptation.steps import count_steps
from metabridge.adaptation.task_maps import Chunked, check_task_map, resolve_task_map
from metabridge.adaptation.trees import flatten, unflatten
from metabridge.runs.losses import Attempt, StepCounter, check_finite
from metabridge.runs.states import join_state, split_state


class Moments(NamedTuple):
    """A named tuple, as optimisers keep."""

    steps: int
    mu: dict


TREES = [
    3,
    {"a": 1, "b": {"c": 2}},
    [1, (2, 3), {"x": 4}],
    Moments(2, {"w": 1.0}),
    {"a.b": 1, "c": None},
    {"flat.weight": 1, "flat.bias": 2},
]


@pytest.mark.parametrize("tree", TREES, ids=str)
def test_flattening_has_an_inverse(tree):
    leaves = flatten(tree)
    assert unflatten(tree, leaves) == tree
    doubled = unflatten(tree, {name: 2 * leaf for name, leaf in leaves.items()})
    assert flatten(doubled) == {name: 2 * leaf for name, leaf in leaves.items()}


def test_a_flat_mapping_keeps_its_names():
    assert flatten({"head.weight": 1, "head.bias": 2}) == {"head.weight": 1, "head.bias": 2}


def test_two_leaves_of_one_name_are_refused():
    with pytest.raises(ValueError, match=r"two entries have the name 'a\.b'; rename one of them"):
        flatten({"a.b": 1, "a": {"b": 2}})


@pytest.mark.parametrize(
    ("asked", "device", "shapes", "has_convolutions", "expected"),
    [
        ("auto", "cpu", [(8, 1, 3, 3), (8,)], True, "sequential"),
        ("auto", "cpu", [(8, 1, 3)], True, "sequential"),
        ("auto", "cpu", [(8, 1, 3)], None, "sequential"),
        ("auto", "cpu", [(8, 1, 3)], False, "vectorised"),
        ("auto", "cpu", [(8, 1, 3, 3)], False, "sequential"),  # in the model's own code
        ("auto", "cpu", [(40, 1), (40,)], True, "vectorised"),
        ("auto", "cuda", [(8, 1, 3, 3)], True, "vectorised"),
        ("vectorised", "cpu", [(8, 1, 3, 3)], True, "vectorised"),
        (Chunked(4), "cpu", [(8, 1, 3, 3)], True, Chunked(4)),
    ],
)
def test_auto_is_the_faster_map(asked, device, shapes, has_convolutions, expected):
    assert resolve_task_map(asked, device, shapes, has_convolutions) == expected


def test_unknown_task_maps_are_refused():
    with pytest.raises(ValueError, match=r"`task_map` must be 'auto', .* or Chunked\(size\), got 'parallel'"):
        check_task_map("parallel")
    with pytest.raises(ValueError, match="`size` must be a positive integer, got 0"):
        Chunked(0)


def test_steps_are_counted():
    assert count_steps(3, None) == 3
    assert count_steps(None, [1, 2]) == count_steps(2, [1, 2]) == 2
    with pytest.raises(ValueError, match="`steps` must be the length of `per_step`, 2, got 1"):
        count_steps(1, [1, 2])


STATE = (Moments(4, {"w": np.ones((2, 3)), "b": np.zeros(2)}), 4)
PARAMETERS = {"w": np.arange(6.0).reshape(2, 3), "b": np.arange(2.0)}
SHAPES = {name: value.shape for name, value in PARAMETERS.items()}


def test_a_state_is_flat_and_comes_back():
    state = join_state(PARAMETERS, STATE, 4, dict)
    assert list(state) == [
        "parameters/w", "parameters/b", "optimiser/0/steps", "optimiser/0/mu/w", "optimiser/0/mu/b", "optimiser/1",
        "steps_done",
    ]  # fmt: skip
    parameters, optimiser, steps = split_state(state, STATE, SHAPES, dict)
    assert parameters.keys() == PARAMETERS.keys()
    assert every(np.array_equal(parameters[name], value) for name, value in PARAMETERS.items())
    assert optimiser[0].steps == optimiser[1] == steps == 4
    assert np.array_equal(optimiser[0].mu["w"], STATE[0].mu["w"])


def test_a_state_of_something_else_is_refused():
    state = join_state(PARAMETERS, STATE, 4, dict)
    with pytest.raises(ValueError, match="`state` of the learner must hold every parameter, 'optimiser/1' is missing"):
        split_state({name: value for name, value in state.items() if name != "optimiser/1"}, STATE, SHAPES, dict)
    with pytest.raises(ValueError, match="`state` holds 'optimiser/2'"):
        split_state({**state, "optimiser/2": np.zeros(())}, STATE, SHAPES, dict)
    with pytest.raises(
        ValueError, match=r"`state\['parameters/b'\]` of the learner must have shape \(2,\), got \(3,\)"
    ):
        split_state({**state, "parameters/b": np.zeros(3)}, STATE, SHAPES, dict)


class Learner:
    """The counting of a learner whose device is NumPy, without its parameters."""

    def __init__(self, steps_done=0):
        self.reads = 0
        self.counter = StepCounter(steps_done, np.array(steps_done), self.attempt(steps_done, 0.0))

    def attempt(self, step, *numbers):
        learner = self

        class Numbers:
            def tolist(self):
                learner.reads += 1
                return [*numbers, 0.0, 0.0][:3]

        return Attempt(np.array(step), Numbers())

    def step(self, *numbers):
        counter, attempt = self.counter, self.attempt(int(self.counter.done), *numbers)
        accepted = bool(np.isfinite(numbers).all())
        return counter.add(attempt, counter.done + accepted, counter.refused if accepted else attempt)


def test_a_loss_is_read_when_it_is_asked_for():
    learner = Learner(3)
    loss = learner.step(2.5)
    learner.counter.check()
    assert learner.reads == 0
    assert float(loss) == 2.5
    assert learner.reads == 1
    assert repr(loss) == "StepLoss(2.5 at meta-step 3)"
    assert learner.counter.steps_done == 4


REFUSED = {
    "loss": (
        (math.nan, math.nan),
        "the meta-loss is nan at meta-step 1; .* Lower the inner or the outer",
    ),
    "infinite loss": ((-math.inf,), "the meta-loss is -inf at meta-step 1; "),
    "gradient": ((2.5, math.inf, math.nan), "the meta-gradient holds inf at meta-step 1, where the meta-loss is 2.5; "),
    "update": ((2.5, 1.0, math.inf), "the outer optimiser makes inf of a finite meta-gradient at meta-step 1; .* clip"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_number_that_is_not_finite_is_an_error_and_acknowledged_once(case):
    numbers, message = REFUSED[case]
    learner = Learner()
    learner.step(2.5)
    loss = learner.step(*numbers)
    for look in (learner.counter.check, loss.__float__, loss.__float__):
        with pytest.raises(FloatingPointError, match=message):
            look()
    learner.counter.check()
    learner.step(math.nan)
    with pytest.raises(FloatingPointError, match="of 2 refused meta-steps 1 were not read; of the last refused one: "):
        learner.counter.check()
    assert learner.counter.steps_done == 1


def test_a_refused_step_is_reported_with_its_own_number():
    """Not with the number of the step at which someone looks."""
    learner = Learner(4)
    learner.step(math.inf)
    for _ in range(3):
        later = learner.step(1.0)
    assert later.step == 6
    with pytest.raises(FloatingPointError, match="the meta-loss is inf at meta-step 4"):
        learner.counter.check()


def test_finite_numbers_pass():
    assert check_finite(2.5, 0) == 2.5
    with pytest.raises(FloatingPointError, match="at meta-step 0"):
        check_finite(math.nan, 0)
