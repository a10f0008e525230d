"""Double MNIST and Triple MNIST: images of two or three handwritten digits (Sun 2019)."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import numpy as np
import numpy.typing as npt

from metabridge.archives.fetch import Archive
from metabridge.archives.members import open_members
from metabridge.datasets.benchmarks import (
    Benchmark,
    Content,
    StoredMetaDataset,
    Variant,
    blocks_of_classes,
    table_split,
)
from metabridge.datasets.images import decode, exactly, is_image

__all__ = ["DOUBLE_MNIST", "TRIPLE_MNIST", "DoubleMNIST", "TripleMNIST", "read_digits"]

EXAMPLES_PER_CLASS = 1000


@contextmanager
def read_digits(
    paths: Sequence[Path], progress: bool, title: str, size: int, examples_per_class: int = EXAMPLES_PER_CLASS
) -> Iterator[Content]:
    """The images of `<meta-split>/<digits>/<number>_<digits>.png`, sorted; a class is its digits."""
    path = paths[0]
    with open_members(path, max_total_bytes=64 << 30) as members:
        images: dict[str, list[str]] = {}
        classes = {meta_split: set(names) for meta_split, names in table_split(title).items()}
        for name in members.names:
            parts = name.split("/")
            if is_image(name, ".png") and len(parts) >= 3 and parts[-3] in classes:
                if parts[-2] not in classes[parts[-3]]:
                    raise ValueError(
                        f"{path}: {name!r} is in meta-{parts[-3]}, where the official split has no class "
                        f"{parts[-2]!r}; pass the official archive or its unpacked folder."
                    )
                images.setdefault(parts[-2], []).append(name)
        wrong = [name for name, files in images.items() if len(files) != examples_per_class]
        if wrong or not images:
            what = f"class {wrong[0]!r} has {len(images[wrong[0]])}" if wrong else "it holds none"
            raise ValueError(
                f"{path} must hold {examples_per_class} images of every class as <split>/<digits>/<name>.png, {what}; "
                "pass the official archive or its unpacked folder."
            )

        def load(name: str) -> npt.NDArray[np.uint8]:
            return np.stack(
                [decode(members.read(file), file, path, "PNG", "L", exactly(size, size)) for file in images[name]]
            )

        yield Content(
            class_names=sorted(images),
            class_sizes=[examples_per_class] * len(images),
            example_shape=(size, size, 1),
            dtype=np.uint8,
            blocks=blocks_of_classes(title, sorted(images), load, progress),
            preparation=f"{size}x{size} grey as published, ink is 255",
        )


def _benchmark(
    name: str, title: str, digits: str, archive: Archive, num_classes: int, num_examples: tuple[int, ...], size: int
) -> Benchmark:
    return Benchmark(
        name=name,
        title=title,
        description=f"{digits} of digits, Sun 2019",
        terms="MIT in part",
        licence="MIT for the images' generator; MNIST by LeCun et al. 1998",
        variants={
            "full": Variant(
                archives=(archive,),
                read=partial(read_digits, title=name, size=size),
                splits={"official": partial(table_split, name)},
                num_classes=num_classes,
                num_examples=num_examples,
                example_shape=(size, size, 1),
                dtype=np.uint8,
            )
        },
        downloads=name,
    )


DOUBLE_MNIST = _benchmark(
    "doublemnist",
    "Double MNIST",
    "pairs",
    Archive(
        "double_mnist_seed_123_image_size_64_64.zip",
        ("gdrive:1MqQCdLt9TVE3joAMw4FwJp_B8F-htrAo",),
        md5="6d8b185c0cde155eb39d0e3615ab4f23",
    ),
    num_classes=100,
    num_examples=(64_000, 16_000, 20_000),
    size=64,
)
TRIPLE_MNIST = _benchmark(
    "triplemnist",
    "Triple MNIST",
    "triples",
    Archive(
        "triple_mnist_seed_123_image_size_84_84.zip",
        ("gdrive:1xqyW289seXYaDSqD2jaBPMKVAAjPP9ee",),
        md5="9508b047f9fbb834c02bc13ef44245da",
    ),
    num_classes=1000,
    num_examples=(640_000, 160_000, 200_000),
    size=84,
)


class DoubleMNIST(StoredMetaDataset):
    """N-way tasks over pairs of digits, 64×64×1, ink 1 on 0: 64/16/20 classes of 1000 images.

    One grey channel; Torchmeta makes three equal ones. The same MNIST digit can occur in meta-train and meta-test
    images: what is new in meta-test is the pair, not the digits.

    References:
        Sun 2019, Multi-digit MNIST for Few-shot Learning, https://github.com/shaohua0116/MultiDigitMNIST
    """

    benchmark = DOUBLE_MNIST


class TripleMNIST(StoredMetaDataset):
    """N-way tasks over triples of digits, 84×84×1, ink 1 on 0: 640/160/200 classes of 1000 images.

    One grey channel; Torchmeta makes three equal ones. The same MNIST digit can occur in meta-train and meta-test
    images: what is new in meta-test is the triple, not the digits.

    References:
        Sun 2019, Multi-digit MNIST for Few-shot Learning, https://github.com/shaohua0116/MultiDigitMNIST
    """

    benchmark = TRIPLE_MNIST
