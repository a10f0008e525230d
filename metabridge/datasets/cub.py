"""Caltech-UCSD Birds 200-2011 (Wah et al. 2011) as a few-shot benchmark."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive
from metabridge.archives.members import open_members
from metabridge.datasets.benchmarks import Benchmark, Content, StoredMetaDataset, Variant, table_split
from metabridge.datasets.images import centre_crop, decode, decoder, is_image

__all__ = ["CUB", "CUB_200", "read_cub"]

ARCHIVE = Archive(
    "CUB_200_2011.tgz",
    (
        "https://data.caltech.edu/records/65de6-vp158/files/CUB_200_2011.tgz",
        "gdrive:1hbzc_P1FuxMkcabkgn9ZKinBwW683j45",
    ),
    sha256="0c685df5597a8b24909f6a7c9db6d11e008733779a671760afef78feb49bf081",
    size=1_150_585_339,
    md5="97eceeb196236b17998738112f37df78",
)
IMAGES = 11_788
SIZE = 84
_FOLDER = "images/"
_MEMBER_BYTES = 256 << 20  # the tables of attributes, which are not read, are larger than any image


@contextmanager
def read_cub(paths: Sequence[Path], progress: bool, images: int = IMAGES) -> Iterator[Content]:
    """The photographs of `images/<NNN.Name>/`, in sorted order, read in the archive's order."""
    from tqdm import tqdm

    path = paths[0]
    with open_members(path, max_member_bytes=_MEMBER_BYTES) as members:
        places = [(name, name.rpartition(_FOLDER)[2]) for name in members.names if is_image(name, ".jpg")]
        found = {name: place for name, place in places if f"/{_FOLDER}" in f"/{name}" and place.count("/") == 1}
        if len(found) != images:
            raise ValueError(
                f"{path} must hold {images} photographs as images/<NNN.Name>/<name>.jpg, got {len(found)}; pass the "
                f"official {ARCHIVE.name} or its unpacked folder."
            )
        order = sorted(found, key=lambda name: found[name])
        rows = {name: row for row, name in enumerate(order)}
        classes = [found[name].partition("/")[0] for name in order]
        names, sizes = np.unique(classes, return_counts=True)
        prepare = centre_crop(SIZE, SIZE * 3 // 2)

        def examples() -> Iterator[tuple[int, npt.NDArray[np.uint8]]]:
            stream = tqdm(members.stream(order), "cub", len(order), unit="image", disable=not progress, file=sys.stderr)
            for name, content in stream:
                yield rows[name], decode(content, name, path, "JPEG", "RGB", prepare)

        yield Content(
            class_names=names.tolist(),
            class_sizes=sizes.tolist(),
            example_shape=(SIZE, SIZE, 3),
            dtype=np.uint8,
            blocks=examples(),
            preparation=f"{decoder()}: RGB, shorter side to {SIZE * 3 // 2} linearly, centre crop to {SIZE}x{SIZE}",
        )


CUB_200 = Benchmark(
    name="cub",
    title="Caltech-UCSD Birds",
    description="birds, Wah et al. 2011",
    terms="unknown",
    licence="photographs belong to their authors; none stated",
    variants={
        "full": Variant(
            archives=(ARCHIVE,),
            read=read_cub,
            splits={"official": partial(table_split, "cub")},
            num_classes=200,
            num_examples=(5_885, 2_950, 2_953),
            example_shape=(SIZE, SIZE, 3),
            dtype=np.uint8,
        )
    },
    downloads="cub",
)


class CUB(StoredMetaDataset):
    """N-way tasks over the species of Caltech-UCSD Birds, 84×84×3: 100/50/50 classes of 41 to 60 photographs.

    The split of Chen et al. 2019, a rule on the sorted names. Photographs are prepared as Torchmeta's helper prepares
    them: shorter side to 126, centre crop to 84, rounded as in torchvision. What a JPEG file decodes to depends on the
    decoder, which the store names: one archive may give two machines two fingerprints. 43 photographs also occur in
    ImageNet, so a network trained there has seen them.

    References:
        Wah, Branson, Welinder, Perona, Belongie 2011, The Caltech-UCSD Birds-200-2011 Dataset

        Chen, Liu, Kira, Wang, Huang 2019, A Closer Look at Few-shot Classification, https://arxiv.org/abs/1904.04232
    """

    benchmark = CUB_200
