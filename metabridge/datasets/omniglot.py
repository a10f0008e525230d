"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al. 2015)."""

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, Unpack

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive
from metabridge.archives.members import Members, open_members
from metabridge.datasets.benchmarks import (
    Arguments,
    Benchmark,
    Content,
    SplitRule,
    StoredMetaDataset,
    Variant,
    blocks_of_classes,
    table_split,
)
from metabridge.datasets.images import decode, exactly, is_image

__all__ = ["OMNIGLOT", "Omniglot", "read_omniglot"]

_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
_DRAWING = re.compile(r"(?P<character>[^/]+/character\d\d)/\d{4}_\d\d\.png")
_DRAWINGS_PER_CHARACTER = 20
_DRAWN_SIZE = (105, 105)
_IMAGE_SIZE = (28, 28)


@contextmanager
def read_omniglot(
    paths: Sequence[Path], progress: bool, title: str, characters: Mapping[str, int]
) -> Iterator[Content]:
    """The characters of one or more archives, in the order of their names `<top folder>/Alphabet/characterNN`.

    The 105×105 drawings become 28×28 8-bit images by a Lanczos filter and are inverted, ink 255 on paper 0, as
    learn2learn prepares them. MAML's script `resize_images.py` asks for the same filter, but on 1-bit images, for which
    Pillow takes the nearest pixel instead: its images are binary, these have grey edges.

    Args:
        paths: the archives or their unpacked folders, in the order of `characters`.
        progress: show a bar on standard error.
        title: what the bar is called.
        characters: the top folder inside each archive → how many characters it holds.
    """
    with ExitStack() as stack:
        drawings: dict[str, tuple[Members, list[str]]] = {}
        for path, (folder, count) in zip(paths, characters.items(), strict=True):
            members = stack.enter_context(open_members(path))
            drawings |= {name: (members, files) for name, files in _characters(members, folder, count).items()}

        def load(name: str) -> npt.NDArray[np.uint8]:
            members, files = drawings[name]
            return np.stack([_prepare(members, file) for file in files])

        yield Content(
            class_names=sorted(drawings),
            class_sizes=[_DRAWINGS_PER_CHARACTER] * len(drawings),
            example_shape=(*_IMAGE_SIZE, 1),
            dtype=np.uint8,
            blocks=blocks_of_classes(title, sorted(drawings), load, progress),
            preparation="8-bit grey, Lanczos to 28x28, 255 - value: ink is 255",
        )


def _characters(members: Members, folder: str, count: int) -> dict[str, list[str]]:
    """The drawings of each character of one archive or unpacked folder, by class name."""
    prefix = "" if members.path.is_dir() else f"{folder}/"
    drawings: dict[str, list[str]] = {}
    for name in members.names:
        if not is_image(name, ".png"):
            continue
        match = _DRAWING.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is None:
            raise ValueError(
                f"{members.path}: every image must be named {prefix}Alphabet/characterNN/NNNN_NN.png, "
                f"got {name!r}; pass the official {folder}.zip or the folder unpacked from it."
            )
        drawings.setdefault(f"{folder}/{match['character']}", []).append(name)
    for name, files in drawings.items():
        if len(files) != _DRAWINGS_PER_CHARACTER:
            raise ValueError(
                f"{members.path}: every character must have {_DRAWINGS_PER_CHARACTER} drawings, {name!r} has "
                f"{len(files)}; unpack {folder}.zip again."
            )
    if len(drawings) != count:
        raise ValueError(
            f"{members.path} must hold the {count} characters of {folder}.zip, got {len(drawings)}; pass the official "
            "archive or the folder unpacked from it."
        )
    return drawings


def _prepare(members: Members, name: str) -> npt.NDArray[np.uint8]:
    """One drawing as `(28, 28, 1)`, ink 255."""
    return 255 - decode(members.read(name), name, members.path, "PNG", "L", _shrunk)


def _shrunk(drawing: Any) -> Any:
    from PIL.Image import Resampling  # 0.1 s to import, and not needed once the store is built

    return exactly(*_DRAWN_SIZE)(drawing).resize(_IMAGE_SIZE, Resampling.LANCZOS)


