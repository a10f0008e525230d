"""Omniglot: 1623 handwritten characters of 50 alphabets, 20 drawings each (Lake et al. 2015)."""

import io
import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from metabridge.datasets.archives import Members, open_members
from metabridge.datasets.benchmarks import opens, split_table
from metabridge.datasets.fetch import Archive, fetch, verify
from metabridge.datasets.images import is_image
from metabridge.metadatasets import META_SPLITS, CombinationMetaDataset, resolve_meta_split
from metabridge.sources import HDF5Source, write_store
from metabridge.splitters import Splitter
from metabridge.transforms import Categorical, ClassAugmentation, ImageTransform

__all__ = ["VARIANTS", "Omniglot", "Part", "build", "split_classes", "store_path"]

_URL = "https://github.com/brendenlake/omniglot/raw/master/python/"
_DRAWING = re.compile(r"(?P<character>[^/]+/character\d\d)/\d{4}_\d\d\.png")
_DRAWINGS_PER_CHARACTER = 20
_DRAWN_SIZE = (105, 105)
_IMAGE_SIZE = (28, 28)
_BROKEN_IMAGE = (OSError, SyntaxError, ValueError, EOFError)  # SyntaxError: Pillow's word for a broken PNG
_PREPARATION = "8-bit grey, Lanczos to 28x28, 255 - value: ink is 255"


@dataclass(frozen=True)
class Part:
    """One archive of Omniglot and how many characters it holds; unpacked, it is the folder `folder`."""

    archive: Archive
    characters: int

    @property
    def folder(self) -> str:
        """The one top folder inside the archive."""
        return self.archive.name.removesuffix(".zip")


def _part(folder: str, characters: int, size: int, sha256: str) -> Part:
    name = f"{folder}.zip"
    return Part(Archive(name, (_URL + name,), sha256, size), characters)


_BACKGROUND = "ad41ab679c8b5d90b271ef46be6987cc81211774a695c29dcc5367b2b26ee640"
_EVALUATION = "1f61a8f3366785b057fc117d9228e78a16e3d976c8953b2a10fcc74cf0609cee"
_SMALL1 = "f38eb80f801274ac2b4dff5b24289016bfaba4a7d5bb50deebf27104ad6cb8a4"
_SMALL2 = "3ccaa407515a8778e5d0861875af38b17e418f301ad5bb3b5a6b65d901a41c7f"

VARIANTS: dict[str, tuple[Part, ...]] = {
    "full": (
        _part("images_background", 964, 9_464_212, _BACKGROUND),
        _part("images_evaluation", 659, 6_462_886, _EVALUATION),
    ),
    "small1": (_part("images_background_small1", 136, 1_319_022, _SMALL1),),
    "small2": (_part("images_background_small2", 156, 1_580_917, _SMALL2),),
}


class Omniglot(CombinationMetaDataset):
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

    def __init__(
        self,
        root: str | os.PathLike[str],
        num_classes_per_task: int | None = None,
        meta_train: bool = False,
        meta_val: bool = False,
        meta_test: bool = False,
        meta_split: str | None = None,
        transform: ImageTransform | Sequence[ImageTransform] | None = None,
        target_transform: Categorical | None = None,
        dataset_transform: Splitter | None = None,
        class_augmentations: Sequence[ClassAugmentation] | Mapping[str, Sequence[ClassAugmentation]] | None = None,
        use_vinyals_split: bool = True,
        variant: str = "full",
        download: bool = False,
    ) -> None:
        if num_classes_per_task is None:
            raise TypeError("`num_classes_per_task` must be an integer, got None; pass for example 5.")
        split = resolve_meta_split(meta_train, meta_val, meta_test, meta_split)
        _check_split(variant, split, use_vinyals_split)
        source = HDF5Source(_available(root, variant, download))
        classes = split_classes(source.class_names, variant, split, use_vinyals_split)
        super().__init__(
            source.select(classes),
            num_classes_per_task,
            split,
            target_transform,
            dataset_transform,
            class_augmentations,
            transform,
        )


def _available(root: str | os.PathLike[str], variant: str, download: bool) -> Path:
    """The built store, building it first if that is allowed and needed."""
    store = store_path(root, variant)
    if download and not opens(store):
        build(root, variant)
    if not store.is_file():
        raise FileNotFoundError(
            f"Omniglot {variant!r} is not built: there is no {store}. Build it with `metabridge build "
            f"omniglot --variant {variant} --root {root}`, or pass download=True."
        )
    return store


def store_path(root: str | os.PathLike[str], variant: str = "full") -> Path:
    """Where the built store of a variant is, or will be: `root/omniglot/<variant>.h5`."""
    return _folder(root) / f"{_known(variant)}.h5"


def _folder(root: str | os.PathLike[str]) -> Path:
    return Path(root) / "omniglot"


