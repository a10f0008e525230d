"""Which characters belong to which meta-split."""

import itertools
import json
from importlib import resources

import pytest
from helpers import every

from metabridge.datasets import Omniglot
from metabridge.datasets.omniglot import OMNIGLOT

pytestmark = pytest.mark.xdist_group("omniglot_splits")

SPLITS = ("train", "val", "test")
FULL, SMALL1 = OMNIGLOT.variants["full"].splits, OMNIGLOT.variants["small1"].splits
ALPHABETS = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}


@pytest.fixture(scope="module")
def all_names():
    """The 1623 characters, in a store's order."""
    table = json.loads(resources.files("metabridge.datasets").joinpath("splits/omniglot_vinyals.json").read_text())
    assert "jakesnell/prototypical-networks" in table["source"]
    return sorted(name for split in SPLITS for name in table[split])


def small1_names():
    return [f"images_background_small1/{a}/character{i:02d}" for a, n in ALPHABETS.items() for i in range(1, n + 1)]


def test_vinyals_split_is_a_partition_of_all_characters(all_names):
    parts = FULL["vinyals"](all_names)
    assert [len(parts[split]) for split in SPLITS] == [1028, 172, 423]
    assert sorted(itertools.chain(*parts.values())) == all_names
    assert OMNIGLOT.variants["full"].num_examples == tuple(20 * len(parts[split]) for split in SPLITS)


def test_vinyals_split_by_alphabet_and_archive(all_names):
    train, val, test = (FULL["vinyals"](all_names)[split] for split in SPLITS)
    assert {name.split("/")[1] for name in val} == {
        "Armenian",
        "Bengali",
        "Early_Aramaic",
        "Hebrew",
        "Mkhedruli_(Georgian)",
    }
    assert sum(name.startswith("images_background/") for name in train) == 792
    assert every(name.startswith("images_evaluation/") for name in test)
    alphabets = [{name.split("/")[1] for name in part} for part in (train, test)]
    assert alphabets[0] & alphabets[1] == {"Gurmukhi"}


def test_lake_split_is_background_against_evaluation(all_names):
    parts = FULL["background/evaluation"](all_names)
    assert {split: len(names) for split, names in parts.items()} == {"train": 964, "test": 659}
    assert sorted(itertools.chain(*parts.values())) == all_names
    assert every(name.startswith("images_background/") for name in parts["train"])


def test_splits_of_the_full_set_are_known_before_it_is_built(all_names):
    for split in FULL.values():
        assert {part: sorted(names) for part, names in split(()).items()} == {
            part: sorted(names) for part, names in split(all_names).items()
        }
    assert SMALL1["alphabets"](()) == {}


def test_lake_split_has_no_meta_val(tmp_path):
    with pytest.raises(
        ValueError,
        match=r"the split 'background/evaluation' of Omniglot 'full' has no meta-val classes; ask for meta-train or "
        r"meta-test, or use the split 'vinyals'\.",
    ):
        Omniglot(tmp_path, 5, meta_val=True, use_vinyals_split=False)


def test_small_sets_are_split_by_alphabets_in_sorted_order():
    parts = SMALL1["alphabets"](small1_names())
    assert {split: len(names) for split, names in parts.items()} == {"train": 70, "val": 40, "test": 26}
    assert {split: sorted({name.split("/")[1] for name in names}) for split, names in parts.items()} == {
        "train": ["Balinese", "Early_Aramaic", "Greek"],
        "val": ["Korean"],
        "test": ["Latin"],
    }


def test_an_order_of_names_does_not_change_who_belongs_where():
    names = small1_names()
    forwards, backwards = SMALL1["alphabets"](names), SMALL1["alphabets"](names[::-1])
    assert {split: set(each) for split, each in forwards.items()} == {s: set(each) for s, each in backwards.items()}
