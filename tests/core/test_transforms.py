"""Class augmentations make new classes, exactly; Categorical permutes labels."""

import numpy as np
import pytest
from helpers import coded_source
from PIL import Image

from metabridge import ClassSplitter, CombinationMetaDataset
from metabridge.sources import ArraySource
from metabridge.transforms import Categorical, HorizontalFlip, Rotation, VerticalFlip, expand_class_augmentations

TRANSPOSES = {
    90: Image.Transpose.ROTATE_90,
    180: Image.Transpose.ROTATE_180,
    270: Image.Transpose.ROTATE_270,
}


def random_images(*shape):
    return np.random.default_rng(0).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("angle", TRANSPOSES)
@pytest.mark.parametrize("side", [1, 2, 5, 8])
def test_rotation_is_pillow_s(angle, side):
    images = random_images(3, side, side, 1)
    for image, turned in zip(images, Rotation(angle)(images), strict=True):
        expected = Image.fromarray(image[..., 0]).transpose(TRANSPOSES[angle])
        np.testing.assert_array_equal(turned[..., 0], np.asarray(expected))


@pytest.mark.parametrize("angle", TRANSPOSES)
def test_rotation_moves_pixels_counter_clockwise_and_keeps_channels(angle):
    images = random_images(2, 3, 4, 4, 3)
    expected = images
    for _ in range(angle // 90):  # a quarter turn: the last column becomes the first row
        expected = np.stack([expected[..., ::-1, channel].swapaxes(-1, -2) for channel in range(3)], axis=-1)
    np.testing.assert_array_equal(Rotation(angle)(images), expected)


def test_four_quarter_turns_are_the_identity():
    images = random_images(4, 6, 6, 1)
    turned = images
    for count in range(1, 5):
        turned = Rotation(90)(turned)
        if count < 4:
            np.testing.assert_array_equal(turned, Rotation(90 * count)(images))
            assert (turned != images).any()
    np.testing.assert_array_equal(turned, images)


def test_a_half_turn_works_on_any_shape():
    images = random_images(2, 3, 5, 1)
    np.testing.assert_array_equal(Rotation(180)(images), images[:, ::-1, ::-1])


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        (Rotation(90), Rotation(90), True),
        (Rotation(90), Rotation([90]), True),
        (Rotation(-90), Rotation(270), True),
        (Rotation(450), Rotation(90), True),
        (Rotation(90), Rotation(180), False),
        (Rotation([90, 180]), Rotation([180, 90]), False),
        (Rotation(90), 90, False),
    ],
)
def test_rotations_are_equal_if_they_turn_alike(one, other, same):
    assert (one == other) is same
    if same:
        assert hash(one) == hash(other)
        assert repr(one) == repr(other)


def test_a_rotation_s_repr_builds_it():
    for rotation in (Rotation(90), Rotation([90, 270])):
        assert eval(repr(rotation)) == rotation
        assert list(rotation) == [Rotation(angle) for angle in rotation.angles]


@pytest.mark.parametrize("angle", [0, 360, -720, 45, 91, 22.5, [90, 100]])
def test_other_angles_are_refused(angle):
    value = angle[1] if isinstance(angle, list) else angle
    with pytest.raises(ValueError, match=f"multiple of 90 degrees and not of 360, got {value}; use 90, 180 or 270"):
        Rotation(angle)


def test_a_refused_identity_shows_the_line_without_it():
    with pytest.raises(
        ValueError, match=r"got 0; write Rotation\(\[90, 270\]\) \(the class itself, unturned, is always there"
    ):
        Rotation([0, 90, 270])


def test_several_angles_cannot_be_called():
    with pytest.raises(ValueError, match=r"Rotation\(\[90, 180\]\) stands for several augmentations; call each of"):
        Rotation([90, 180])(random_images(1, 4, 4, 1))


@pytest.mark.parametrize(
    ("shape", "message"),
    [
        ((2, 3, 5, 1), "`images` must be square to turn by 90 degrees, got 3×5"),
        ((3, 5), r"`images` must be \(\.\.\., H, W, channels\) to be turned, got shape \(3, 5\)"),
    ],
)
def test_images_that_cannot_be_turned_are_refused(shape, message):
    with pytest.raises(ValueError, match=message):
        Rotation(90)(random_images(*shape))


FLIPS = {HorizontalFlip: Image.Transpose.FLIP_LEFT_RIGHT, VerticalFlip: Image.Transpose.FLIP_TOP_BOTTOM}


