"""Toy problems: exact arithmetic on stream words, nothing stored, the distributions of the paper."""

import itertools
import math
import tracemalloc

import numpy as np
import pytest
from helpers import chi_square_excess
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, toy
from metabridge.streams import philox_words
from metabridge.toy import Sinusoid, helpers

RULE = ClassSplitter(num_train_per_class=4, num_test_per_class=6)


def sinusoid(num_samples_per_task=10, **arguments):
    return Sinusoid(num_samples_per_task, **{"dataset_transform": RULE, **arguments})


def points(batch):
    """Inputs and targets `(B, n)` of all splits together."""
    inputs, targets = (np.concatenate([split[part][..., 0] for split in batch.values()], axis=1) for part in (0, 1))
    return inputs, targets


# The function


@given(st.integers(0, 999_999), st.floats(-5, 5), st.integers(-2, 2), st.sampled_from(["train", "val", "test"]))
def test_targets_are_a_sin_of_x_minus_phi(task, x, seed, meta_split):
    dataset = sinusoid(meta_split=meta_split)
    dataset.seed(seed)
    parameters = dataset.task_parameters([task])
    amplitude, phase = float(parameters["amplitude"][0]), float(parameters["phase"][0])
    assert abs(dataset.evaluate([task], np.array([[x]]))[0, 0] - amplitude * math.sin(x - phase)) <= 1e-15


def test_batches_hold_the_rounded_function_values():
    dataset = sinusoid()
    batch = dataset.episodes(range(50), seed=3)
    for inputs, targets in batch.values():
        assert inputs.dtype == targets.dtype == np.float32
        exact = dataset.evaluate(batch.plan.classes[:, 0], inputs[..., 0].astype(np.float64))
        # the input was rounded to float32 after its target was computed: a slope of at most 5
        assert np.abs(targets[..., 0] - exact).max() <= (5 + 5 * 5) * 2.0**-24
    assert [inputs.shape for inputs, _ in batch.values()] == [(50, 4, 1), (50, 6, 1)]


def test_the_values_are_computed_before_anything_is_rounded():
    """Targets are float32 of the float64 function at the float64 inputs."""
    dataset = sinusoid(3, dataset_transform=None)
    batch = dataset.episodes(range(20))
    exact_inputs = dataset.inputs_from_words(philox_words(batch.plan.key, range(20), 3, lane=1))
    inputs, targets = points(batch)
    np.testing.assert_array_equal(inputs, exact_inputs.astype(np.float32))
    np.testing.assert_array_equal(targets, dataset.evaluate(batch.plan.classes[:, 0], exact_inputs).astype(np.float32))


# Distributions (fixed seeds, so these cannot fail by chance)


def test_parameters_and_inputs_are_uniform_on_the_paper_s_ranges():
    dataset = sinusoid()
    parameters = dataset.task_parameters(range(20_000))
    inputs, _ = points(dataset.episodes(range(2_000)))
    assert dataset.parameter_ranges == {"input": (-5.0, 5.0), "amplitude": (0.1, 5.0), "phase": (0.0, math.pi)}
    for name, values in (("amplitude", parameters["amplitude"]), ("phase", parameters["phase"]), ("input", inputs)):
        low, high = dataset.parameter_ranges[name]
        assert low <= values.min() < low + 0.01
        assert high - 0.01 < values.max() <= high
        counts = np.histogram(values, 40, (low, high))[0]
        assert counts.sum() == values.size
        assert abs(chi_square_excess(counts)) < 4
    correlation = np.corrcoef(parameters["amplitude"], parameters["phase"])[0, 1]
    assert abs(correlation) < 4 / math.sqrt(20_000)


def test_predicting_zero_has_the_error_the_ranges_imply():
    """E[a²] · E[sin²] = (5³ − 0.1³) / (3 · 4.9) / 2 = 4.2517, as sin² averages to one half over φ in [0, π]."""
    expected = (5**3 - 0.1**3) / (3 * 4.9) / 2
    assert round(expected, 4) == 4.2517
    _, targets = points(sinusoid().episodes(range(20_000)))
    per_task = (targets.astype(np.float64) ** 2).mean(axis=1)
    assert abs(per_task.mean() - expected) < 4 * per_task.std() / math.sqrt(20_000)


def test_the_best_function_that_ignores_the_support_set_has_the_documented_error():
    """E[y | x] = −2.55 · (2/π) · cos x removes 1.246 of the 4.2517."""
    inputs, targets = points(sinusoid().episodes(range(20_000)))
    per_task = ((targets.astype(np.float64) + 2.55 * 2 / math.pi * np.cos(inputs)) ** 2).mean(axis=1)
    assert abs(per_task.mean() - 3.01) < 4 * per_task.std() / math.sqrt(20_000)


