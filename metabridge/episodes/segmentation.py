"""Few-shot segmentation: tasks of one class, whose targets are masks."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from metabridge.episodes.batches import EpisodeBatch, read_splits, to_float32, transform_words
from metabridge.episodes.metadatasets import CombinationMetaDataset
from metabridge.episodes.plans import EpisodePlan
from metabridge.episodes.splitters import Splitter
from metabridge.sources.base import ClassSource
from metabridge.transforms.classes import ClassAugmentation
from metabridge.transforms.images import (
    IGNORED,
    ImageTransform,
    Masks,
    MaskTransform,
    transform_images,
    transform_masks,
)

__all__ = ["SegmentationMetaDataset"]


class SegmentationMetaDataset(CombinationMetaDataset):
    """1-way segmentation: a task is one class of a source; a target says which pixels show an object of it.

    Inputs are images `(B, k, H, W, channels)` float32 in [0, 1], targets masks `(B, k, H, W)` int64: 1 on an object of
    the class, 0 elsewhere, `IGNORED` (255) where nothing is said, such as on the outlines of objects. Pass 255 to the
    loss: `functional.cross_entropy(…, ignore_index=255)` of either backend.

    Shaban et al. 2017, https://arxiv.org/abs/1709.03410

    >>> import numpy as np
    >>> from metabridge import ClassSplitter
    >>> from metabridge.sources import ArraySource
    >>> rng = np.random.default_rng(0)
    >>> images = rng.integers(0, 256, (2, 8, 16, 16, 3), dtype=np.uint8)
    >>> masks = (images.mean(axis=-1, keepdims=True) > 150).astype(np.uint8)
    >>> cats, dogs = np.concatenate([images, masks], axis=-1)
    >>> dataset = SegmentationMetaDataset(ArraySource.from_classes({"cat": cats, "dog": dogs}))
    >>> ClassSplitter(dataset, num_train_per_class=1, num_test_per_class=5).episodes(range(4), seed=0)
    EpisodeBatch(4 episodes; train: (4, 1, 16, 16, 3) → (4, 1, 16, 16), test: (4, 5, 16, 16, 3) → (4, 5, 16, 16))

    Args:
        source: uint8 examples `(H, W, channels + 1)`: an image, and its mask of 0, 1 and 255 as the last channel.
        num_classes_per_task: 1.
        meta_split: `"train"`, `"val"` or `"test"`.
        target_transform: `None`: masks are not relabelled.
        dataset_transform: a splitter.
        class_augmentations: augmentations, or meta-split → augmentations, of which each makes a new class of every
            class; they turn or mirror images and masks together, and must not change values.
        transform: image transforms of `metabridge.transforms`, one or a list: those that move pixels move a mask's
            too (the nearest pixel, where `Resize` mixes those of an image).
        query_source: a source in which every class of `source` is found again by its name; see
            `CombinationMetaDataset`.

    Raises:
        TypeError: if `source` has no masks, for a `target_transform`, or for a transform that says nothing of masks.
        ValueError: for another number of ways, and whatever `CombinationMetaDataset` raises.
    """

    kind = "segmentation"

    def __init__(
        self,
        source: ClassSource,
        num_classes_per_task: int = 1,
        meta_split: str = "train",
        target_transform: None = None,
        dataset_transform: Splitter | None = None,
        class_augmentations: Sequence[ClassAugmentation] | Mapping[str, Sequence[ClassAugmentation]] | None = None,
        transform: ImageTransform | Sequence[ImageTransform] | None = None,
        query_source: ClassSource | None = None,
    ) -> None:
        if len(source.example_shape) != 3 or source.example_shape[-1] < 2 or source.dtype != np.uint8:
            raise TypeError(
                "`source` must hold uint8 examples (H, W, channels + 1) with a mask as the last channel, got "
                f"{source.example_shape} {source.dtype}; use np.concatenate([images, masks[..., None]], axis=-1)."
            )
        if target_transform is not None:
            self.check_target_transform(target_transform)
        if num_classes_per_task != 1:
            raise ValueError(
                f"`num_classes_per_task` must be 1, got {num_classes_per_task!r}: a mask tells one class from the rest."
            )
        super().__init__(
            source,
            num_classes_per_task,
            meta_split,
            None,
            dataset_transform,
            class_augmentations,
            transform,
            query_source,
        )

    def check_target_transform(self, target_transform: object) -> None:
        """Raise `TypeError`: there are no labels."""
        raise TypeError(
            f"`target_transform` must be None, got {target_transform!r}; the targets of a segmentation are masks."
        )

    @property
    def stored_shape(self) -> tuple[int, ...]:
        """Shape of one image before `transform`."""
        height, width, channels = self.source.example_shape
        return height, width, channels - 1

    def _transformed_shape(self) -> tuple[int, ...]:
        """Shape of one input; also what does not fit masks fails here."""
        for each in self.transforms:
            if not isinstance(each, MaskTransform):
                raise TypeError(
                    f"`transform` must say what happens to masks, {each!r} does not; give it a method "
                    "`apply_to_masks(masks, parameters)`, or derive it from InPlace if it moves no pixel."
                )
        shape = super()._transformed_shape()
        transforms: Any = self.transforms
        words = [np.zeros((1, each.num_words), dtype=np.uint64) for each in transforms]
        masks = transform_masks(transforms, np.zeros((1, *self.stored_shape[:2]), dtype=np.uint8), words)
        if masks.shape[1:] != shape[:2] or masks.dtype != np.uint8:
            raise ValueError(
                f"`transform` must do to masks what it does to images, it makes {shape[:2]} of an image and "
                f"{masks.shape[1:]} {masks.dtype} of its mask; look at `apply_to_masks` of {list(transforms)!r}."
            )
        return shape

    def gather(self, plan: EpisodePlan) -> EpisodeBatch:
        """Copy the images and masks a plan names.

        Raises:
            IndexError: if it names a class or an example that is not there.
            ValueError: if it was made by a meta-dataset of other classes, or a mask holds anything but 0, 1 and 255.
        """
        self.check_plan(plan)
        transforms: Any = self.transforms  # all of them MaskTransforms
        words = transform_words(plan, transforms)
        splits = {}
        for name, slots, examples in read_splits(plan, self.source, self.class_augmentations, self.query_source):
            drawn = [lane[slots.used] for lane in words]
            images = transform_images(transforms, to_float32(examples[..., :-1]), drawn)
            _check_masks(examples[..., -1])
            masks = transform_masks(transforms, examples[..., -1], drawn).astype(np.int64)
            splits[name] = (slots.by_episode(images, 0), slots.by_episode(masks, IGNORED))
        return EpisodeBatch(plan, splits)


def _check_masks(masks: Masks) -> None:
    wrong = (masks > 1) & (masks != IGNORED)
    if wrong.any():
        raise ValueError(
            f"the masks of `source` must hold 0, 1 and {IGNORED} (ignored) alone, got {masks[wrong][0]}; make the "
            "object 1 and everything else 0."
        )
