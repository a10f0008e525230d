"""Toy problems: exact arithmetic on stream words, nothing stored, the distributions of the paper."""

import dataclasses
import itertools
import math
import tracemalloc

import numpy as np
import pytest
from helpers import chi_square_excess, every
from hypothesis import given
from hypothesis import strategies as st

from metabridge import ClassSplitter, toy
from metabridge.streams import normals, philox_words
from metabridge.toy import Harmonic, Sinusoid, SinusoidAndLine, helpers

RULE = ClassSplitter(num_train_per_class=4, num_test_per_class=6)


def sinusoid(num_samples_per_task=10, **arguments):
    return make(Sinusoid, num_samples_per_task, **arguments)


def make(problem, num_samples_per_task=10, **arguments):
    return problem(num_samples_per_task, **{"dataset_transform": RULE, **arguments})


def sinusoid_reference(parameters, x):
    return parameters["amplitude"] * np.sin(x - parameters["phase"])


def harmonic_reference(parameters, x):
    first = parameters["amplitude_1"] * np.sin(parameters["frequency"] * x + parameters["phase_1"])
    return first + parameters["amplitude_2"] * np.sin(2 * parameters["frequency"] * x + parameters["phase_2"])


def sinusoid_and_line_reference(parameters, x):
    line = parameters["slope"] * x + parameters["intercept"]
    return np.where(parameters["amplitude"] > 0, sinusoid_reference(parameters, x), line)


REFERENCES = {Sinusoid: sinusoid_reference, Harmonic: harmonic_reference, SinusoidAndLine: sinusoid_and_line_reference}
"""Problem → its function, written with NumPy's own sine."""

ALL = pytest.mark.parametrize("problem", REFERENCES)
RANGES = {
    Sinusoid: {"amplitude": (0.1, 5.0), "phase": (0.0, math.pi)},
    Harmonic: {
        "centre": (-4.0, 4.0),
        "frequency": (5.0, 7.0),
        "phase_1": (0.0, 2 * math.pi),
        "phase_2": (0.0, 2 * math.pi),
    },
    SinusoidAndLine: {
        "amplitude": (0.1, 5.0),
        "phase": (0.0, math.pi),
        "slope": (-3.0, 3.0),
        "intercept": (-3.0, 3.0),
    },
}
"""Problem → the literature's uniform distributions of a task's parameters."""


def columns(dataset, tasks):
    """Parameter name → `(B, 1)`."""
    return {name: values[:, None] for name, values in dataset.task_parameters(tasks).items()}


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


@ALL
def test_targets_are_the_formula(problem):
    """Over the inputs that episodes have, against NumPy's sine of the same float64 parameters."""
    dataset = make(problem, 50, dataset_transform=None, num_tasks=10**6)
    tasks = np.arange(0, 10**6, 997)
    x = dataset.inputs_from_words(dataset.task_parameters(tasks), philox_words((1, 2), tasks, 50))
    y = dataset.evaluate(tasks, x)
    assert y.shape == x.shape == (len(tasks), 50)
    assert y.dtype == x.dtype == np.float64
    np.testing.assert_allclose(y, REFERENCES[problem](columns(dataset, tasks), x), rtol=0, atol=1e-12)


@ALL
def test_targets_of_some_points_do_not_depend_on_the_others(problem):
    dataset = make(problem)
    tasks, x = np.arange(30), np.linspace(-5, 5, 30 * 7).reshape(30, 7)
    whole = dataset.evaluate(tasks, x)
    some = np.array([17, 3, 29, 3])
    np.testing.assert_array_equal(dataset.evaluate(some, x[some]), whole[some])
    np.testing.assert_array_equal(dataset.evaluate(tasks, x[:, ::-2]), whole[:, ::-2])
    np.testing.assert_array_equal(dataset.evaluate([5], x[[5]].tolist()), whole[[5]])


@ALL
def test_float32_inputs_are_computed_with_in_float64(problem):
    dataset = make(problem)
    x = np.linspace(-5, 5, 9, dtype=np.float32)[None]
    np.testing.assert_array_equal(dataset.evaluate([3], x), dataset.evaluate([3], x.astype(np.float64)))