@pytest.mark.parametrize("flip", FLIPS)
def test_flips_are_pillow_s_and_undo_themselves(flip):
    images = random_images(3, 4, 5, 3)
    for image, mirrored in zip(images, flip()(images), strict=True):
        np.testing.assert_array_equal(mirrored, np.asarray(Image.fromarray(image).transpose(FLIPS[flip])))
    np.testing.assert_array_equal(flip()(flip()(images[None])), images[None])


def test_flips_are_equal_to_themselves_alone():
    flips = [HorizontalFlip(), VerticalFlip(), Rotation(180)]
    assert len({*flips, HorizontalFlip(), VerticalFlip()}) == 3
    assert [eval(repr(flip)) for flip in flips] == flips
    assert HorizontalFlip() == HorizontalFlip() != VerticalFlip()
    assert list(expand_class_augmentations([VerticalFlip(), HorizontalFlip()])) == [VerticalFlip(), HorizontalFlip()]
    with pytest.raises(ValueError, match=r"holds VerticalFlip\(\) twice"):
        expand_class_augmentations([VerticalFlip(), HorizontalFlip(), VerticalFlip()])
    with pytest.raises(ValueError, match=r"must be \(\.\.\., H, W, channels\) to be mirrored, got shape \(3, 4\)"):
        HorizontalFlip()(random_images(3, 4))


def test_flips_make_new_classes(source):
    dataset = CombinationMetaDataset(source, 1, class_augmentations=[HorizontalFlip(), VerticalFlip()])
    assert dataset.num_classes == 24
    plain = dataset[(3,)].inputs
    np.testing.assert_array_equal(dataset[(11,)].inputs, plain[:, :, ::-1])
    np.testing.assert_array_equal(dataset[(19,)].inputs, plain[:, ::-1])
    assert dataset.class_name(19) == "class3 VerticalFlip()"


def test_augmentations_are_for_the_meta_splits_that_are_named(source):
    named = {"train": [Rotation(90), HorizontalFlip()], "test": [VerticalFlip()]}
    found = {
        split: CombinationMetaDataset(source, 2, split, class_augmentations=named) for split in ("train", "val", "test")
    }
    assert [dataset.num_classes for dataset in found.values()] == [24, 8, 16]
    same = CombinationMetaDataset(source, 2, "test", class_augmentations=[VerticalFlip()])
    assert same.fingerprint == found["test"].fingerprint
    with pytest.raises(ValueError, match="must map meta-splits to lists; these are 'train', 'val', 'test', got 'dev'"):
        CombinationMetaDataset(source, 2, class_augmentations={"dev": [VerticalFlip()]})
    with pytest.raises(TypeError, match=r"`class_augmentations` must be a list, got VerticalFlip"):
        CombinationMetaDataset(source, 2, class_augmentations={"train": VerticalFlip()})


@pytest.mark.parametrize(
    ("augmentations", "angles"),
    [
        (None, []),
        ([], []),
        ([Rotation(90)], [90]),
        ([Rotation([90, 180, 270])], [90, 180, 270]),
        ((Rotation([270, 90]), Rotation(180)), [270, 90, 180]),
    ],
)
def test_expansion_lists_single_augmentations_in_order(augmentations, angles):
    assert [each.angles for each in expand_class_augmentations(augmentations)] == [(angle,) for angle in angles]


@pytest.mark.parametrize("twice", [[Rotation(90), Rotation(90)], [Rotation([90, 450])], [Rotation(-90), Rotation(270)]])
def test_the_same_augmentation_twice_is_refused(twice):
    with pytest.raises(ValueError, match=r"`class_augmentations` holds Rotation\((90|270)\) twice; name every"):
        expand_class_augmentations(twice)


def test_no_angle_at_all_is_refused():
    with pytest.raises(ValueError, match="`angle` must hold at least one angle, got none"):
        Rotation([])


class Negative:
    """Somebody's augmentation that does not say what it is."""

    def __call__(self, images):
        return 255 - images

    def __iter__(self):
        return iter((self,))


def test_an_augmentation_must_say_what_it_is():
    """Otherwise its address would be part of the fingerprint, another one in every process."""
    with pytest.raises(TypeError, match="Negative must have a `__repr__` that says everything"):
        expand_class_augmentations([Negative()])


def test_an_augmentation_outside_a_list_is_refused():
    with pytest.raises(
        TypeError, match=r"`class_augmentations` must be a list, got Rotation; write \[Rotation\(90\)\]"
    ):
        expand_class_augmentations(Rotation(90))


# Augmented classes in a meta-dataset


@pytest.fixture(scope="module")
def augmented():
    dataset = CombinationMetaDataset(coded_source([8] * 3), 4, class_augmentations=[Rotation([90, 180, 270])])
    return ClassSplitter(dataset, num_train_per_class=2, num_test_per_class=3)


