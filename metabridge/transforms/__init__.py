"""Class augmentations, image transforms and target transforms."""

from metabridge.transforms.classes import (
    ClassAugmentation,
    HorizontalFlip,
    Rotation,
    VerticalFlip,
    expand_class_augmentations,
)
from metabridge.transforms.colours import ColorJitter, Normalize
from metabridge.transforms.geometry import CenterCrop, RandomCrop, RandomHorizontalFlip, Resize
from metabridge.transforms.images import (
    IGNORED,
    Elementwise,
    ImageTransform,
    InPlace,
    expand_transforms,
    transform_images,
)
from metabridge.transforms.targets import Categorical

__all__ = [
    "IGNORED",
    "Categorical",
    "CenterCrop",
    "ClassAugmentation",
    "ColorJitter",
    "Elementwise",
    "HorizontalFlip",
    "ImageTransform",
    "InPlace",
    "Normalize",
    "RandomCrop",
    "RandomHorizontalFlip",
    "Resize",
    "Rotation",
    "VerticalFlip",
    "expand_class_augmentations",
    "expand_transforms",
    "transform_images",
]
