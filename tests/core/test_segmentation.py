"""Segmentation: masks follow their images through everything that moves pixels, and through nothing else."""

from typing import ClassVar

import numpy as np
import pytest
from backends.kits import FRAMEWORKS, make_kit

from metabridge import ClassSplitter, CombinationMetaDataset, EpisodeLoader, SupervisedView
from metabridge.episodes.segmentation import SegmentationMetaDataset
from metabridge.sources import ArraySource
from metabridge.transforms import (
    Categorical,
    CenterCrop,
    ColorJitter,
    HorizontalFlip,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    Rotation,
    VerticalFlip,
)
from metabridge.transforms.images import IGNORED, Fixed, InPlace, Shown

RULE = ClassSplitter(num_train_per_class=2, num_test_per_class=3)
BRIGHT = 128


def mask_of(images):
    """What a mask says of its image here: where the last channel is bright, and nothing where it is brightest."""
    channel = np.rint(images[..., -1] * 255) if images.dtype != np.uint8 else images[..., -1]
    return np.where(channel == 255, IGNORED, channel >= BRIGHT)


def make_source(seed=0, sizes=(7, 9, 8)):
    """Random images, whose masks can be told from them pixel by pixel."""
    rng = np.random.default_rng(seed)
    classes = {}
    for number, size in enumerate(sizes):
        images = rng.integers(1, 256, (size, 12, 12, 3), dtype=np.uint8)
        masks = mask_of(images).astype(np.uint8)
        classes[f"class{number}"] = np.concatenate([images, masks[..., None]], axis=-1)
    return ArraySource.from_classes(classes)


SOURCE = make_source()


def segmentation(transform=None, source=SOURCE, **arguments):
    return SegmentationMetaDataset(source, dataset_transform=RULE, transform=transform, **arguments)


def assert_masks_follow(batch, padded=False):
    for inputs, targets in batch.values():
        assert targets.dtype == np.int64
        assert targets.shape == inputs.shape[:-1]
        expected = mask_of(inputs)
        if padded:  # padding is 0 in images, which are 1 to 255 elsewhere
            expected = np.where(inputs[..., -1] == 0, IGNORED, expected)
        np.testing.assert_array_equal(targets, expected)
        assert set(np.unique(targets)) == {0, 1, IGNORED}


def test_an_episode_is_images_and_their_masks():
    batch = segmentation().episodes(range(6), seed=1)
    assert {name: (x.shape, y.shape) for name, (x, y) in batch.items()} == {
        "train": ((6, 2, 12, 12, 3), (6, 2, 12, 12)),
        "test": ((6, 3, 12, 12, 3), (6, 3, 12, 12)),
    }
    assert_masks_follow(batch)
    assert batch["train"][0].dtype == np.float32
    assert segmentation().episodes([])["test"][1].shape == (0, 3, 12, 12)


def test_the_plan_is_that_of_any_1_way_meta_dataset():
    plain = CombinationMetaDataset(SOURCE, 1, dataset_transform=RULE)
    assert segmentation().plan(3, range(9)).digest() == plain.plan(3, range(9)).digest()
    assert segmentation().fingerprint != plain.fingerprint


@pytest.mark.parametrize(
    "transform",
    [RandomCrop((7, 9)), RandomHorizontalFlip(), CenterCrop((5, 8)), [RandomHorizontalFlip(), RandomCrop(6)]],
    ids=repr,
)
@pytest.mark.parametrize("augmentations", [None, [Rotation([90, 180, 270])], [HorizontalFlip(), VerticalFlip()]])
def test_what_moves_pixels_moves_those_of_the_mask(transform, augmentations):
    batch = segmentation(transform, class_augmentations=augmentations).episodes(range(20))
    assert_masks_follow(batch)
    plain = segmentation().episodes(range(20))
    assert batch["train"][0].shape != plain["train"][0].shape or (batch["train"][1] != plain["train"][1]).any()


def test_what_padding_adds_is_ignored():
    batch = segmentation(RandomCrop(12, padding=4)).episodes(range(20))
    assert_masks_follow(batch, padded=True)
    assert (batch["train"][0] == 0).any()


def test_resizing_takes_the_nearest_pixel_of_a_mask():
    plain, large = segmentation().episodes(range(3)), segmentation(Resize(36)).episodes(range(3))
    np.testing.assert_array_equal(large["test"][1], plain["test"][1].repeat(3, axis=2).repeat(3, axis=3))
    small = segmentation(Resize(4)).episodes(range(3))
    np.testing.assert_array_equal(small["test"][1], plain["test"][1][:, :, 1::3, 1::3])
    assert small["test"][0].shape == (3, 3, 4, 4, 3)


