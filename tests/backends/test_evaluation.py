"""One call evaluates: every episode counts once, whatever the batches and the task map."""

import re

import numpy as np
import pytest
from tolerances import assert_close

from backends.problems import PROBLEMS
from metabridge.episodes.metadatasets import CombinationMetaDataset
from metabridge.episodes.splitters import WeightedClassSplitter
from metabridge.runs.evaluation import Evaluation
from metabridge.runs.statistics import mean_and_ci95
from metabridge.sources import ArraySource
from metabridge.toy import Sinusoid

EPISODES = 7
RESULTS: dict[tuple[str, str], Evaluation] = {}


class Nearest:
    """The features of the query set as outputs: no inner loop, and nothing to compile."""

    def predict(self, params, batch, steps=None):
        return batch["test"][0]


def problem_of(backend, name="vectors", task_map="auto"):
    problem = PROBLEMS[name]
    run = problem.run
    loss = backend.functional.mean_squared_error if run.episode.ways is None else backend.functional.cross_entropy
    modules = {"network": backend.network(run.model)}
    algorithm = backend.algorithms.ALGORITHMS[run.algorithm.name].from_config(
        run.algorithm, modules, loss, run.episode.ways, task_map
    )
    params = backend.weights.from_neutral(problem.perturbed(), run.layers, "float64" if backend.name == "jax" else None)
    return algorithm, params, problem.dataset()


@pytest.mark.parametrize("name", ["sinusoid", "vectors"])
def test_the_values_are_those_of_every_episode_by_hand(backend64, name):
    algorithm, params, dataset = problem_of(backend64, name)
    found = backend64.evaluation.evaluate(algorithm, params, dataset, episodes=EPISODES, batch_size=3, seed=1)
    batch = dataset.episodes(range(EPISODES), seed=1)
    place = {
        split: tuple(backend64.array(each.astype(np.float64) if each.dtype == np.float32 else each) for each in arrays)
        for split, arrays in batch.items()
    }
    outputs, targets = backend64.numpy(algorithm.predict(params, place)), batch["test"][1]
    if name == "sinusoid":
        expected = ((outputs - targets) ** 2).mean(axis=(1, 2))
    else:
        expected = (outputs.argmax(-1) == targets).mean(axis=1)
    assert found.values.shape == (EPISODES,)
    assert_close(found.values, expected, "forward")
    assert (found.mean, found.ci95) == mean_and_ci95(found.values)
    assert found.measure == ("mean squared error" if name == "sinusoid" else "accuracy")
    RESULTS[backend64.name, name] = found
    if {("torch", name), ("jax", name)} <= RESULTS.keys():
        assert_close(RESULTS["jax", name].values, RESULTS["torch", name].values, "forward")


@pytest.mark.parametrize(("batch_size", "task_map"), [(1, "sequential"), (3, "vectorised"), (7, "auto"), (100, "auto")])
def test_neither_batch_size_nor_task_map_matters(backend64, batch_size, task_map):
    algorithm, params, dataset = problem_of(backend64, "vectors", task_map)
    found = backend64.evaluation.evaluate(algorithm, params, dataset, episodes=EPISODES, batch_size=batch_size, seed=1)
    key = backend64.name, "any batch"
    assert_close(found.values, RESULTS.setdefault(key, found).values, "forward")


def test_a_batch_has_at_most_as_many_episodes_as_are_asked_for(backend64):
    seen = []

    class Counting(Nearest):
        def predict(self, params, batch, steps=None):
            seen.append((len(batch["test"][0]), steps))
            return batch["test"][0]

    dataset = PROBLEMS["vectors"].dataset()
    for episodes, batch_size in ((5, 2), (3, 8)):
        found = backend64.evaluation.evaluate(
            Counting(), {}, dataset, episodes=episodes, batch_size=batch_size, steps=4
        )
        assert len(found) == episodes
    assert seen == [(2, 4), (2, 4), (2, 4), (3, 4)]