def _known(variant: str) -> str:
    if variant not in VARIANTS:
        raise ValueError(f"`variant` must be one of {', '.join(map(repr, VARIANTS))}, got {variant!r}.")
    return variant


def split_classes(
    class_names: Sequence[str], variant: str, meta_split: str, use_vinyals_split: bool = True
) -> list[int]:
    """The ids of the characters of one meta-split, ascending; see `Omniglot` for the rules.

    Args:
        class_names: all characters of the variant, named `archive/Alphabet/characterNN`.
        variant: `"full"`, `"small1"` or `"small2"`.
        meta_split: `"train"`, `"val"` or `"test"`.
        use_vinyals_split: for `"full"`, the Vinyals split instead of background against evaluation.

    Raises:
        ValueError: for an unknown variant or meta-split, for meta-val without the Vinyals split, and if
            `class_names` are not the characters that the Vinyals split names.
    """
    _check_split(variant, meta_split, use_vinyals_split)
    if variant != "full":
        wanted = _alphabets(class_names)[meta_split]
        return [i for i, name in enumerate(class_names) if name.split("/")[1] in wanted]
    if use_vinyals_split:
        return _vinyals_classes(class_names, meta_split)
    folder = {"train": "images_background/", "test": "images_evaluation/"}[meta_split]
    return [i for i, name in enumerate(class_names) if name.startswith(folder)]


def _check_split(variant: str, meta_split: str, use_vinyals_split: bool) -> None:
    if meta_split not in META_SPLITS:
        raise ValueError(f"`meta_split` must be one of {', '.join(map(repr, META_SPLITS))}, got {meta_split!r}.")
    if _known(variant) == "full" and meta_split == "val" and not use_vinyals_split:
        raise ValueError(
            "background against evaluation has no meta-val characters; "
            "pass use_vinyals_split=True, or meta-train or meta-test."
        )


def _alphabets(class_names: Sequence[str]) -> dict[str, list[str]]:
    """The alphabets of a small set by meta-split."""
    alphabets = sorted({name.split("/")[1] for name in class_names})
    return {"train": alphabets[:-2], "val": alphabets[-2:-1], "test": alphabets[-1:]}


def _vinyals_classes(class_names: Sequence[str], meta_split: str) -> list[int]:
    ids = {name: i for i, name in enumerate(class_names)}
    wanted = split_table("omniglot_vinyals")[meta_split]
    missing = [name for name in wanted if name not in ids]
    if missing:
        raise ValueError(
            f"`class_names` must hold all characters of the Vinyals split, {len(missing)} of {len(wanted)} "
            f"are missing, first {missing[0]!r}; build the full Omniglot again."
        )
    return sorted(ids[name] for name in wanted)


def build(
    root: str | os.PathLike[str],
    variant: str = "full",
    source: str | os.PathLike[str] | None = None,
    progress: bool = True,
) -> Path:
    """Build the store of a variant, `root/omniglot/<variant>.h5`, unless it is built already.

    A store that opens is left alone, whatever `source` is: delete the file to build it again. An archive is
    read in place, after its checksum was verified; nothing is extracted, and `source` is only read. An error
    or an interruption leaves no store, and of two builds at once either one's whole store stays. Only a
    killed process can leave something behind, a hidden `.part` file beside the store: it is never read, and
    may be deleted when no build is running.

    The 105×105 drawings become 28×28 8-bit images by a Lanczos filter and are inverted, ink 255 on paper 0,
    as learn2learn prepares them. MAML's script `resize_images.py` asks for the same filter, but on 1-bit
    images, for which Pillow takes the nearest pixel instead: its images are binary, these have grey edges.

    Args:
        root: folder with the built benchmarks; archives are downloaded to `root/omniglot/downloads`.
        variant: `"full"`, `"small1"` or `"small2"`.
        source: where the official files are; `None` downloads them. An archive; or a folder that holds the
            variant's archives or their unpacked folders (`images_background`, …; where it holds both, the
            archive is taken); or an unpacked folder itself.
        progress: show bars, and whether there was anything to do, on standard error.

    Returns:
        Path of the store.

    Raises:
        ConnectionError: if no address delivers an archive.
        FileNotFoundError: if `source` does not hold what the variant needs.
        ValueError: for an unknown variant, a wrong checksum, an unsafe or damaged archive or image, and for
            files that are not Omniglot's.
    """
    store = store_path(root, variant)
    if opens(store):
        if progress:
            print(f"{store} is built already; delete the file to build it again.", file=sys.stderr)
        return store
    parts = VARIANTS[variant]
    if source is None:
        paths = [fetch(part.archive, _folder(root) / "downloads", progress) for part in parts]
    else:
        paths = [_locate(part, Path(source), len(parts)) for part in parts]
    with ExitStack() as stack:
        characters: dict[str, _Character] = {}
        for part, path in zip(parts, paths, strict=True):
            characters |= _characters(stack.enter_context(open_members(path)), part)
        names = sorted(characters)
        write_store(
            store,
            names,
            [_DRAWINGS_PER_CHARACTER] * len(names),
            (*_IMAGE_SIZE, 1),
            np.uint8,
            _blocks([characters[name] for name in names], f"omniglot {variant}", progress),
            _provenance(variant, parts, paths),
        )
    return store


