"""The real small 1 set: every byte of its store is pinned."""

from collections import Counter

import pytest

from metabridge.datasets.benchmarks import build
from metabridge.datasets.helpers import omniglot
from metabridge.datasets.omniglot import OMNIGLOT
from metabridge.sources import HDF5Source

FINGERPRINT = "cf965625fee56286c9c03a8a369aad8c"


@pytest.fixture
def root(small1_zip, tmp_path, snapshot):
    before = snapshot(small1_zip)
    build(OMNIGLOT, tmp_path, "small1", small1_zip, progress=False)
    assert snapshot(small1_zip) == before
    return tmp_path


def test_store_is_bit_for_bit_the_pinned_one(root):
    source = HDF5Source(root / "omniglot" / "small1.h5")
    assert source.recompute_fingerprint() == source.fingerprint == FINGERPRINT
    counts = Counter(name.split("/")[1] for name in source.class_names)
    assert counts == {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}
    assert set(source.class_sizes.tolist()) == {20}
    variant = OMNIGLOT.variants["small1"]
    split = variant.splits["alphabets"](source.class_names)
    assert tuple(20 * len(split[meta_split]) for meta_split in ("train", "val", "test")) == variant.num_examples
    assert len(source) == variant.num_classes
    assert source.examples.nbytes == variant.num_bytes


def test_episodes_of_each_meta_split(root):
    for split, classes in (("train", 280), ("val", 40), ("test", 26)):
        dataset = omniglot(root, shots=1, ways=5, test_shots=15, meta_split=split, variant="small1")
        assert dataset.num_classes == classes
        inputs, targets = dataset.episodes(range(3), seed=0)["test"]
        assert inputs.shape == (3, 75, 28, 28, 1)
        assert targets.shape == (3, 75)
        assert 0.02 < inputs.mean() < 0.2  # ink is bright and covers little