def test_a_measure_of_one_s_own(backend64):
    dataset = PROBLEMS["vectors"].dataset()

    def largest_target(outputs, targets):
        return targets.max()

    found = backend64.evaluation.evaluate(Nearest(), {}, dataset, episodes=3, measure=largest_target)
    np.testing.assert_array_equal(found.values, [2, 2, 2])
    assert found.measure == "largest target"
    with pytest.raises(ValueError, match=r"`measure` must be a scalar, got shape \(9, 4\)"):
        backend64.evaluation.evaluate(Nearest(), {}, dataset, episodes=3, measure=lambda outputs, targets: outputs)


def test_the_seed_is_the_dataset_s_unless_given(backend64):
    dataset = PROBLEMS["vectors"].dataset()
    evaluate = backend64.evaluation.evaluate
    values = {seed: evaluate(Nearest(), {}, dataset, episodes=20, seed=seed).values for seed in (0, 5)}
    assert (values[0] != values[5]).any()
    dataset.seed(5)
    np.testing.assert_array_equal(evaluate(Nearest(), {}, dataset, episodes=20).values, values[5])


@pytest.mark.parametrize(
    ("dataset", "choices", "message"),
    [
        (None, {"episodes": 0}, "`episodes` must be a positive integer, got 0"),
        (None, {"batch_size": 2.5}, "`batch_size` must be a positive integer, got 2.5"),
        (Sinusoid(5), {}, "`dataset` must be a meta-dataset with a support set 'train' and a query set 'test'"),
    ],
)
def test_mistakes_are_named(backend, dataset, choices, message):
    dataset = PROBLEMS["vectors"].dataset() if dataset is None else dataset
    with pytest.raises(ValueError, match=re.escape(message)):
        backend.evaluation.evaluate(Nearest(), {}, dataset, **choices)


def test_an_evaluation_repeats_its_episodes_without_a_warning(backend, recwarn):
    dataset = PROBLEMS["vectors"].dataset()
    dataset.seed(None)
    values = [backend.evaluation.evaluate(Nearest(), {}, dataset, episodes=3).values for _ in range(3)]
    np.testing.assert_array_equal(values[0], values[2])
    assert not recwarn.list


def test_steps_of_an_algorithm_without_inner_steps_are_refused(backend64):
    algorithm = backend64.algorithms.Prototypical(lambda params, inputs: inputs, ways=3)
    with pytest.raises(ValueError, match="`steps` must be None: Prototypical has no inner steps, got 3"):
        backend64.evaluation.evaluate(algorithm, {}, PROBLEMS["vectors"].dataset(), episodes=2, steps=3)


def test_padding_does_not_count(backend64):
    """Episodes of unequal sizes: accuracy over the examples that are there."""
    classes = {f"class{size}": np.eye(2)[np.arange(size) % 2] for size in (4, 6, 9, 12)}
    dataset = WeightedClassSplitter(
        CombinationMetaDataset(ArraySource.from_classes(classes), 2),
        min_num_samples={"train": 1, "test": 2},
        max_num_samples={"train": 1, "test": 9},
        train_weights=0.1,
        test_weights=0.8,
    )
    found = backend64.evaluation.evaluate(Nearest(), {}, dataset, episodes=6, batch_size=6, seed=0)
    batch = dataset.episodes(range(6), seed=0)
    inputs, targets = batch["test"]
    mask = batch.masks["test"]
    assert not mask.all()
    expected = [(x.argmax(-1) == y)[m].mean() for x, y, m in zip(inputs, targets, mask, strict=True)]
    assert_close(found.values, expected, "forward_float32")


@pytest.mark.parametrize(
    ("values", "shown"),
    [
        ([0.9, 0.95, 1.0, 0.92], "0.94 ± 0.04"),
        ([0.94, 0.95, 0.945, 0.942], "0.944 ± 0.004"),
        ([0.8, 0.83], "0.81 ± 0.03"),
        ([1, 1, 1], "1.000 ± 0.000"),
        ([0.5], "0.500 ± inf"),
        ([100, 160, 120], "127 ± 35"),
        ([2.0, 2.1, 2.3, 2.0], "2.10 ± 0.14"),
    ],
)
def test_mean_and_interval_are_rounded_alike(values, shown):
    evaluation = Evaluation(np.array(values, dtype=np.float64), "accuracy")
    assert str(evaluation) == shown
    assert repr(evaluation) == f"Evaluation(accuracy {shown}, {len(values)} episodes)"
