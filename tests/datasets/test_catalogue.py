"""The table of benchmarks, and what a benchmark with several variants and splits may be."""

import dataclasses
import inspect
import re
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

from metabridge.archives.fetch import Archive
from metabridge.datasets import benchmarks, helpers
from metabridge.datasets.benchmarks import Benchmark, Content, StoredMetaDataset, Variant, build, store_path
from metabridge.datasets.catalogue import BENCHMARKS, CATALOGUE, TOYS, load, load_toy
from metabridge.episodes.metadatasets import META_SPLITS
from metabridge.sources import HDF5Source
from metabridge.transforms import Categorical, ColorJitter, Rotation

HEAVY = ("h5py", "PIL", "requests", "tqdm", "torch", "jax")


def test_every_benchmark_is_described_and_has_a_path_per_variant(tmp_path):
    for name, benchmark in BENCHMARKS.items():
        assert benchmark.name == name
        assert "\n" not in benchmark.description
        paths = [store_path(benchmark, tmp_path, variant) for variant in benchmark.variants]
        assert paths == [tmp_path / name / f"{variant}.h5" for variant in benchmark.variants]
        assert store_path(benchmark, tmp_path) == paths[0]
        for variant in benchmark.variants.values():
            assert bool(variant.archives) != bool(variant.by_hand)
            for split in variant.splits.values():
                parts = split(())
                assert set(parts) <= set(META_SPLITS)
                assert sum(map(len, parts.values())) <= variant.num_classes
    assert list(tmp_path.iterdir()) == []


def test_omniglot_is_loaded_through_the_table(made, official, tmp_path):
    path = made().write_zip(tmp_path)
    official("small1", path)
    omniglot = BENCHMARKS["omniglot"]
    assert (tuple(omniglot.variants), omniglot.default_variant) == (("full", "small1", "small2"), "full")
    build(omniglot, tmp_path, "small1", path, progress=False)
    dataset = load(omniglot, tmp_path, "small1", ways=2, shots=1, meta_split="test")
    assert (dataset.variant, dataset.split, dataset.num_classes_per_task) == ("small1", "alphabets", 2)
    assert load(omniglot, tmp_path, "small1", shots=1, meta_split="train").num_classes_per_task == 5
    with pytest.raises(ValueError, match="`variant` of cub must be one of 'full', got 'small1'"):
        load(BENCHMARKS["cub"], tmp_path, "small1", shots=1, meta_split="test")
    with pytest.raises(FileNotFoundError, match=r"Tiered-ImageNet 'ilsvrc' is not built: there is no .*ilsvrc\.h5"):
        load(BENCHMARKS["tieredimagenet"], tmp_path, "ilsvrc", shots=1, meta_split="test")


@contextmanager
def read_letters(paths, progress):
    """Four classes of three examples, from whatever `paths` are."""
    images = np.arange(12, dtype=np.uint8).reshape(12, 1, 1, 1)
    yield Content(list("abcd"), [3] * 4, (1, 1, 1), np.uint8, [images], f"{len(paths)} files")


def fold(number):
    return lambda names: {
        "train": [name for name in "abcd" if name != "abcd"[number]],
        "val": (),
        "test": "abcd"[number],
    }


ARCHIVES = tuple(Archive(name, (f"https://example.org/{name}",), sha256="0" * 64) for name in ("one.tar", "two.tar"))
FOLDED = Benchmark(
    name="folded",
    title="Folded",
    description="letters",
    terms="MIT",
    licence="MIT",
    variants={
        size: Variant(
            ARCHIVES, read_letters, {f"fold {i}": fold(i) for i in range(4)}, 4, (9, 0, 3), (1, 1, 1), "uint8"
        )
        for size in ("small", "large")
    },
    downloads="folded",
)


class Folded(StoredMetaDataset):
    """As a benchmark of folds is written: attributes, then the common constructor."""

    benchmark = FOLDED

    def __init__(self, root, *arguments, fold=0, variant="small", **keywords):
        self.split = f"fold {fold}"
        self.variant = variant
        super().__init__(root, *arguments, **keywords)


def test_a_subclass_chooses_variant_and_split_by_attributes(tmp_path):
    (tmp_path / "files").mkdir()
    for variant in ("small", "large"):
        path = build(FOLDED, tmp_path, variant, tmp_path / "files", progress=False)
        assert path == tmp_path / "folded" / f"{variant}.h5"
        provenance = HDF5Source(path).provenance
        assert (provenance["variant"], provenance["archives"]) == (variant, {"files": "folder"})
    dataset = Folded(tmp_path, 1, meta_test=True, fold=2, variant="large")
    assert dataset.source.class_names == ("c",)
    assert (dataset.variant, dataset.split) == ("large", "fold 2")
    with pytest.raises(ValueError, match="`variant` of folded must be one of 'small', 'large', got 'huge'"):
        Folded(tmp_path, 1, meta_test=True, variant="huge")
    with pytest.raises(ValueError, match=r"`split` of Folded 'small' must be one of 'fold 0', .* got 'fold 4'"):
        Folded(tmp_path, 1, meta_test=True, fold=4)
    with pytest.raises(ValueError, match=r"has no meta-val classes; ask for meta-train or meta-test\.$"):
        Folded(tmp_path / "none", 1, meta_val=True, download=True)
    with pytest.raises(FileNotFoundError, match=r"Folded 'large' is not built: .* --variant large --root"):
        Folded(tmp_path / "none", 1, meta_train=True, variant="large")