def test_batches_hold_the_rounded_function_values():
    dataset = sinusoid()
    batch = dataset.episodes(range(50), seed=3)
    for inputs, targets in batch.values():
        assert inputs.dtype == targets.dtype == np.float32
        exact = dataset.evaluate(batch.plan.classes[:, 0], inputs[..., 0].astype(np.float64))
        # the input was rounded to float32 after its target was computed: a slope of at most 5
        assert np.abs(targets[..., 0] - exact).max() <= (5 + 5 * 5) * 2.0**-24
    assert [inputs.shape for inputs, _ in batch.values()] == [(50, 4, 1), (50, 6, 1)]


@ALL
def test_the_values_are_computed_before_anything_is_rounded(problem):
    """Targets are float32 of the float64 function at the float64 inputs."""
    dataset = make(problem, 3, dataset_transform=None)
    batch = dataset.episodes(range(20))
    parameters = dataset.task_parameters(batch.plan.classes[:, 0])
    exact_inputs = dataset.inputs_from_words(parameters, philox_words(batch.plan.key, range(20), 3, lane=1))
    inputs, targets = points(batch)
    assert inputs.dtype == targets.dtype == np.float32
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


def within(moment, expected, spread, count):
    """Whether a mean of `count` values of this standard deviation is within four standard errors."""
    return abs(moment - expected) < 4 * spread / math.sqrt(count)


@ALL
def test_uniform_parameters_have_the_literature_s_distribution(problem):
    dataset = make(problem, num_tasks=10**9)
    tasks = np.arange(20_000) * 49_999  # all over the numbers
    parameters = dataset.task_parameters(tasks)
    ranges = {name: ends for name, ends in dataset.parameter_ranges.items() if name != "input"}
    assert ranges == RANGES[problem]
    for name, (low, high) in ranges.items():
        values = parameters[name]
        if problem is SinusoidAndLine:
            values = values[dataset.is_sinusoid(tasks) == (name in RANGES[Sinusoid])]
        width = high - low
        assert low <= values.min() < low + 0.002 * width
        assert high - 0.002 * width < values.max() < high
        assert abs(chi_square_excess(np.histogram(values, 40, (low, high))[0])) < 4
        assert within(values.mean(), (low + high) / 2, width / math.sqrt(12), values.size)
        assert within(values.var(), width**2 / 12, width**2 / math.sqrt(180), values.size)


@ALL
def test_parameters_are_independent_of_each_other_and_of_the_neighbouring_task(problem):
    dataset = make(problem, num_tasks=20_001)
    parameters = np.stack([*dataset.task_parameters(range(20_001)).values()])
    if problem is SinusoidAndLine:  # of the parameters, two are 0; whether they are is tested by itself
        parameters = parameters[:, dataset.is_sinusoid(range(20_001))][:2]
    here, there = parameters[:, :-1], parameters[:, 1:]
    correlations = np.corrcoef(here, there) - np.eye(2 * len(parameters))
    assert np.abs(correlations).max() < 4.5 / math.sqrt(here.shape[1])


def test_harmonics_have_standard_normal_amplitudes():
    parameters = make(Harmonic, num_tasks=40_000).task_parameters(range(40_000))
    for name in ("amplitude_1", "amplitude_2"):
        values = parameters[name]
        for power, expected, second in ((1, 0, 1), (2, 1, 3), (3, 0, 15), (4, 3, 105)):
            assert within((values**power).mean(), expected, math.sqrt(second - expected**2), values.size)
        inside = [0.5 * math.erf(z / math.sqrt(2)) for z in (1.0, 2.0)]
        assert within((np.abs(values) < 1).mean(), 2 * inside[0], 0.5, values.size)
        assert within(((values > 0) & (values < 2)).mean(), inside[1], 0.5, values.size)


