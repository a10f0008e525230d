"""Every benchmark has a recipe, or a reason for having none, and both backends can follow it."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import every

from metabridge.backends import load_backend
from metabridge.comparison.compare import compare
from metabridge.comparison.findings import NAMES
from metabridge.configs import RunConfig
from metabridge.datasets.benchmarks import store_path
from metabridge.datasets.catalogue import BENCHMARKS, TOYS
from metabridge.episodes.metadatasets import META_SPLITS, CombinationMetaDataset
from metabridge.episodes.splitters import ClassSplitter
from metabridge.networks.parameters import initial_parameters
from metabridge.reports.comparison import write_report
from metabridge.reports.figures import draw_received_episodes
from metabridge.runs.manifests import make_manifest
from metabridge.runs.recipes import RECIPES, WITHOUT_RECIPE, make_meta_datasets, make_run
from metabridge.sources import ArraySource, write_store
from metabridge.transforms import Categorical, Normalize

pytestmark = pytest.mark.xdist_group("recipes")

STORED = sorted(RECIPES.keys() - TOYS.keys())
EVERY_RECIPE = pytest.mark.parametrize("name", RECIPES)


def made_data(run):
    """Noise in place of a stored benchmark, in its shape."""
    if run.episode.ways is None:
        return make_meta_datasets(run, "unused")[0]
    shape, rng = run.model.input_shape, np.random.default_rng(0)
    count = run.episode.shots + run.episode.test_shots
    images = len(shape) == 3
    examples = {
        name: rng.integers(0, 256, (count, *shape), np.uint8) if images else rng.random((count, *shape), np.float32)
        for name in "abcdef"
    }
    ways = run.episode.ways
    dataset = CombinationMetaDataset(ArraySource.from_classes(examples), ways, target_transform=Categorical(ways))
    return ClassSplitter(dataset, num_train_per_class=run.episode.shots, num_test_per_class=run.episode.test_shots)


def test_every_benchmark_has_a_recipe_or_a_reason_for_none():
    assert BENCHMARKS.keys() | TOYS.keys() == RECIPES.keys() | (WITHOUT_RECIPE.keys() & BENCHMARKS.keys())
    assert not RECIPES.keys() & WITHOUT_RECIPE.keys()
    for name, reason in WITHOUT_RECIPE.items():
        with pytest.raises(ValueError, match=f"`dataset` {name} cannot be compared: {reason}"):
            make_run(name)


@EVERY_RECIPE
def test_a_recipe_is_a_run_that_survives_json(name):
    run = make_run(name)
    assert RunConfig.from_dict(json.loads(json.dumps(run.to_dict()))) == run
    assert run.algorithm.inner_steps == RECIPES[name].inner_steps
    assert (run.episode.ways is None) == (name in TOYS)
    assert make_run(name, inner_steps=7).algorithm.inner_steps == 7


@pytest.mark.slow
@pytest.mark.parametrize("backend", NAMES)
@EVERY_RECIPE
def test_both_backends_can_follow_it(name, backend):
    smallest = {"shots": 1, "test_shots": 1, "inner_steps": 1, "meta_batch_size": 1}
    run = make_run(name, **smallest, ways=None if name in TOYS else 2)
    initial = initial_parameters(run.layers, run.seed)
    framework = load_backend(backend, "cpu")
    learner = framework.learner(run, initial)
    batch = framework.receive(made_data(run).episodes([0]))
    assert learner.predict(batch, 0).shape == (1, run.episode.ways or 1, run.model.outputs)
    if backend == "jax" and run.model.name == "conv4":
        return  # a meta-step takes ten seconds to compile; `test_maml` has one
    assert np.isfinite(float(learner.step(batch)))
    trained = learner.parameters()
    assert {each: array.shape for each, array in trained.items()} == {each: a.shape for each, a in initial.items()}
    assert any((trained[each] != initial[each]).any() for each in trained)


@pytest.fixture(scope="module")
def of_vectors():
    """A comparison on feature vectors."""
    small = {"shots": 1, "test_shots": 2, "meta_batch_size": 1, "inner_steps": 1, "steps": 1, "test_episodes": 1}
    run = make_run("letter", ways=2, **small)
    return compare(run, made_data(run), made_data(run), device="cpu", progress=False)


@pytest.mark.slow
def test_vectors_have_pictures(of_vectors, tmp_path):
    assert of_vectors.disagreements() == []
    write_report(of_vectors, tmp_path)
    assert {path.name for path in tmp_path.glob("*.png")} == {"adaptation.png", "episodes.png", "losses.png"}
    shown = [axes.images[0].get_array() for axes in draw_received_episodes(of_vectors).axes]
    assert [array.shape for array in shown] == [(2, 16), (2, 16), (4, 16), (4, 16)]  # rows of support, rows of query


@pytest.mark.parametrize(
    ("shape", "level", "colours"),
    [((32, 32, 3), 0.5, None), ((28, 28, 1), 0.1, "gray_r"), ((28, 28, 1), 0.8, "gray")],
    ids=["photograph", "white ink", "grey photograph"],
)
def test_images_look_as_they_are(of_vectors, shape, level, colours):
    example = {
        split: (np.full((1, 2 * shots, *shape), level, np.float32), np.repeat([[1, 0]], shots, axis=1))
        for split, shots in (("train", 1), ("test", 2))
    }
    for axes in draw_received_episodes(replace(of_vectors, example=dict.fromkeys(NAMES, example))).axes:
        sheet = axes.images[0].get_array()
        if colours is None:
            assert sheet.shape[2:] == (3,)
        else:
            assert (sheet.ndim, axes.images[0].get_cmap().name) == (2, colours)


@pytest.mark.parametrize("name", STORED)
def test_what_is_stored_is_looked_for_below_the_root(name, tmp_path):
    with pytest.raises(FileNotFoundError, match=f"metabridge build {name}") as error:
        make_meta_datasets(make_run(name), tmp_path)
    assert str(tmp_path) in str(error.value)


@pytest.mark.parametrize("name", STORED)
def test_it_fits_what_is_stored(name):
    run = make_run(name)
    variant = BENCHMARKS[name].variants[BENCHMARKS[name].variant_name(run.variant)]
    split = next(iter(variant.splits.values()))(())
    assert every(len(split[meta_split]) >= run.episode.ways for meta_split in META_SPLITS)
    assert variant.example_shape == run.model.input_shape


@pytest.mark.parametrize("name", STORED)
def test_its_classes_have_enough_examples(name):
    """On average, which for most is each; of plants the smallest, of which a file may have fewer than published."""
    run, benchmark = make_run(name), BENCHMARKS[name]
    variant = benchmark.variants[benchmark.variant_name(run.variant)]
    needed = run.episode.shots + run.episode.test_shots
    assert sum(variant.num_examples) >= needed * variant.num_classes
    if name.startswith("plants"):
        assert variant.read.keywords["sizes"][0] >= needed


@pytest.fixture
def leaves(tmp_path):
    """A folder with a made store of plants whose features do not lie in [0, 1]."""
    benchmark = BENCHMARKS["plants_margin"]
    split = next(iter(benchmark.variants["full"].splits.values()))(())
    names = [name for meta_split in META_SPLITS for name in split[meta_split]]
    features = np.random.default_rng(0).normal(5, 3, (16 * len(names), 64)).astype(np.float32)
    facts = {"benchmark": benchmark.name, "variant": "full"}
    write_store(store_path(benchmark, tmp_path), names, [16] * len(names), (64,), np.float32, [features], facts)
    return tmp_path


def test_the_recipe_s_further_arguments_reach_the_meta_datasets_and_the_record(leaves):
    """Plants are scaled by the range of the meta-train classes, which compare.json says."""
    run = make_run("plants_margin")
    train, test = make_meta_datasets(run, leaves)
    for dataset in (train, test):
        assert [type(each) for each in dataset.transforms] == [Normalize]
    inputs = [train.episodes(range(100))[split][0] for split in ("train", "test")]
    assert min(each.min() for each in inputs) >= 0
    assert max(each.max() for each in inputs) <= 1
    for part, dataset in zip(("meta_train", "meta_test"), (train, test), strict=True):
        assert make_manifest(run, train, test)["episodes"][part]["transform"] == [repr(dataset.transforms[0])]


@pytest.mark.parametrize("name", TOYS)
def test_toy_problems_have_the_run_s_seed_and_shots(name):
    run = replace(make_run(name, shots=3, test_shots=4), seed=5)
    train, test = make_meta_datasets(run, "unused")
    batch = train.episodes([0])
    assert [batch[split][0].shape for split in ("train", "test")] == [(1, 3, 1), (1, 4, 1)]
    assert (train.meta_split, test.meta_split) == ("train", "test")
    assert train.description["family_seed"] == 5