def test_colours_leave_masks_alone():
    plain = segmentation().episodes(range(5))
    changed = segmentation([ColorJitter(0.4, 0.4, 0.4), Normalize(0.5, 0.25)]).episodes(range(5))
    np.testing.assert_array_equal(plain["train"][1], changed["train"][1])
    assert (plain["train"][0] != changed["train"][0]).any()


def test_episodes_depend_on_their_index_alone():
    dataset = segmentation([RandomCrop(6), RandomHorizontalFlip()])
    together = dataset.episodes([5, 2, 9], seed=4)
    for row, index in enumerate([5, 2, 9]):
        alone = dataset.episodes([index], seed=4)
        for split in together:
            for part in (0, 1):
                np.testing.assert_array_equal(alone[split][part][0], together[split][part][row])


def test_tasks_are_addressed_by_their_class():
    task = segmentation()[(2,)]["test"]
    image, mask = task[1]
    assert image.shape == (12, 12, 3)
    np.testing.assert_array_equal(mask, mask_of(image))
    assert len(task) == 3
    assert segmentation().num_tasks == 3


def test_support_and_query_may_come_from_two_sources():
    batch = segmentation(query_source=make_source(seed=1)).episodes(range(4))
    assert_masks_follow(batch)


def test_stored_examples_are_never_written_into():
    before = SOURCE.examples.copy()
    segmentation(RandomHorizontalFlip(1)).episodes(range(9))
    np.testing.assert_array_equal(SOURCE.examples, before)


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_both_backends_get_the_same_bits(framework):
    for package in FRAMEWORKS[framework]:
        pytest.importorskip(package)
    kit = make_kit(framework)
    dataset = segmentation([RandomCrop(8), ColorJitter(0.4)])
    loader = kit.data.BatchMetaDataLoader(dataset, batch_size=4, num_batches=2, seed=5)
    for found, expected in zip(loader, EpisodeLoader(dataset, 4, 2, 5), strict=True):
        for name, (inputs, targets) in kit.data.to_numpy(found).items():
            np.testing.assert_array_equal(inputs, expected[name][0])
            np.testing.assert_array_equal(targets, expected[name][1])
        channels_first = framework == "torch"
        assert tuple(found["test"][0].shape) == ((4, 3, 3, 8, 8) if channels_first else (4, 3, 8, 8, 3))
        assert tuple(found["test"][1].shape) == (4, 3, 8, 8)


class Invert:
    """A transform that says nothing of masks."""

    num_words = 0

    def draw(self, words):
        return words

    def apply(self, images, parameters):
        return np.float32(1) - images

    def __repr__(self):
        return "Invert()"


class Halve(InPlace, Fixed, Shown):
    """Says that it leaves masks alone, and does not leave images alone."""

    _arguments: ClassVar = {}

    def apply(self, images, parameters):
        return images[:, ::2, ::2]


def test_torchs_own_transforms_would_leave_the_masks():
    loader = pytest.importorskip("torch_backend.data").BatchMetaDataLoader
    with pytest.raises(TypeError, match="`transform` must be left out for a segmentation"):
        loader(segmentation(), transform=lambda image: image)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: SegmentationMetaDataset(SOURCE, 2), ValueError, "`num_classes_per_task` must be 1, got 2"),
        (lambda: segmentation(target_transform=Categorical(1)), TypeError, "`target_transform` must be None"),
        (lambda: segmentation(Invert()), TypeError, r"must say what happens to masks, Invert\(\) does not"),
        (lambda: segmentation(Halve()), ValueError, r"do to masks what .* makes \(6, 6\) of an image and \(12, 12\)"),
        (
            lambda: SegmentationMetaDataset(ArraySource.from_classes({"a": np.zeros((9, 12, 12, 1), np.uint8)})),
            TypeError,
            r"with a mask as the last channel, got \(12, 12, 1\) uint8",
        ),
        (
            lambda: SegmentationMetaDataset(ArraySource.from_classes({"a": np.zeros((9, 12, 12, 4), np.float32)})),
            TypeError,
            r"must hold uint8 examples .* got \(12, 12, 4\) float32",
        ),
        (
            lambda: segmentation(source=ArraySource.from_classes({"a": np.full((9, 4, 4, 2), 2, "u1")})).episodes([0]),
            ValueError,
            r"must hold 0, 1 and 255 \(ignored\) alone, got 2; make the object 1",
        ),
        (lambda: segmentation(RandomCrop(13)), ValueError, "`size` must be at most 12×12"),
        (lambda: SupervisedView(segmentation()), TypeError, "must have class ids as targets, .* has masks"),
    ],
)
def test_what_does_not_fit_is_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()