def test_the_inputs_of_a_harmonic_are_normal_around_the_centre_of_its_task():
    dataset = make(Harmonic)
    batch = dataset.episodes(range(8_000))
    inputs = points(batch)[0].astype(np.float64)
    centres = dataset.task_parameters(batch.plan.classes[:, 0])["centre"]
    offsets = inputs - centres[:, None]
    assert within(offsets.mean(), 0, 1, offsets.size)
    assert within(offsets.var(), 1, math.sqrt(2), offsets.size)
    assert within((offsets**4).mean(), 3, math.sqrt(96), offsets.size)
    assert np.abs(np.corrcoef(offsets, rowvar=False) - np.eye(10)).max() < 4.5 / math.sqrt(8_000)
    assert within((offsets.mean(axis=1) * centres).mean(), 0, 8 / math.sqrt(12 * 10), 8_000)
    words = philox_words(batch.plan.key, range(8_000), 10, lane=1)
    np.testing.assert_array_equal(np.sort(inputs), np.sort((centres[:, None] + normals(words)).astype(np.float32)))


@pytest.mark.parametrize("problem", [Sinusoid, SinusoidAndLine])
def test_other_inputs_are_uniform_and_do_not_depend_on_the_task(problem):
    dataset = make(problem)
    inputs = points(dataset.episodes(range(2_000)))[0]
    assert dataset.parameter_ranges["input"] == (-5.0, 5.0)
    counts = np.histogram(inputs, 40, (-5, 5))[0]
    assert counts.sum() == inputs.size
    assert abs(chi_square_excess(counts)) < 4
    np.testing.assert_array_equal(points(make(problem, num_tasks=3).episodes(range(2_000)))[0], inputs)


def test_a_task_is_a_sinusoid_or_a_line_with_equal_odds():
    dataset = make(SinusoidAndLine)
    kinds = dataset.is_sinusoid(range(40_000))
    assert kinds.dtype == np.bool_
    assert within(kinds.mean(), 0.5, 0.5, 40_000)
    pairs = np.bincount(2 * kinds[:-1:2] + kinds[1::2])  # Torchmeta's exact half would make neighbours depend
    assert abs(chi_square_excess(pairs)) < 4
    for name, values in dataset.task_parameters(range(40_000)).items():
        np.testing.assert_array_equal(values != 0, kinds == (name in ("amplitude", "phase")))


def test_the_kind_of_a_task_does_not_depend_on_how_many_there_are():
    few, many = (make(SinusoidAndLine, num_tasks=count).is_sinusoid(range(100)) for count in (100, 10**9))
    np.testing.assert_array_equal(few, many)
    assert 30 < few.sum() < 70


def test_sinusoids_and_lines_are_exactly_one_of_both():
    dataset = make(SinusoidAndLine)
    tasks, x = np.arange(400), np.linspace(-5, 5, 21)
    y = dataset.evaluate(tasks, np.broadcast_to(x, (400, 21)))
    lines = ~dataset.is_sinusoid(tasks)
    parameters = columns(dataset, tasks)
    np.testing.assert_array_equal(y[lines], (parameters["slope"] * x + parameters["intercept"])[lines])
    bend = np.abs(np.diff(y, 2)).max(axis=1)
    assert bend[lines].max() < 1e-13
    assert bend[~lines].min() > 0.01


def test_the_three_problems_have_tasks_of_their_own():
    amplitudes = [make(problem).task_parameters(range(100)) for problem in (Sinusoid, SinusoidAndLine)]
    assert not np.isin(amplitudes[0]["amplitude"], amplitudes[1]["amplitude"]).any()
    assert len({make(problem, num_tasks=50).fingerprint for problem in REFERENCES}) == 3


@pytest.mark.parametrize(
    ("problem", "documented", "exact"),
    [
        (Sinusoid, 4.25, (5**3 - 0.1**3) / (3 * 4.9) / 2),
        (Harmonic, 1, 1.0),
        (SinusoidAndLine, 16.13, ((5**3 - 0.1**3) / (3 * 4.9) / 2 + 3 * 25 / 3 + 3) / 2),
    ],
)
def test_predicting_zero_has_the_documented_error(problem, documented, exact):
    assert round(exact, 2) == documented
    _, targets = points(make(problem, num_tasks=10**6).episodes(range(20_000)))
    per_task = (targets.astype(np.float64) ** 2).mean(axis=1)
    assert within(per_task.mean(), exact, per_task.std(), 20_000)