@pytest.mark.parametrize("noise_std", [0.05, 1, 3.0])
def test_noise_has_the_standard_deviation_asked_for(noise_std):
    batch = sinusoid(noise_std=noise_std).episodes(range(5_000))
    quiet = sinusoid().episodes(range(5_000))
    np.testing.assert_array_equal(points(batch)[0], points(quiet)[0])
    noise = (points(batch)[1].astype(np.float64) - points(quiet)[1]) / noise_std
    error = 1 / math.sqrt(noise.size)
    assert abs(noise.mean()) < 4 * error
    assert abs(noise.std() - 1) < 4 * error / math.sqrt(2)
    assert abs(np.mean(np.abs(noise) < 1) - math.erf(math.sqrt(0.5))) < 2 * error
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 4 / math.sqrt(5_000), "points have noise of their own"
    assert abs(np.corrcoef(noise.ravel(), points(batch)[0].ravel())[0, 1]) < 4 * error, "noise knows no input"


def test_noise_of_zero_is_no_noise():
    assert sinusoid(noise_std=0).episodes(range(9)).digest() == sinusoid().episodes(range(9)).digest()


# Tasks


def test_a_task_is_the_same_whichever_episode_visits_it():
    dataset = sinusoid(num_tasks=7)
    batch = dataset.episodes(range(200), seed=11)
    inputs, targets = points(batch)
    for number, parameters in enumerate(zip(*dataset.task_parameters(range(7)).values(), strict=True)):
        amplitude, phase = parameters
        visits = batch.plan.classes[:, 0] == number
        assert visits.sum() > 10
        expected = amplitude * np.sin(inputs[visits].astype(np.float64) - phase)
        np.testing.assert_allclose(targets[visits], expected, rtol=0, atol=3e-6)
        assert len(np.unique(inputs[visits])) == inputs[visits].size, "the points are new at every visit"


def test_task_i_and_episodes_use_one_family():
    dataset = sinusoid()
    dataset.seed(5)
    parameters = dataset.task_parameters([123_456])
    task = dataset[123_456]["test"]
    assert (task.index, task.num_classes, len(task)) == (123_456, None, 6)
    expected = parameters["amplitude"] * np.sin(task.inputs.astype(np.float64) - parameters["phase"])
    np.testing.assert_allclose(task.targets, expected, rtol=0, atol=3e-6)


def test_the_dataset_s_seed_and_the_meta_split_choose_the_family_and_nothing_else():
    families = set()
    for seed, meta_split in itertools.product((-1, 0, 1), ("train", "val", "test")):
        dataset = sinusoid(meta_split=meta_split)
        dataset.seed(seed)
        families.add(dataset.task_parameters([0, 1])["amplitude"].tobytes())
    assert len(families) == 9
    for other in (sinusoid(12), sinusoid(num_tasks=5), sinusoid(noise_std=1.0)):
        for name, values in other.task_parameters([0, 4]).items():
            np.testing.assert_array_equal(values, sinusoid().task_parameters([0, 4])[name])


def test_the_episode_s_seed_leaves_the_family_alone():
    dataset = sinusoid(num_tasks=3)
    before = dataset.task_parameters(range(3))
    one, other = dataset.episodes(range(4), seed=1), dataset.episodes(range(4), seed=2)
    assert one.digest() != other.digest()
    np.testing.assert_array_equal(dataset.task_parameters(range(3))["phase"], before["phase"])


def test_a_task_is_fixed_by_seed_and_number():
    dataset = sinusoid(noise_std=0.2)
    first = dataset[17]["train"]
    np.testing.assert_array_equal(sinusoid(noise_std=0.2)[np.int64(17)]["train"].targets, first.targets)
    dataset.seed(1)
    assert (dataset[17]["train"].inputs != first.inputs).any()
    assert (dataset[18]["train"].inputs != dataset[17]["train"].inputs).any()


def test_a_task_is_a_map_style_dataset_of_pairs_of_floats():
    task = sinusoid()[3]["train"]
    x, y = task[2]
    assert (x.shape, y.shape, x.dtype, y.dtype) == ((1,), (1,), np.float32, np.float32)
    assert len(list(task)) == len(task) == 4
    assert repr(task) == "Task(index=3, num_classes=None, 4 examples)"


def test_without_a_splitter_a_task_keeps_all_points():
    whole = sinusoid(dataset_transform=None)[3]
    assert (whole.inputs.shape, whole.targets.shape) == ((10, 1), (10, 1))


