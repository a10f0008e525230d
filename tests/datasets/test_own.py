"""Data of one's own are one call away: a folder of images, a store or a class source."""

import re

import numpy as np
import pytest
from helpers import coded_source
from PIL import Image

from metabridge.datasets.own import few_shot
from metabridge.datasets.stores import build_own_store
from metabridge.runs.recipes import make_meta_datasets, make_run
from metabridge.sources import ArraySource, save_source, split_classes
from metabridge.transforms import Categorical, Rotation

SIZES = [12] * 10


@pytest.fixture(scope="module")
def source():
    return coded_source(SIZES)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Ten folders of four grey 16×16 images."""
    top = tmp_path_factory.mktemp("photos")
    for label in range(10):
        (top / f"class{label}").mkdir()
        for number in range(4):
            pixels = np.full((16, 16), 20 * label + number, np.uint8)
            Image.fromarray(pixels).save(top / f"class{label}" / f"{number}.png")
    return top


def test_meta_splits_are_those_of_the_usual_fractions(source):
    parts = few_shot(source, ways=2, shots=1, test_shots=3)
    expected = split_classes(source, fractions={"train": 0.6, "val": 0.2, "test": 0.2})
    assert [*parts] == ["train", "val", "test"]
    for name, dataset in parts.items():
        assert dataset.source.class_names == expected[name].class_names
        assert dataset.meta_split == name
        assert dataset.splitter.splits == (("train", 1), ("test", 3))
        assert repr(dataset.target_transform) == repr(Categorical(2))


def test_folder_store_and_source_give_the_same_episodes(folder, tmp_path):
    store = build_own_store("mine", tmp_path, folder)
    choices = {"ways": 2, "shots": 1, "test_shots": 2, "fractions": {"train": 0.5, "test": 0.5}, "seed": 3}
    found = [few_shot(data, **choices) for data in (folder, str(folder), store)]
    for name in ("train", "test"):
        batches = [parts[name].episodes(range(4)) for parts in found]
        assert len({batch.digest() for batch in batches}) == 1
    assert found[0]["train"].current_seed == 3


def test_images_of_a_folder_are_resized_and_converted(folder):
    parts = few_shot(folder, 2, 1, resize=(8, 6), mode="RGB", classes={"test": ["class3", "class1"]})
    assert parts["test"].episodes([0])["train"][0].shape == (1, 2, 8, 6, 3)


def test_ready_meta_splits_and_further_arguments(source):
    made = split_classes(source, fractions={"train": 0.5, "test": 0.5})
    parts = few_shot(made, ways=7, shots=1, class_augmentations={"train": [Rotation(90)], "test": [Rotation(180)]})
    assert {name: dataset.num_classes for name, dataset in parts.items()} == {"train": 10, "test": 10}
    assert few_shot(made, 2, 1, target_transform=None)["test"].target_transform is None


@pytest.mark.parametrize(
    ("data", "choices", "error", "message"),
    [
        (None, {"ways": 5}, ValueError, "`ways` must be at most the number of classes in every meta-split, which is "
         "{'train': 6, 'val': 2, 'test': 2}, got 5; ask for fewer, or give other `fractions`."),
        (None, {"shots": 0}, ValueError, "`shots` must be a positive integer, got 0"),
        (None, {"shots": 12}, ValueError, "support and query together need 24 examples of every class"),
        (None, {"resize": 8}, ValueError, "`resize` must be left out where `source` is a store or a class source"),
        ({"train": "nowhere"}, {}, FileNotFoundError, "there is no folder"),
        ({"tests": "x"}, {"mode": "L"}, FileNotFoundError, "there is no folder"),
        ({}, {}, ValueError, "`source` must be a mapping with at least one meta-split, got {}"),
        ({}, {"fractions": {"test": 1}}, ValueError, "`fractions` must be left out where `source` is a mapping"),
        (None, {"fractions": {"trian": 1}}, ValueError, "must be divided into 'train', 'val' and 'test', or some"),
        (np.zeros((3, 4)), {}, TypeError, "`source` must be a class source, a folder of images or the file of a store"),
    ],
)  # fmt: skip
def test_mistakes_are_named(source, data, choices, error, message):
    with pytest.raises(error, match=re.escape(message)):
        few_shot(source if data is None else data, **{"ways": 2, "shots": 1, **choices})


def test_an_own_store_has_a_recipe(folder, tmp_path):
    """Conv4 for images, as many ways and shots as there are; MLP for vectors."""
    build_own_store("mine", tmp_path, folder)
    run = make_run("mine", root=tmp_path)
    assert (run.model.name, run.model.input_shape, run.variant) == ("conv4", (16, 16, 1), None)
    assert (run.episode.ways, run.episode.shots, run.episode.test_shots) == (2, 1, 3)
    train, test = make_meta_datasets(run, tmp_path)
    assert (train.meta_split, train.num_classes, test.meta_split, test.num_classes) == ("train", 6, "test", 2)
    assert not set(train.source.class_names) & set(test.source.class_names)
    vectors = ArraySource.from_classes({f"c{i}": np.zeros((30, 7), np.float32) for i in range(30)})
    save_source(vectors, tmp_path / "vectors" / "vectors.h5")
    run = make_run("vectors", root=tmp_path)
    assert (run.model.name, run.model.input_shape, run.model.outputs) == ("mlp", (7,), 5)
    assert (run.episode.ways, run.episode.shots, run.episode.test_shots) == (5, 1, 15)


@pytest.mark.parametrize(
    ("name", "choices", "message"),
    [
        ("mine", {"variant": "small"}, "`variant` of mine must be left out: it is your own, got 'small'"),
        ("mime", {}, "got 'mime'; did you mean 'mine'? Images of your own: `metabridge build mime --root"),
        ("../mine", {}, "`metabridge build NAME --root"),
        (
            "few",
            {},
            "`dataset` must be a store of at least ten classes of two examples, of which a fifth are meta-test",
        ),
        ("deep", {}, "`dataset` must be a store of images or vectors, got 'examples of shape (2, 2)"),
    ],
)
def test_mistakes_with_own_stores_are_named(source, tmp_path, name, choices, message):
    save_source(source, tmp_path / "mine" / "mine.h5")
    save_source(coded_source([3] * 4), tmp_path / "few" / "few.h5")
    deep = ArraySource.from_classes({f"c{i}": np.zeros((3, 2, 2), np.float32) for i in range(10)})
    save_source(deep, tmp_path / "deep" / "deep.h5")
    with pytest.raises(ValueError, match=re.escape(message)):
        make_run(name, root=tmp_path, **choices)