def test_the_best_blind_function_for_sinusoids_and_lines_has_the_documented_error():
    """E[y | x] is half the sinusoids', as lines average to 0; over U[−5, 5], cos² averages to (1 + sin(10)/10) / 2."""
    slope = 2.55 / math.pi
    exact = 16.1259 - slope**2 * (1 + math.sin(10) / 10) / 2
    assert round(exact, 2) == 15.81
    inputs, targets = points(make(SinusoidAndLine).episodes(range(20_000)))
    per_task = ((targets.astype(np.float64) + slope * np.cos(inputs)) ** 2).mean(axis=1)
    assert within(per_task.mean(), exact, per_task.std(), 20_000)


def test_no_blind_function_of_harmonics_beats_zero():
    """Targets average to 0 at every input, so the part of them that an input predicts is 0."""
    inputs, targets = points(make(Harmonic, num_tasks=10**6).episodes(range(20_000)))
    for function in (np.sin, np.cos, np.sign, lambda x: np.sin(6 * x), lambda x: np.cos(12 * x), np.abs):
        per_task = (targets * function(inputs)).mean(axis=1, dtype=np.float64)
        assert within(per_task.mean(), 0, per_task.std(), 20_000)


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


@ALL
@pytest.mark.parametrize("noise_std", [0.05, 1, 3.0])
def test_noise_has_the_standard_deviation_asked_for(problem, noise_std):
    batch = make(problem, noise_std=noise_std).episodes(range(5_000))
    quiet = make(problem).episodes(range(5_000))
    np.testing.assert_array_equal(points(batch)[0], points(quiet)[0])
    noise = (points(batch)[1].astype(np.float64) - points(quiet)[1]) / noise_std
    error = 1 / math.sqrt(noise.size)
    assert abs(noise.mean()) < 4 * error
    assert abs(noise.std() - 1) < 4 * error / math.sqrt(2)
    assert abs(np.mean(np.abs(noise) < 1) - math.erf(math.sqrt(0.5))) < 2 * error
    assert abs(np.corrcoef(noise[:, 0], noise[:, 1])[0, 1]) < 4 / math.sqrt(5_000), "points have noise of their own"
    assert abs(np.corrcoef(noise.ravel(), points(batch)[0].ravel())[0, 1]) < 4 * error, "noise knows no input"


@ALL
def test_noise_of_zero_is_no_noise(problem):
    assert make(problem, noise_std=0).episodes(range(9)).digest() == make(problem).episodes(range(9)).digest()


@ALL
def test_the_noise_of_a_point_stays_with_it(problem):
    """Whichever points a splitter takes in whichever order, a point has one input and one noisy target."""
    rules = [RULE, ClassSplitter(num_train_per_class=1, num_test_per_class=2), None]
    seen = [{}, {}, {}]
    for rule, found in zip(rules, seen, strict=True):
        batch = make(problem, noise_std=0.5, dataset_transform=rule).episodes(range(20))
        for episode, (inputs, targets) in enumerate(zip(*points(batch), strict=True)):
            found.update({(episode, x): y for x, y in zip(inputs.tolist(), targets.tolist(), strict=True)})
    assert [len(found) for found in seen] == [200, 60, 200]
    assert seen[0] == seen[2]
    assert seen[1].items() <= seen[2].items()


@ALL
def test_noise_of_numpy_s_scalars_is_that_of_python_s(problem):
    assert make(problem, noise_std=np.float64(0.5)).fingerprint == make(problem, noise_std=0.5).fingerprint
    assert make(problem, noise_std=np.int64(2)).fingerprint == make(problem, noise_std=2.0).fingerprint


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


@ALL
def test_the_dataset_s_seed_and_the_meta_split_choose_the_family_and_nothing_else(problem):
    families = []
    for seed, meta_split in itertools.product((-1, 0, 1), ("train", "val", "test")):
        dataset = make(problem, meta_split=meta_split)
        dataset.seed(seed)
        families.append(np.stack([*dataset.task_parameters(range(500)).values()]))
    drawn = np.concatenate(families, axis=1)
    drawn = drawn[:, drawn[0] != 0]  # without lines, which have no amplitude
    assert len(np.unique(drawn[0])) == drawn.shape[1], "no task is in two families"
    if problem is not SinusoidAndLine:
        correlations = np.corrcoef(np.concatenate(families)) - np.eye(9 * len(families[0]))
        assert np.abs(correlations).max() < 5 / math.sqrt(500)
    for other in (make(problem, 12), make(problem, num_tasks=5), make(problem, noise_std=1.0)):
        for name, values in other.task_parameters([0, 4]).items():
            np.testing.assert_array_equal(values, make(problem).task_parameters([0, 4])[name])