def _locate(part: Part, source: Path, number_of_parts: int) -> Path:
    """The verified archive of a part, or its unpacked folder."""
    if not source.exists():
        raise FileNotFoundError(
            f"`source` must be an archive or a folder, there is nothing at {source}; check the path."
        )
    if source.is_file():
        if number_of_parts > 1:
            raise ValueError(
                f"`source` must be a folder that holds all {number_of_parts} archives of this variant, "
                f"got the file {source}; pass its folder, or build one of the small variants."
            )
        verify(source, part.archive)
        return source
    archive, folder = source / part.archive.name, source / part.folder
    if archive.is_file():
        verify(archive, part.archive)
        return archive
    if folder.is_dir():
        return folder
    if source.resolve().name == part.folder:
        return source
    raise FileNotFoundError(
        f"`source` must hold {part.archive.name} or the unpacked folder {part.folder}, {source} holds "
        f"neither; download the archive from {' or '.join(part.archive.urls)}."
    )


@dataclass(frozen=True)
class _Character:
    """One character: where its drawings are."""

    members: Members
    drawings: tuple[str, ...]


def _characters(members: Members, part: Part) -> dict[str, _Character]:
    """The characters of one archive or unpacked folder by class name."""
    top = f"{part.folder}/"
    prefix = "" if members.path.is_dir() else top
    drawings: dict[str, list[str]] = {}
    for name in members.names:
        if not is_image(name, ".png"):
            continue
        match = _DRAWING.fullmatch(name.removeprefix(prefix)) if name.startswith(prefix) else None
        if match is None:
            raise ValueError(
                f"{members.path}: every image must be named {prefix}Alphabet/characterNN/NNNN_NN.png, "
                f"got {name!r}; pass the official {part.archive.name} or the folder unpacked from it."
            )
        drawings.setdefault(top + match["character"], []).append(name)
    _check_counts(members.path, part, drawings)
    return {name: _Character(members, tuple(files)) for name, files in drawings.items()}


def _check_counts(path: Path, part: Part, drawings: dict[str, list[str]]) -> None:
    for name, files in drawings.items():
        if len(files) != _DRAWINGS_PER_CHARACTER:
            raise ValueError(
                f"{path}: every character must have {_DRAWINGS_PER_CHARACTER} drawings, {name!r} has "
                f"{len(files)}; unpack {part.archive.name} again."
            )
    if len(drawings) != part.characters:
        raise ValueError(
            f"{path} must hold the {part.characters} characters of {part.archive.name}, got {len(drawings)}; "
            "pass the official archive or the folder unpacked from it."
        )


def _blocks(characters: Sequence[_Character], title: str, progress: bool) -> Iterator[npt.NDArray[np.uint8]]:
    """The prepared drawings, one `(20, 28, 28, 1)` block per character."""
    from tqdm import tqdm

    for character in tqdm(characters, title, unit="character", disable=not progress, file=sys.stderr):
        yield np.stack([_prepare(character.members, name) for name in character.drawings])


def _prepare(members: Members, name: str) -> npt.NDArray[np.uint8]:
    """One drawing as `(28, 28, 1)`, ink 255."""
    from PIL import Image, UnidentifiedImageError  # 0.1 s to import, and not needed once the store is built

    content = members.read(name)
    try:
        image = Image.open(io.BytesIO(content), formats=["PNG"])
        if image.size != _DRAWN_SIZE:
            raise ValueError(f"it must be of 105x105 pixels, got {image.size[0]}x{image.size[1]}")
        grey = image.convert("L")
    except (*_BROKEN_IMAGE, Image.DecompressionBombError) as error:
        reason = "it is no PNG image" if isinstance(error, UnidentifiedImageError) else error
        raise ValueError(
            f"{members.path}: {name!r} is not a drawing of Omniglot ({reason}); get the archive again."
        ) from None
    small = grey.resize(_IMAGE_SIZE, Image.Resampling.LANCZOS)
    return 255 - np.asarray(small)[:, :, np.newaxis]


def _provenance(variant: str, parts: Sequence[Part], paths: Sequence[Path]) -> dict[str, Any]:
    archives = {
        part.archive.name: "folder" if path.is_dir() else part.archive.sha256
        for part, path in zip(parts, paths, strict=True)
    }
    return {
        "benchmark": "omniglot",
        "variant": variant,
        "archives": archives,
        "image_size": list(_IMAGE_SIZE),
        "preparation": _PREPARATION,
    }