def test_support_and_query_divide_the_points():
    whole = sinusoid(dataset_transform=None).episodes(range(20))["all"][0][..., 0]
    divided = points(sinusoid().episodes(range(20)))[0]
    np.testing.assert_array_equal(np.sort(divided, axis=1), np.sort(whole, axis=1))
    ordered = sinusoid(dataset_transform=ClassSplitter(shuffle=False, num_train_per_class=4, num_test_per_class=6))
    np.testing.assert_array_equal(points(ordered.episodes(range(20)))[0], whole)


def test_enlarging_the_query_set_keeps_the_support_set():
    batches = [
        sinusoid(
            30, dataset_transform=ClassSplitter(num_train_per_class=5, num_test_per_class=count), noise_std=0.1
        ).episodes(range(9))["train"]
        for count in (1, 10, 25)
    ]
    for inputs, targets in batches[1:]:
        np.testing.assert_array_equal(inputs, batches[0][0])
        np.testing.assert_array_equal(targets, batches[0][1])


def test_a_trillion_tasks_cost_no_memory():
    tracemalloc.start()
    dataset = sinusoid(num_tasks=10**12)
    plan = dataset.plan(0, range(64))
    dataset.gather(plan)
    firsts = list(itertools.islice(dataset, 2))
    task = dataset[10**12 - 1]
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 1_000_000
    assert len(dataset) == dataset.num_tasks == 10**12
    assert plan.classes.max() > 2**32
    assert [each["train"].index for each in firsts] == [0, 1]
    assert task["train"].index == 10**12 - 1


def test_tasks_are_drawn_uniformly():
    plan = sinusoid(num_tasks=20).plan(0, range(20_000))
    assert abs(chi_square_excess(np.bincount(plan.classes[:, 0], minlength=20))) < 4


# Helpers


@pytest.mark.parametrize(
    ("arguments", "splits", "samples"),
    [
        ({"shots": 5}, (("train", 5), ("test", 5)), 10),
        ({"shots": 5, "test_shots": 10}, (("train", 5), ("test", 10)), 15),
        ({"shots": 5, "num_samples_per_task": 40}, (("train", 5), ("test", 5)), 40),
    ],
)
def test_the_helper_attaches_the_splitter(arguments, splits, samples):
    dataset = toy.helpers.sinusoid(**arguments, noise_std=0.1, meta_split="val", num_tasks=9)
    assert dataset.splitter.splits == splits
    assert dataset.num_samples_per_task == samples
    assert (dataset.noise_std, dataset.meta_split, dataset.num_tasks) == (0.1, "val", 9)
    assert (dataset.splitter.shuffle, dataset.current_seed) == (True, 0)
    chosen = helpers.sinusoid(5, shuffle=False, seed=3)
    assert (chosen.splitter.shuffle, chosen.current_seed) == (False, 3)


def test_the_helper_gives_the_episodes_of_the_long_form():
    long = ClassSplitter(Sinusoid(15, noise_std=0.5), num_train_per_class=5, num_test_per_class=10)
    assert (
        helpers.sinusoid(5, test_shots=10, noise_std=0.5).episodes(range(3)).digest()
        == long.episodes(range(3)).digest()
    )


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples_per_task": 0}, "`num_samples_per_task` must be a positive integer, got 0"),
        ({"num_samples_per_task": 2.5}, "`num_samples_per_task` must be a positive integer, got 2.5"),
        ({"num_tasks": 0}, "`num_tasks` must be a positive integer, got 0"),
        ({"num_tasks": True}, "`num_tasks` must be a positive integer, got True"),
        ({"noise_std": -0.1}, "`noise_std` must be a finite number of at least 0, or None, got -0.1"),
        ({"noise_std": math.nan}, "`noise_std` must be a finite number .*, got nan"),
        ({"noise_std": math.inf}, "`noise_std` must be a finite number .*, got inf"),
        ({"meta_split": "dev"}, "got 'dev'"),
        ({"num_samples_per_task": 9}, "need 10 points, `num_samples_per_task` is 9; raise it or ask for fewer shots"),
    ],
)
def test_impossible_problems_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        sinusoid(**arguments)


@pytest.mark.parametrize("index", [-1, 20, 1.0, "3", (3,), None])
def test_what_numbers_no_task_is_refused(index):
    with pytest.raises(IndexError, match=r"a task is addressed by an integer in \[0, 20\), got "):
        sinusoid(num_tasks=20)[index]


def test_a_problem_says_what_it_is():
    assert repr(sinusoid(meta_split="val")) == "Sinusoid(1000000 tasks of 10 points, meta-val)"