@ALL
def test_a_task_s_parameters_are_addressed_in_any_order(problem):
    dataset = make(problem, num_tasks=10**12)
    tasks = np.array([0, 10**12 - 1, 5, 5, 2**33, 1])
    whole = dataset.task_parameters(tasks)
    for name in whole:
        alone = [float(dataset.task_parameters([task])[name][0]) for task in tasks[::-1].tolist()]
        assert alone[::-1] == whole[name].tolist()
    assert [values.shape for values in dataset.task_parameters([]).values()] == [(0,)] * len(whole)


@ALL
def test_episodes_do_not_depend_on_their_batch(problem):
    dataset = make(problem, noise_std=0.3)
    indices = np.array([9, 0, 2**40, 9, 3])
    inputs, targets = points(dataset.episodes(indices, seed=4))
    for row, index in enumerate(indices):
        again = points(make(problem, noise_std=0.3).episodes([index], seed=4))
        np.testing.assert_array_equal(again[0][0], inputs[row])
        np.testing.assert_array_equal(again[1][0], targets[row])
    np.testing.assert_array_equal(targets[0], targets[3])


@ALL
def test_meta_splits_share_no_episode(problem):
    train, val, test = (
        points(make(problem, meta_split=split).episodes(range(50))) for split in ("train", "val", "test")
    )
    for one, other in ((train, val), (train, test), (val, test)):
        assert not np.isin(one[0], other[0]).all(axis=1).any()
        assert not np.isin(one[1], other[1]).all(axis=1).any()


@ALL
def test_the_episode_s_seed_leaves_the_family_alone(problem):
    dataset = make(problem, num_tasks=3)
    before = dataset.task_parameters(range(3))
    one, other = dataset.episodes(range(4), seed=1), dataset.episodes(range(4), seed=2)
    assert one.digest() != other.digest()
    for name, values in dataset.task_parameters(range(3)).items():
        np.testing.assert_array_equal(values, before[name])


@ALL
def test_a_task_is_fixed_by_seed_and_number(problem):
    dataset = make(problem, noise_std=0.2)
    first = dataset[17]["train"]
    dataset[3], dataset.sample_task(), dataset.episodes(range(2))
    np.testing.assert_array_equal(dataset[17]["train"].targets, first.targets)
    np.testing.assert_array_equal(make(problem, noise_std=0.2)[np.int64(17)]["train"].targets, first.targets)
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


@ALL
def test_support_and_query_divide_the_points(problem):
    whole = make(problem, dataset_transform=None).episodes(range(20))["all"][0][..., 0]
    divided = points(make(problem).episodes(range(20)))[0]
    np.testing.assert_array_equal(np.sort(divided, axis=1), np.sort(whole, axis=1))
    assert every(len(set(row)) == 10 for row in divided.tolist()), "support and query share no point"
    ordered = make(problem, dataset_transform=ClassSplitter(shuffle=False, num_train_per_class=4, num_test_per_class=6))
    np.testing.assert_array_equal(points(ordered.episodes(range(20)))[0], whole)


@ALL
def test_enlarging_the_query_set_keeps_the_support_set(problem):
    rules = [ClassSplitter(num_train_per_class=5, num_test_per_class=count) for count in (1, 10, 25)]
    batches = [make(problem, 30, dataset_transform=rule, noise_std=0.1).episodes(range(9))["train"] for rule in rules]
    for inputs, targets in batches[1:]:
        np.testing.assert_array_equal(inputs, batches[0][0])
        np.testing.assert_array_equal(targets, batches[0][1])


@ALL
def test_a_trillion_tasks_cost_no_memory(problem):
    tracemalloc.start()
    dataset = make(problem, num_tasks=10**12)
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


# Torchmeta's arguments and helpers

HELPERS = pytest.mark.parametrize(
    ("helper", "problem"),
    [(helpers.sinusoid, Sinusoid), (helpers.harmonic, Harmonic), (helpers.sinusoid_and_line, SinusoidAndLine)],
)


