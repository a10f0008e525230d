"""Which characters belong to which meta-split."""

import itertools
import json
from importlib import resources

import pytest

from metabridge.datasets.omniglot import split_classes

SPLITS = ("train", "val", "test")
SMALL1 = {"Balinese": 24, "Early_Aramaic": 22, "Greek": 24, "Korean": 40, "Latin": 26}


@pytest.fixture(scope="module")
def all_names():
    """The 1623 characters, in a store's order."""
    table = json.loads(resources.files("metabridge.datasets").joinpath("splits/omniglot_vinyals.json").read_text())
    assert "jakesnell/prototypical-networks" in table["source"]
    return sorted(name for split in SPLITS for name in table[split])


def small1_names():
    return [f"images_background_small1/{a}/character{i:02d}" for a, n in SMALL1.items() for i in range(1, n + 1)]


def test_vinyals_split_is_a_partition_of_all_characters(all_names):
    parts = [split_classes(all_names, "full", split) for split in SPLITS]
    assert [len(part) for part in parts] == [1028, 172, 423]
    assert sorted(itertools.chain(*parts)) == list(range(1623))
    assert all(part == sorted(part) for part in parts)


def test_vinyals_split_by_alphabet_and_archive(all_names):
    train, val, test = ({all_names[i] for i in split_classes(all_names, "full", split)} for split in SPLITS)
    assert {name.split("/")[1] for name in val} == {
        "Armenian",
        "Bengali",
        "Early_Aramaic",
        "Hebrew",
        "Mkhedruli_(Georgian)",
    }
    assert sum(name.startswith("images_background/") for name in train) == 792
    assert all(name.startswith("images_evaluation/") for name in test)
    alphabets = [{name.split("/")[1] for name in part} for part in (train, test)]
    assert alphabets[0] & alphabets[1] == {"Gurmukhi"}


def test_lake_split_is_background_against_evaluation(all_names):
    train, test = (split_classes(all_names, "full", split, use_vinyals_split=False) for split in ("train", "test"))
    assert (len(train), len(test)) == (964, 659)
    assert sorted(train + test) == list(range(1623))
    assert all(all_names[i].startswith("images_background/") for i in train)
    assert all(all_names[i].startswith("images_evaluation/") for i in test)


def test_lake_split_has_no_meta_val(all_names):
    with pytest.raises(ValueError, match="no meta-val characters; pass use_vinyals_split=True"):
        split_classes(all_names, "full", "val", use_vinyals_split=False)


@pytest.mark.parametrize("use_vinyals_split", [True, False])
def test_small_sets_are_split_by_alphabets_in_sorted_order(use_vinyals_split):
    names = small1_names()
    parts = {split: split_classes(names, "small1", split, use_vinyals_split) for split in SPLITS}
    assert {split: len(part) for split, part in parts.items()} == {"train": 70, "val": 40, "test": 26}
    assert {split: sorted({names[i].split("/")[1] for i in part}) for split, part in parts.items()} == {
        "train": ["Balinese", "Early_Aramaic", "Greek"],
        "val": ["Korean"],
        "test": ["Latin"],
    }


def test_an_order_of_names_does_not_change_who_belongs_where():
    names = small1_names()
    for split in SPLITS:
        wanted = {names[i] for i in split_classes(names, "small1", split)}
        assert {names[::-1][i] for i in split_classes(names[::-1], "small1", split)} == wanted


def test_missing_characters_are_refused(all_names):
    with pytest.raises(ValueError, match="1 of 172 are missing, first 'images_background/Armenian/character01'"):
        split_classes([n for n in all_names if n != "images_background/Armenian/character01"], "full", "val")


def test_unknown_words_are_refused(all_names):
    with pytest.raises(ValueError, match="`meta_split` must be one of 'train', 'val', 'test', got 'valid'"):
        split_classes(all_names, "full", "valid")
    with pytest.raises(ValueError, match=r"`variant` must be one of .* got 'tiny'"):
        split_classes(all_names, "tiny", "train")