@pytest.mark.parametrize("change", [{"example_shape": (1, 1, 2)}, {"dtype": np.float32}])
def test_a_builder_that_makes_other_examples_than_announced_is_found_out(change, tmp_path):
    (tmp_path / "files").mkdir()
    variant = dataclasses.replace(FOLDED.variants["large"], **change)
    other = dataclasses.replace(FOLDED, variants=FOLDED.variants | {"large": variant})
    words = rf"the builder of Folded 'large' must make examples of {re.escape(str(variant.example_shape))} "
    words += rf"{np.dtype(variant.dtype)}, .*, it makes \(1, 1, 1\) uint8; mend"
    with pytest.raises(RuntimeError, match=words):
        build(other, tmp_path, "large", tmp_path / "files", progress=False)
    assert not list(tmp_path.rglob("*.h5"))


@pytest.mark.parametrize(
    ("name", "arguments", "error", "words"),
    [
        ("cub", {"ways": 51}, ValueError, "the number of classes, which is 50 in meta-split 'test', got 51"),
        ("cub", {"ways": 0}, ValueError, "`ways` must be a positive integer, got 0"),
        ("cub", {"ways": 5.0}, ValueError, "`ways` must be a positive integer, got 5.0"),
        ("cub", {"ways": True}, ValueError, "`ways` must be a positive integer, got True"),
        (
            "cub",
            {"target_transform": Categorical(4)},
            ValueError,
            "`target_transform` Categorical.4. must name as many",
        ),
        ("cub", {"target_transform": str}, TypeError, "`target_transform` must be a Categorical"),
        ("cub", {"transform": 3}, TypeError, "`transform`"),
        ("cub", {"class_augmentations": Rotation(90)}, TypeError, "`class_augmentations` must be a list"),
        ("cub", {"shots": 0}, ValueError, "`shots` must be a positive integer, got 0"),
        ("cub", {"class_augmentations": [Rotation(90)], "ways": 101}, ValueError, "which is 100 in .*, got 101"),
        ("omniglot", {"variant": "small2", "ways": 157}, ValueError, "which is 156 in meta-split 'test', got 157"),
        ("pascal5i", {"ways": 2}, ValueError, "`num_classes_per_task` must be 1, got 2"),
        ("pascal5i", {"target_transform": Categorical(1)}, TypeError, "`target_transform` must be None"),
        ("letter", {"transform": [ColorJitter(0.4)]}, ValueError, "`transform` is for images"),
    ],
)
def test_mistakes_are_found_before_anything_is_downloaded(name, arguments, error, words, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "build", None)
    helper = getattr(helpers, name)
    with pytest.raises(error, match=words):
        helper(tmp_path, **{"shots": 1, "ways": 5, "meta_test": True, "download": True, **arguments})


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cub", {"ways": 100, "class_augmentations": [Rotation(90)]}),
        ("omniglot", {"variant": "small2", "ways": 156, "shots": np.int64(9), "test_shots": 11}),
        ("pascal5i", {"ways": 1, "shots": 1000}),
        ("plants_shape", {"ways": 15, "process_features": True}),
        ("bach", {"ways": np.int32(21), "shots": 250}),
    ],
)
def test_what_may_be_right_is_downloaded(name, arguments, tmp_path, monkeypatch):
    def begun(*arguments):
        raise ConnectionError("the download began")

    monkeypatch.setattr(benchmarks, "build", begun)
    with pytest.raises(ConnectionError, match="the download began"):
        getattr(helpers, name)(tmp_path, **{"shots": 1, "ways": 5, "meta_test": True, "download": True, **arguments})


def test_some_archives_are_not_enough(tmp_path):
    (tmp_path / "one.tar").write_bytes(b"x")
    with pytest.raises(ValueError, match=r"must be a folder that holds all 2 archives, one\.tar and two\.tar"):
        build(FOLDED, tmp_path, source=tmp_path / "one.tar", progress=False)
    (tmp_path / "one.tar").rename(tmp_path / "two.tar")
    with pytest.raises(
        FileNotFoundError, match=r"must hold one\.tar, .* does not; download .*https://example\.org/one"
    ):
        build(FOLDED, tmp_path, source=tmp_path, progress=False)


def test_helpers_are_functions_that_explain_themselves():
    for name in helpers.__all__:
        helper = getattr(helpers, name)
        assert inspect.isfunction(helper)
        assert (helper.__module__, helper.__name__, helper.__qualname__) == (helpers.__name__, name, name)
        parameters = inspect.signature(helper).parameters
        assert list(parameters) == ["folder", "shots", "ways", "shuffle", "test_shots", "seed", "kwargs"]
        meta_dataset = inspect.signature(helper).return_annotation
        assert issubclass(meta_dataset, StoredMetaDataset)
        for word in ("support set", "query set", meta_dataset.__name__):
            assert word in inspect.getdoc(helper)


def test_a_table_s_split_is_that_of_its_file():
    table = benchmarks.split_table("cub")
    assert benchmarks.table_split("cub") == {name: table[name] for name in META_SPLITS}


def test_the_table_is_light_to_import():
    program = f"import sys, metabridge.datasets.catalogue; print([m for m in {HEAVY} if m in sys.modules])"
    repository = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=repository, capture_output=True, text=True, check=True)
    assert result.stdout == "[]\n"


def test_one_table_says_what_there_is():
    assert list(CATALOGUE) == [*TOYS, *BENCHMARKS]
    for name, entry in CATALOGUE.items():
        assert entry.name == name == entry.helper.__name__
        assert entry.description
        assert entry.kind == (
            "regression" if name in TOYS else "segmentation" if name == "pascal5i" else "classification"
        )
        assert entry.benchmark is BENCHMARKS.get(name)


def test_the_toys_are_loaded_by_name():
    for name in TOYS:
        dataset = load_toy(name, 3, 4, "test", seed=5)
        assert (dataset.meta_split, dataset.current_seed) == ("test", 5)
        assert dataset.splitter.splits == (("train", 3), ("test", 4))
