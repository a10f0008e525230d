"""Class augmentations and target transforms."""

from metabridge.transforms.classes import ClassAugmentation, Rotation, expand_class_augmentations
from metabridge.transforms.targets import Categorical

__all__ = ["Categorical", "ClassAugmentation", "Rotation", "expand_class_augmentations"]