@pytest.mark.parametrize(("problem", "tasks"), [(Sinusoid, 10**6), (Harmonic, 5_000), (SinusoidAndLine, 10**6)])
def test_the_defaults_are_torchmeta_s(problem, tasks):
    dataset = problem(7)
    assert (dataset.num_samples_per_task, dataset.num_tasks, dataset.noise_std) == (7, tasks, None)
    assert (dataset.meta_split, dataset.splitter) == ("train", None)
    positional = problem(7, 30, 0.5)
    assert (positional.num_tasks, positional.noise_std) == (30, 0.5)


@HELPERS
@pytest.mark.parametrize(
    ("arguments", "splits", "samples"),
    [
        ({"shots": 5}, (("train", 5), ("test", 5)), 10),
        ({"shots": 5, "test_shots": 10}, (("train", 5), ("test", 10)), 15),
        ({"shots": 5, "num_samples_per_task": 40}, (("train", 5), ("test", 5)), 40),
    ],
)
def test_a_helper_attaches_the_splitter(helper, problem, arguments, splits, samples):
    dataset = helper(**arguments, noise_std=0.1, meta_split="val", num_tasks=9)
    assert type(dataset) is problem
    assert dataset.splitter.splits == splits
    assert dataset.num_samples_per_task == samples
    assert (dataset.noise_std, dataset.meta_split, dataset.num_tasks) == (0.1, "val", 9)
    assert (dataset.splitter.shuffle, dataset.current_seed) == (True, 0)
    chosen = helper(5, False, 7, 3)
    assert (chosen.splitter.shuffle, chosen.current_seed) == (False, 3)
    assert chosen.splitter.splits == (("train", 5), ("test", 7))


@HELPERS
def test_a_helper_gives_the_episodes_of_the_long_form(helper, problem):
    long = ClassSplitter(problem(15, noise_std=0.5), num_train_per_class=5, num_test_per_class=10)
    assert helper(5, test_shots=10, noise_std=0.5).episodes(range(3)).digest() == long.episodes(range(3)).digest()


@ALL
def test_a_meta_split_is_named_as_that_of_a_benchmark_is(problem):
    for name in ("train", "val", "test"):
        found = make(problem, **{f"meta_{name}": True})
        assert found.description == make(problem, meta_split=name).description
    assert make(problem).meta_split == "train"


@HELPERS
def test_a_helper_takes_the_flags_of_meta_splits(helper, problem):
    digests = {name: helper(5, **{f"meta_{name}": True}).episodes([0]).digest() for name in ("train", "val", "test")}
    assert len(set(digests.values())) == 3
    assert digests["train"] == helper(5).episodes([0]).digest()


@ALL
def test_a_plan_of_another_family_or_of_points_that_are_not_there_is_refused(problem):
    dataset, other = make(problem), make(problem, meta_split="val")
    reseeded, small = make(problem), problem(9)
    reseeded.seed(1)
    plan = dataset.plan(0, range(3))
    for each in (other, reseeded):
        with pytest.raises(ValueError, match=r"`plan` must be of this meta-dataset, .*made by one of other tasks"):
            each.gather(plan)
    with pytest.raises(IndexError, match=r"`plan` must name points in \[0, 9\), got 0 to 9"):
        small.gather(plan)
    with pytest.raises(IndexError, match=r"`plan` must name points in \[0, 10\), got -1 to"):
        dataset.gather(dataclasses.replace(plan, examples=plan.examples - 1))


@HELPERS
def test_a_helper_refuses_what_cannot_be(helper, problem):
    with pytest.raises(ValueError, match="`shots` must be a positive integer, got 0"):
        helper(0, test_shots=5)
    with pytest.raises(ValueError, match="`shots` must be a positive integer, got None"):
        helper(shots=None, test_shots=3)
    with pytest.raises(ValueError, match="`test_shots` must be a positive integer, got 0"):
        helper(5, test_shots=0)
    with pytest.raises(ValueError, match="need 10 points, `num_samples_per_task` is 9"):
        helper(5, num_samples_per_task=9)
    with pytest.raises(TypeError, match="dataset_transform"):
        helper(5, dataset_transform=RULE)
    with pytest.raises(TypeError, match="num_task"):
        helper(5, num_task=9)