def expected_pixels(dataset, class_id, example_id):
    """Class `c + a·C` is class `c` under the a-th augmentation, by `np.rot90` one image at a time."""
    turns, class_id = divmod(class_id, 3)
    image = dataset.source.examples[dataset.source.class_starts[class_id] + example_id]
    return np.rot90(image, k=turns).astype(np.float32) / np.float32(255)


def test_pixels_match_the_class_id_for_every_image_of_a_batch(augmented):
    batch = augmented.episodes(range(32), seed=5)
    assert set(batch.plan.classes.ravel().tolist()) == set(range(12)), "every augmentation must occur"
    for name, columns in batch.plan.split_columns():
        inputs, targets = batch[name]
        example_ids = batch.plan.examples[:, :, columns]
        shots = example_ids.shape[-1]
        for episode, way, shot in np.ndindex(example_ids.shape):
            class_id = batch.plan.classes[episode, way]
            expected = expected_pixels(augmented, class_id, example_ids[episode, way, shot])
            np.testing.assert_array_equal(inputs[episode, way * shots + shot], expected)
            assert targets[episode, way * shots + shot] == batch.plan.labels[episode, way]


def test_a_class_and_its_turned_self_are_different_classes(augmented):
    task = augmented[(1, 4, 7, 10)]["train"]
    firsts = [task.inputs[2 * way : 2 * way + 2].tobytes() for way in range(4)]
    assert len(set(firsts)) == 4
    assert sorted(set(task.targets.tolist())) == [0, 1, 2, 3]


def test_augmentation_multiplies_classes_and_names_them(augmented):
    assert augmented.num_classes == 12
    assert augmented.num_tasks == 495
    assert [augmented.class_name(c) for c in (2, 5, 11)] == ["class2", "class2 Rotation(90)", "class2 Rotation(270)"]


def test_augmentation_leaves_the_source_alone(augmented):
    before = augmented.source.examples.copy()
    augmented.episodes(range(16))
    np.testing.assert_array_equal(augmented.source.examples, before)


class Invert:
    """Somebody's own augmentation."""

    def __init__(self, dtype=np.uint8):
        self.dtype = dtype

    def __call__(self, images):
        return (255 - images).astype(self.dtype)

    def __iter__(self):
        yield self

    def __repr__(self):
        return "Invert()"


def test_anybody_s_augmentation_works(source):
    dataset = CombinationMetaDataset(source, 1, class_augmentations=[Rotation(90), Invert()])
    plain, inverted = dataset[(2,)], dataset[(18,)]
    assert dataset.class_name(18) == "class2 Invert()"
    np.testing.assert_array_equal(
        np.rint(inverted.inputs * 255) + np.rint(plain.inputs * 255), np.full(plain.inputs.shape, 255)
    )


def test_an_augmentation_that_changes_shape_or_dtype_is_refused_at_once(source):
    class Crop(Invert):
        def __call__(self, images):
            return images[..., 1:, :, :]

    with pytest.raises(ValueError, match=r"turns uint8 of shape \(6, 6, 1\) into uint8 of shape \(5, 6, 1\); keep"):
        CombinationMetaDataset(source, 2, class_augmentations=[Crop()])
    with pytest.raises(ValueError, match=r"Invert\(\) turns uint8 of shape .* into float64 of shape .*; keep both"):
        CombinationMetaDataset(source, 2, class_augmentations=[Invert(np.float64)])


def test_features_cannot_be_rotated():
    features = ArraySource.from_classes({"a": np.zeros((3, 4)), "b": np.ones((3, 4))})
    with pytest.raises(ValueError, match=r"must be \(\.\.\., H, W, channels\) to be turned, got shape \(1, 4\)"):
        CombinationMetaDataset(features, 2, class_augmentations=[Rotation(90)])


# Categorical


def test_categorical_must_fit_the_ways(source):
    for fitting in (Categorical(3), Categorical()):
        assert CombinationMetaDataset(source, 3, target_transform=fitting).target_transform is fitting
    with pytest.raises(ValueError, match=r"`target_transform` Categorical\(5\) must name as many .* which is 3; write"):
        CombinationMetaDataset(source, 3, target_transform=Categorical(5))
    with pytest.raises(TypeError, match="`target_transform` must be a Categorical or None, got <class 'int'>"):
        CombinationMetaDataset(source, 3, target_transform=int)


def test_categorical_says_what_it_is():
    assert [repr(each) for each in (Categorical(5), Categorical())] == ["Categorical(5)", "Categorical()"]
