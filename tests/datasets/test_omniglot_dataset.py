"""The meta-dataset and its helper, over made drawings: 3, 2 and 2 characters by meta-split."""

import numpy as np
import pytest

from metabridge.datasets import Omniglot
from metabridge.datasets.benchmarks import build, store_path
from metabridge.datasets.helpers import omniglot
from metabridge.datasets.omniglot import OMNIGLOT
from metabridge.episodes.splitters import ClassSplitter
from metabridge.transforms import Categorical, Rotation


@pytest.fixture
def root(made, official, tmp_path):
    path = made().write_zip(tmp_path)
    official("small1", path)
    build(OMNIGLOT, tmp_path / "root", "small1", path, progress=False)
    return tmp_path / "root"


@pytest.mark.parametrize(
    ("split", "alphabets"),
    [("train", ["Balinese"] * 2 + ["Greek"]), ("val", ["Korean"] * 2), ("test", ["Latin"] * 2)],
)
def test_each_meta_split_has_its_characters(root, split, alphabets):
    by_name = Omniglot(root, 2, meta_split=split, variant="small1")
    by_flag = Omniglot(root, 2, **{f"meta_{split}": True}, variant="small1")
    for dataset in (by_name, by_flag):
        assert [name.split("/")[1] for name in dataset.source.class_names] == alphabets
        assert dataset.meta_split == split
    assert by_name.fingerprint == by_flag.fingerprint


def test_arguments_reach_the_meta_dataset(root):
    dataset = Omniglot(
        root,
        num_classes_per_task=3,
        meta_train=True,
        target_transform=Categorical(3),
        dataset_transform=ClassSplitter(num_train_per_class=1, num_test_per_class=2),
        class_augmentations=[Rotation(90)],
        variant="small1",
    )
    assert dataset.num_classes == 6
    batch = dataset.episodes(range(2), seed=1)
    assert batch["test"][0].shape == (2, 6, 28, 28, 1)
    assert batch["test"][0].dtype == np.float32


def test_full_uses_the_lake_split_on_request(made, official, tmp_path):
    paths = [made(top).write_zip(tmp_path / "zips") for top in ("images_background", "images_evaluation")]
    official("full", *paths)
    build(OMNIGLOT, tmp_path, "full", tmp_path / "zips", progress=False)
    dataset = Omniglot(tmp_path, 2, meta_test=True, use_vinyals_split=False)
    assert {name.split("/")[0] for name in dataset.source.class_names} == {"images_evaluation"}
    with pytest.raises(ValueError, match="no meta-val"):
        Omniglot(tmp_path, 2, meta_val=True, use_vinyals_split=False)
    with pytest.raises(ValueError, match=r"every class of the split, 1021 of 1028 are missing, first 'images_"):
        Omniglot(tmp_path, 2, meta_train=True)


def test_an_unbuilt_dataset_names_both_ways_to_get_it(tmp_path):
    with pytest.raises(
        FileNotFoundError,
        match=rf"metabridge build omniglot --variant small1 --root {tmp_path}/data`, or pass download=True",
    ):
        Omniglot(tmp_path / "data", 5, meta_train=True, variant="small1")
    assert list(tmp_path.iterdir()) == []


def test_download_builds_once(made, official, tmp_path, server, capsys):
    path = made().write_zip(tmp_path / "origin")
    official("small1", path, urls=[server.serve("small1.zip", path.read_bytes())])
    for _ in range(2):
        capsys.readouterr()
        dataset = omniglot(tmp_path / "root", 1, 2, meta_val=True, variant="small1", download=True)
    assert capsys.readouterr().err == ""
    assert len(dataset) == 1
    assert server.requests == ["/small1.zip"]
    assert store_path(OMNIGLOT, tmp_path / "root", "small1").is_file()


def test_mistakes_are_found_before_any_download(tmp_path):
    for arguments, error, words in (
        ({"num_classes_per_task": None, "meta_train": True}, TypeError, "must be an integer, got None"),
        ({"num_classes_per_task": 5}, ValueError, "exactly one of `meta_train`"),
        (
            {"num_classes_per_task": 5, "meta_train": True, "variant": "tiny"},
            ValueError,
            "`variant` of omniglot must be one of",
        ),
        (
            {"num_classes_per_task": 5, "meta_val": True, "use_vinyals_split": False},
            ValueError,
            "no meta-val",
        ),
    ):
        with pytest.raises(error, match=words):
            Omniglot(tmp_path, download=True, **arguments)
    assert list(tmp_path.iterdir()) == []


def test_more_ways_than_classes(root):
    with pytest.raises(ValueError, match="number of classes, which is 2 in meta-split 'test', got 3"):
        omniglot(root, shots=1, ways=3, meta_test=True, variant="small1")


def test_more_examples_than_drawings(root):
    with pytest.raises(ValueError, match=r"need 21 examples of every class, .* has 20"):
        omniglot(root, shots=6, ways=2, test_shots=15, meta_test=True, variant="small1")


def test_helper_makes_support_and_query_sets(root):
    dataset = omniglot(root, shots=2, ways=2, test_shots=3, meta_val=True, variant="small1", seed=7)
    task = dataset[(0, 1)]
    assert (len(task["train"]), len(task["test"])) == (4, 6)
    assert isinstance(dataset.target_transform, Categorical)
    assert dataset.current_seed == 7
    assert dataset.splitter.shuffle
    assert len(omniglot(root, 2, 2, meta_val=True, variant="small1")[(0, 1)]["test"]) == 4
    assert not omniglot(root, 2, 2, shuffle=False, meta_val=True, variant="small1").splitter.shuffle


def test_helper_rotates_meta_train_only(root):
    sizes = {s: omniglot(root, 1, 2, meta_split=s, variant="small1").num_classes for s in ("train", "val", "test")}
    assert sizes == {"train": 12, "val": 2, "test": 2}
    assert omniglot(root, 1, 2, meta_train=True, variant="small1", class_augmentations=None).num_classes == 3
    turned = omniglot(root, 1, 2, meta_test=True, variant="small1", class_augmentations=[Rotation([90, 180, 270])])
    assert turned.num_classes == 8


def test_helper_accepts_ways_by_its_other_name(root):
    assert omniglot(root, 1, 2, num_classes_per_task=2, meta_val=True, variant="small1").num_classes_per_task == 2
    with pytest.raises(ValueError, match="`num_classes_per_task` must equal `ways`, which is 2, got 3; leave it out"):
        omniglot(root, 1, 2, num_classes_per_task=3, meta_val=True, variant="small1")


def test_an_unknown_argument_is_an_error(root):
    with pytest.raises(TypeError, match="unexpected keyword argument 'meta_trian'"):
        omniglot(root, 1, 2, meta_trian=True, meta_val=True, variant="small1")