def test_the_front_door_names_all_problems():
    assert {*toy.__all__} == {"Harmonic", "Sinusoid", "SinusoidAndLine", "ToyMetaDataset", "helpers"}
    assert {*helpers.__all__} == {"sinusoid", "harmonic", "sinusoid_and_line"}


# Errors


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_samples_per_task": 0}, "`num_samples_per_task` must be a positive integer, got 0"),
        ({"num_samples_per_task": 2.5}, "`num_samples_per_task` must be a positive integer, got 2.5"),
        ({"num_tasks": 0}, "`num_tasks` must be a positive integer, got 0"),
        ({"num_tasks": 2**64}, r"`num_tasks` must be below 2\*\*63, got 18446744073709551616"),
        ({"num_samples_per_task": 2**40}, r"`num_samples_per_task` must be at most 2\*\*31, got 1099511627776"),
        ({"noise_std": 10**400}, "`noise_std` must be a finite number .*, got an integer of 1329 bits"),
        ({"meta_train": True, "meta_test": True}, "exactly one of .* must be true, .*; got 'train', 'test'"),
        ({"meta_val": True, "meta_split": "train"}, "exactly one of .* must be true, .*; got 'val', 'train'"),
        ({"num_tasks": True}, "`num_tasks` must be a positive integer, got True"),
        ({"noise_std": -0.1}, "`noise_std` must be a finite number of at least 0, got -0.1"),
        ({"noise_std": math.nan}, "`noise_std` must be a finite number .*, got nan"),
        ({"noise_std": math.inf}, "`noise_std` must be a finite number .*, got inf"),
        ({"noise_std": "0.3"}, "`noise_std` must be a finite number .*, got '0.3'"),
        ({"noise_std": True}, "`noise_std` must be a finite number .*, got True"),
        ({"meta_split": "dev"}, "got 'dev'"),
        ({"num_samples_per_task": 9}, "need 10 points, `num_samples_per_task` is 9; raise it or ask for fewer shots"),
    ],
)
@ALL
def test_impossible_problems_are_refused(problem, arguments, message):
    with pytest.raises(ValueError, match=message):
        make(problem, **arguments)


@ALL
@pytest.mark.parametrize("index", [-1, 20, 1.0, "3", (3,), None])
def test_what_numbers_no_task_is_refused(problem, index):
    with pytest.raises(IndexError, match=r"a task is addressed by an integer in \[0, 20\), got "):
        make(problem, num_tasks=20)[index]


@ALL
@pytest.mark.parametrize(
    ("tasks", "error", "message"),
    [
        ([3, 20], IndexError, r"`tasks` must be numbers in \[0, 20\), got 20; raise `num_tasks`"),
        ([2**64 - 1], IndexError, r"`tasks` must be numbers in \[0, 20\), got 18446744073709551615"),
        ([-1], ValueError, "must be a list of non-negative integers, got"),
        ([1.0], TypeError, "must be integers below"),
    ],
)
def test_parameters_of_no_task_are_refused(problem, tasks, error, message):
    dataset = make(problem, num_tasks=20)
    with pytest.raises(error, match=message):
        dataset.task_parameters(tasks)
    with pytest.raises(error, match=message):
        dataset.evaluate(tasks, np.zeros((len(tasks), 1)))


@ALL
@pytest.mark.parametrize("shape", [(3,), (3, 5), (1, 5), (2, 5, 1), ()])
def test_inputs_without_a_row_for_each_task_are_refused(problem, shape):
    with pytest.raises(ValueError, match=r"`inputs` must have a row for each task, shape \(2, n\), got shape \("):
        make(problem).evaluate([0, 1], np.zeros(shape))


@ALL
def test_a_problem_says_what_it_is(problem):
    dataset = make(problem, meta_split="val", num_tasks=30)
    assert repr(dataset) == f"{problem.__name__}(30 tasks of 10 points, meta-val)"
    assert dataset.description["kind"] == problem.__name__
    assert dataset.description["ranges"].keys() == dataset.parameter_ranges.keys()