def _lake_split(class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Background against evaluation, as the archives are."""
    names = class_names or [name for names in table_split("omniglot_vinyals").values() for name in names]
    folders = {"train": "images_background/", "test": "images_evaluation/"}
    return {meta_split: [name for name in names if name.startswith(top)] for meta_split, top in folders.items()}


def _alphabet_split(class_names: Sequence[str]) -> Mapping[str, Sequence[str]]:
    """Whole alphabets in sorted order: the last is meta-test, the one before it meta-val, the others meta-train."""
    alphabets: dict[str, list[str]] = {}
    for name in class_names:
        alphabets.setdefault(name.split("/")[1], []).append(name)
    order = [alphabets[alphabet] for alphabet in sorted(alphabets)]
    parts = {"train": order[:-2], "val": order[-2:-1], "test": order[-1:]}
    return {meta_split: [name for names in part for name in names] for meta_split, part in parts.items() if part}


def _variant(
    name: str, splits: Mapping[str, SplitRule], num_examples: tuple[int, ...], *archives: tuple[str, int, int, str]
) -> Variant:
    """A variant of archives given as top folder, characters, bytes and SHA-256."""
    characters = {folder: count for folder, count, _, _ in archives}
    return Variant(
        archives=tuple(
            Archive(f"{folder}.zip", (f"{_URL}{folder}.zip",), sha256, size) for folder, _, size, sha256 in archives
        ),
        read=partial(read_omniglot, title=f"omniglot {name}", characters=characters),
        splits=splits,
        num_classes=sum(characters.values()),
        num_examples=num_examples,
        example_shape=(*_IMAGE_SIZE, 1),
        dtype=np.uint8,
        folders=tuple(characters),
    )


_BACKGROUND = "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"
_EVALUATION = "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"
_SMALL1 = "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
_SMALL2 = "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"

OMNIGLOT = Benchmark(
    name="omniglot",
    title="Omniglot",
    description="drawn characters, Lake et al. 2015",
    terms="MIT",
    licence="MIT, as the repository that holds it",
    variants={
        "full": _variant(
            "full",
            {"vinyals": partial(table_split, "omniglot_vinyals"), "background/evaluation": _lake_split},
            (20_560, 3_440, 8_460),
            ("images_background", 964, 9_464_212, _BACKGROUND),
            ("images_evaluation", 659, 6_462_886, _EVALUATION),
        ),
        "small1": _variant(
            "small1",
            {"alphabets": _alphabet_split},
            (1_400, 800, 520),
            ("images_background_small1", 136, 1_319_022, _SMALL1),
        ),
        "small2": _variant(
            "small2",
            {"alphabets": _alphabet_split},
            (3_120,),  # its alphabets are known when it is built
            ("images_background_small2", 156, 1_580_917, _SMALL2),
        ),
    },
    downloads="omniglot",
)


class Omniglot(StoredMetaDataset):
    """N-way tasks over the characters of Omniglot, 28×28×1, ink 1 on paper 0.

    The Vinyals split has 1028/172/423 characters for meta-train, meta-val and meta-test; the split of the
    original paper has the 964 background characters for meta-train and the 659 evaluation characters for
    meta-test. The small sets, five alphabets each, are split by whole alphabets in sorted order: the last is
    meta-test, the one before it meta-val, the others meta-train (`"small1"`: 70/40/26 characters).

    References:
        Lake, Salakhutdinov, Tenenbaum 2015, Human-level concept learning through probabilistic program
        induction, Science 350, https://github.com/brendenlake/omniglot

        Vinyals et al. 2016, Matching Networks for One Shot Learning, https://arxiv.org/abs/1606.04080

    Args:
        root: folder with the built benchmarks.
        num_classes_per_task: N.
        meta_train: use the meta-train characters; one of these three, or `meta_split`, must be given.
        meta_val: use the meta-val characters.
        meta_test: use the meta-test characters.
        meta_split: `"train"`, `"val"` or `"test"`, instead of the three flags.
        transform: image transforms of `metabridge.transforms`, drawn from the episode's stream: one or a list.
        target_transform: `Categorical(N)` for permuted labels, `None` for a class's position in the task.
        dataset_transform: a splitter.
        class_augmentations: augmentations, or meta-split → augmentations, of which each makes a new class of every
            character.
        use_vinyals_split: the Vinyals split, or else background against evaluation, which has no meta-val.
            The small sets have one split only and do not look at this.
        variant: `"full"`, `"small1"` or `"small2"`.
        download: fetch and build what is not built yet.

    Raises:
        FileNotFoundError: if the variant is not built and `download` is false.
        TypeError: if `num_classes_per_task` is no integer.
        ValueError: for an unknown variant or meta-split, for meta-val without the Vinyals split, if there are
            fewer characters than ways, or if the splitter asks for more than 20 examples.
    """

    benchmark = OMNIGLOT

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        *,
        use_vinyals_split: bool = True,
        variant: str = "full",
        **arguments: Unpack[Arguments],
    ) -> None:
        self.variant = self.benchmark.variant_name(variant)
        if self.variant == "full":
            self.split = "vinyals" if use_vinyals_split else "background/evaluation"
        super().__init__(root, num_classes_per_task, **arguments)
