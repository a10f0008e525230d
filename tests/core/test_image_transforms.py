"""Image transforms: parameters drawn from the episode's stream, pixels by exact arithmetic."""

import json
import pickle

import numpy as np
import pytest
from helpers import chi_square_excess, coded_source, decode, run_python
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from metabridge import ClassSplitter, CombinationMetaDataset
from metabridge.episodes.batches import arrays_digest
from metabridge.episodes.plans import TRANSFORM_LANE
from metabridge.sources import ArraySource
from metabridge.streams import philox_words, uniforms
from metabridge.transforms import (
    Categorical,
    CenterCrop,
    ColorJitter,
    ImageTransform,
    Normalize,
    RandomCrop,
    RandomHorizontalFlip,
    Resize,
    Rotation,
    expand_transforms,
)


def images(count=5, height=9, width=7, channels=3):
    values = uniforms(philox_words((3, 4), [0], max(1, count * height * width * channels)))
    return values[0].astype(np.float32).reshape(count, height, width, channels)


def words(count, each, lane=0):
    return philox_words((1, 2), range(count), each, lane)


def transformed(transform, batch, lane=0):
    return transform.apply(batch.copy(), transform.draw(words(len(batch), transform.num_words, lane)))


TRANSFORMS = [
    Resize((5, 6)),
    Resize(12),
    CenterCrop((4, 3)),
    RandomCrop((8, 7), padding=2),
    RandomCrop(5),
    RandomHorizontalFlip(),
    ColorJitter(0.4, (0.2, 1.5), 0.4),
    Normalize((0.5, 0.4, 0.3), (0.2, 0.3, 0.4)),
    Normalize(0.5, 0.25),
]
EVERY = pytest.mark.parametrize("transform", TRANSFORMS, ids=repr)


# What every transform is


@EVERY
def test_a_transform_says_everything_in_its_repr_and_pickles(transform):
    assert isinstance(transform, ImageTransform)
    for copy in (eval(repr(transform)), pickle.loads(pickle.dumps(transform))):
        assert copy == transform
        assert hash(copy) == hash(transform)
        np.testing.assert_array_equal(transformed(copy, images()), transformed(transform, images()))
    assert len({repr(each) for each in TRANSFORMS}) == len(TRANSFORMS)


def test_numbers_of_numpy_are_numbers():
    assert Normalize(np.array([0.5, 0.4]), np.float32(0.25)) == Normalize([0.5, 0.4], 0.25)
    assert Resize(np.int64(5)) == Resize(5)
    assert RandomCrop([np.int32(5), 6]) == RandomCrop((5, 6))
    assert ColorJitter(np.float32(0.5), np.array([0.5, 2])) == ColorJitter(0.5, (0.5, 2))
    assert RandomHorizontalFlip(np.int64(1)) == RandomHorizontalFlip(1)
    assert RandomHorizontalFlip(np.float64(0.25)) == RandomHorizontalFlip(0.25)


@EVERY
def test_images_are_transformed_each_by_itself(transform):
    batch = images(6)
    parameters = transform.draw(words(6, transform.num_words))
    together = transform.apply(batch.copy(), parameters)
    assert together.dtype == np.float32
    for i in range(6):
        alone = transform.apply(batch[i : i + 1].copy(), parameters[i : i + 1])
        np.testing.assert_array_equal(alone[0], together[i])
    assert transform.apply(batch[:0].copy(), parameters[:0]).shape == (0, *together.shape[1:])


@EVERY
def test_only_random_transforms_depend_on_words(transform):
    one, other = (transformed(transform, images(30), lane) for lane in (0, 1))
    assert (one == other).all() == (transform.num_words == 0)


@pytest.mark.parametrize("piece", [1, 200, 10**9])
def test_how_many_images_are_transformed_at_once_changes_nothing(monkeypatch, piece):
    expected = dataset().episodes(range(5)).digest()
    monkeypatch.setattr("metabridge.transforms.images._PIECE", piece)
    assert dataset().episodes(range(5)).digest() == expected
    assert dataset().episodes([])["test"][0].shape == (0, 9, 5, 6, 1)


# Each one


@pytest.mark.parametrize(("old", "new"), [((105, 105), (28, 28)), ((28, 28), (84, 84)), ((17, 31), (9, 40)),
                                          ((5, 5), (5, 2)), ((40, 3), (1, 3)), ((84, 84), (42, 83))])  # fmt: skip
def test_resizing_is_pillow_s_bilinear_up_to_rounding(old, new):
    batch = images(2, *old)
    found = Resize(new).apply(batch, np.zeros((2, 0)))
    assert found.shape == (2, *new, 3)
    for image, expected in zip(found, batch, strict=True):
        for channel in range(3):
            pillow = Image.fromarray(expected[..., channel]).resize(new[::-1], Image.Resampling.BILINEAR)
            np.testing.assert_allclose(image[..., channel], np.asarray(pillow), atol=5e-7)


@given(st.integers(1, 30), st.integers(1, 30))
def test_resizing_keeps_constants_and_the_identity(old, new):
    flat = np.full((1, old, old, 1), 0.7, dtype=np.float32)
    np.testing.assert_allclose(Resize(new).apply(flat, np.zeros((1, 0))), 0.7, rtol=4e-6)  # up to 61 roundings
    same = images(1, old, old)
    np.testing.assert_array_equal(Resize(old).apply(same, np.zeros((1, 0))), same)


@given(st.integers(1, 9), st.integers(1, 7))
def test_a_centre_crop_is_the_middle(height, width):
    found = CenterCrop((height, width)).apply(images(), np.zeros((5, 0)))
    top, left = (9 - height) // 2, (7 - width) // 2
    np.testing.assert_array_equal(found, images()[:, top : top + height, left : left + width])


@given(st.integers(0, 3), st.integers(1, 9), st.integers(1, 7))
def test_a_random_crop_is_a_window_of_the_padded_image(padding, height, width):
    transform = RandomCrop((height, width), padding)
    batch = images()
    padded = np.zeros((5, 9 + 2 * padding, 7 + 2 * padding, 3), dtype=np.float32)
    padded[:, padding : padding + 9, padding : padding + 7] = batch
    windows = np.lib.stride_tricks.sliding_window_view(padded, (height, width), axis=(1, 2)).transpose(0, 1, 2, 4, 5, 3)
    for image, choices in zip(transformed(transform, batch), windows, strict=True):
        assert (choices.reshape(-1, height, width, 3) == image).all(axis=(1, 2, 3)).any()


def test_every_window_is_equally_likely():
    batch = np.broadcast_to(np.arange(16, dtype=np.float32).reshape(1, 4, 4, 1), (9000, 4, 4, 1))
    corners = transformed(RandomCrop(2), batch)[:, 0, 0, 0].astype(int)
    counts = np.bincount(corners, minlength=16)
    assert set(np.flatnonzero(counts).tolist()) == {0, 1, 2, 4, 5, 6, 8, 9, 10}
    assert abs(chi_square_excess(counts[counts > 0])) < 4


@pytest.mark.parametrize("p", [0, 0.3, 0.5, 1])
def test_a_share_of_the_images_is_mirrored(p):
    batch = images(4000, 2, 3, 1)
    found = transformed(RandomHorizontalFlip(p), batch)
    flipped = (found == batch[:, :, ::-1]).all(axis=(1, 2, 3))
    np.testing.assert_array_equal(found[~flipped], batch[~flipped])
    assert abs(flipped.mean() - p) < 0.03
    assert p not in (0, 1) or flipped.mean() == p


def jittered(batch, brightness, contrast, saturation):
    """The same in float64 and by the textbook."""
    grey = [0.299, 0.587, 0.114]
    x = np.clip(batch * brightness, 0, 1)
    x = np.clip(x * contrast + (x @ grey).mean() * (1 - contrast), 0, 1)
    return np.clip(x * saturation + (x @ grey)[..., None] * (1 - saturation), 0, 1)


def test_colours_are_jittered_as_the_textbook_says():
    transform = ColorJitter(0.4, 0.3, (0.1, 2.0))
    batch = images(20)
    factors = transform.draw(words(20, 3))
    assert factors.dtype == np.float32
    for column, (low, high) in enumerate([(0.6, 1.4), (0.7, 1.3), (0.1, 2.0)]):
        assert low <= factors[:, column].min() < factors[:, column].max() <= high
    for found, image, factor in zip(transform.apply(batch.copy(), factors), batch, factors, strict=True):
        np.testing.assert_allclose(found, jittered(image.astype(float), *factor.astype(float)), atol=1e-6)


@pytest.mark.parametrize("ends", [(0.5, 1.0), (1.0, 1.5)])
@pytest.mark.parametrize("name", ["brightness", "contrast", "saturation"])
def test_a_range_that_ends_at_one_is_a_range(name, ends):
    batch = images(20)
    transform = ColorJitter(**{name: ends})
    factors = transform.draw(words(20, 3))
    for found, image, factor in zip(transform.apply(batch.copy(), factors), batch, factors, strict=True):
        np.testing.assert_allclose(found, jittered(image.astype(float), *factor.astype(float)), atol=1e-6)
        assert (np.abs(found - image) > 1e-5).any()


def test_a_factor_of_one_leaves_pixels_alone():
    batch = images()
    np.testing.assert_array_equal(transformed(ColorJitter(), batch), batch)
    grey = images(channels=1)
    np.testing.assert_array_equal(transformed(ColorJitter(saturation=0.9), grey), grey)
    assert (transformed(ColorJitter(contrast=0.9), grey) != grey).any()


def test_normalisation_is_float32_arithmetic():
    batch = images()
    found = transformed(Normalize([0.5, 0.4, 0.3], [0.2, 0.3, 0.4]), batch)
    for channel, (mean, std) in enumerate([(0.5, 0.2), (0.4, 0.3), (0.3, 0.4)]):
        np.testing.assert_array_equal(found[..., channel], (batch[..., channel] - np.float32(mean)) / np.float32(std))


# In an episode

CHAIN = [RandomCrop((5, 6), padding=1), RandomHorizontalFlip(), ColorJitter(0.4, 0.4), Normalize(0.3, 0.2)]
SOURCE = coded_source([12, 9, 15, 9, 10, 11])
RULE = ClassSplitter(num_train_per_class=2, num_test_per_class=3)


def dataset(transform=CHAIN, rule=RULE, source=SOURCE, **arguments):
    return CombinationMetaDataset(source, 3, dataset_transform=rule, transform=transform, **arguments)


@given(st.lists(st.integers(0, 10**6), min_size=1, max_size=6), st.integers(0, 3))
def test_an_augmented_episode_depends_on_its_index_alone(indices, seed):
    together = dataset().episodes(indices, seed)
    for row, index in enumerate(indices):
        alone = dataset().episodes([index], seed)
        for split in together:
            np.testing.assert_array_equal(alone[split][0][0], together[split][0][row])
    assert together["train"][0].shape == (len(indices), 6, 5, 6, 1)
    assert together["train"][0].flags.c_contiguous


def test_the_pixels_are_those_of_the_words_of_the_episode_s_lanes():
    """One image at a time, from the plain episode and from words addressed by hand."""
    plain = dataset(None).episodes(range(4), seed=2)
    found = dataset().episodes(range(4), seed=2)
    assert plain.plan.digest() == found.plan.digest()
    for split, columns in plain.plan.split_columns():
        shots = columns.stop - columns.start
        for episode, way, shot in np.ndindex(4, 3, shots):
            image = plain[split][0][episode, way * shots + shot][None].copy()
            place = (columns.start + shot) * 3 + way
            for lane, transform in enumerate(CHAIN, start=TRANSFORM_LANE):
                each = transform.num_words
                row = philox_words(plain.plan.key, [episode], (place + 1) * each, lane)[:, place * each :]
                image = transform.apply(image, transform.draw(row))
            np.testing.assert_array_equal(found[split][0][episode, way * shots + shot], image[0])
        np.testing.assert_array_equal(found[split][1], plain[split][1])


def test_more_queries_and_more_transforms_leave_the_others_alone():
    small = dataset().episodes(range(5))
    large = dataset(rule=ClassSplitter(num_train_per_class=2, num_test_per_class=7)).episodes(range(5))
    np.testing.assert_array_equal(small["train"][0], large["train"][0])
    few, many = dataset(CHAIN[:2]), dataset([*CHAIN[:2], CenterCrop(3)])
    np.testing.assert_array_equal(few.episodes([3])["test"][0][..., 1:4, 1:4, :], many.episodes([3])["test"][0])


def test_class_augmentation_comes_first():
    found = dataset([CenterCrop(4)], class_augmentations=[Rotation(90)]).episodes(range(8))
    plain = dataset(None, class_augmentations=[Rotation(90)]).episodes(range(8))
    np.testing.assert_array_equal(found["test"][0], plain["test"][0][..., 1:5, 1:5, :])


def test_tasks_of_class_tuples_are_augmented_too():
    one, other = dataset(), dataset()
    other.seed(1)
    np.testing.assert_array_equal(one[(0, 2, 1)]["train"].inputs, dataset()[(0, 2, 1)]["train"].inputs)
    assert (one[(0, 2, 1)]["train"].inputs != other[(0, 2, 1)]["train"].inputs).any()
    assert one[(0, 2, 1)]["train"].inputs.shape[1:] == one.input_shape == (5, 6, 1)
    assert dataset(None).input_shape == (6, 6, 1)


def test_different_images_of_an_episode_have_different_parameters():
    found = dataset([RandomHorizontalFlip()]).episodes(range(40))
    plain = dataset(None).episodes(range(40))
    flipped = (found["test"][0] != plain["test"][0]).any(axis=(2, 3, 4))
    assert 0.4 < flipped.mean() < 0.6
    per_episode = flipped.sum(axis=1)
    assert 0 < per_episode.min() + per_episode.max() < 18
    assert len(np.unique(flipped, axis=0)) > 30


def test_what_is_stored_is_not_changed():
    before = SOURCE.examples.copy()
    dataset().episodes(range(8))
    np.testing.assert_array_equal(SOURCE.examples, before)
    features = ArraySource.from_labels(
        np.zeros((8, 4, 4, 1), np.float32) + np.arange(4, dtype=np.float32)[:, None], [0] * 8
    )
    before = features.examples.copy()
    CombinationMetaDataset(features, 1, transform=RandomHorizontalFlip(1)).episodes([0])
    np.testing.assert_array_equal(features.examples, before)


def test_one_transform_needs_no_list_and_none_changes_no_fingerprint():
    one = dataset(CenterCrop(4))
    assert one.fingerprint == dataset([CenterCrop(4)]).fingerprint == dataset((CenterCrop((4, 4)),)).fingerprint
    plain = dataset(None).fingerprint
    assert plain == dataset([]).fingerprint != one.fingerprint
    orders = [CHAIN, [CHAIN[1], CHAIN[0], *CHAIN[2:]], CHAIN[1:], [*CHAIN[:3], Normalize(0.3, 0.25)]]
    assert len({dataset(each).fingerprint for each in orders}) == 4
    assert json.loads(json.dumps(dataset().description)) == dataset().description
    decoded = decode(dataset([]).episodes([0])["train"][0])
    assert decoded[0].shape == (1, 6)


class Invert:
    """Somebody's own transform."""

    num_words = 0

    def draw(self, words):
        return words

    def apply(self, images, parameters):
        return np.float32(1) - images

    def __repr__(self):
        return "Invert()"


def test_anybody_s_transform_works():
    found, plain = dataset(Invert()).episodes([5]), dataset(None).episodes([5])
    np.testing.assert_array_equal(found["test"][0], np.float32(1) - plain["test"][0])


FEATURES = ArraySource.from_labels(np.zeros((8, 4)), [0] * 8)


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: dataset([CenterCrop(7)]), ValueError, "`size` must be at most 6×6, the images' with padding, got Ce"),
        (lambda: dataset([RandomCrop(9, padding=1)]), ValueError, "`size` must be at most 8×8, .* got RandomCrop"),
        (
            lambda: dataset([Normalize((1, 2), 1)]),
            ValueError,
            "`mean` must be one number or one for each of 1 channels",
        ),
        (lambda: dataset([Normalize(1, (1, 2, 3))]), ValueError, "`std` must be one number or one for each of 1 chan"),
        (lambda: CombinationMetaDataset(FEATURES, 1, transform=[Resize(3)]), ValueError, r"for images .* shape \(4,\)"),
        (lambda: dataset([lambda image: image]), TypeError, "made of image transforms .*BatchMetaDataLoader"),
        (lambda: dataset(Resize), TypeError, "made of image transforms of metabridge.transforms, got <class"),
        (lambda: dataset(Categorical(3)), TypeError, "made of image transforms"),
        (lambda: expand_transforms("resize"), TypeError, "made of image transforms"),
        (lambda: Resize(0), ValueError, "`size` must be a positive side or a pair"),
        (lambda: CenterCrop((3, 4, 5)), ValueError, "`size` must be a positive side or a pair"),
        (lambda: RandomCrop(3, -1), ValueError, "`padding` must be an integer of at least 0, got -1"),
        (lambda: RandomHorizontalFlip(1.5), ValueError, r"`p` must be a number in \[0, 1\], got 1.5"),
        (lambda: ColorJitter(-0.1), ValueError, r"`brightness` must be a number of at least 0, or a pair"),
        (lambda: ColorJitter(contrast=(1, 0.5)), ValueError, r"`contrast` must be .* got \(1, 0.5\)"),
        (lambda: ColorJitter("a"), ValueError, "`brightness` must be a number of at least 0, .* got 'a'"),
        (lambda: ColorJitter("0.5"), ValueError, "`brightness` must be a number of at least 0, .* got '0.5'"),
        (lambda: ColorJitter(True), ValueError, "`brightness` must be a number of at least 0, .* got True"),
        (lambda: ColorJitter([[1], [1, 2]]), ValueError, "`brightness` must be a number of at least 0"),
        (lambda: RandomHorizontalFlip(True), ValueError, r"`p` must be a number in \[0, 1\], got True"),
        (lambda: ColorJitter((1, 2, 3)), ValueError, "`brightness` must be .* or a pair of factors"),
        (lambda: RandomHorizontalFlip("x"), ValueError, r"`p` must be a number in \[0, 1\], got 'x'"),
        (lambda: Normalize(0, 0), ValueError, "`std` must be positive, got 0"),
        (lambda: Normalize((), 1), ValueError, "`mean` must be one finite number"),
        (lambda: Normalize(float("nan"), 1), ValueError, "`mean` must be one finite number"),
        (lambda: Normalize("grey", 1), ValueError, "`mean` must be one finite number, or one for .* got 'grey'"),
        (lambda: Resize(2.5), ValueError, "`size` must be a positive side or a pair .* got 2.5"),
        (lambda: dataset([Normalize(0.5, 0.5), ColorJitter(0.1)]), ValueError, r"\[0, 1\] .* put Normalize after it"),
        (
            lambda: dataset([ColorJitter(0.1)], source=ArraySource.from_labels(np.zeros((9, 4, 4, 2)), [0, 1, 2] * 3)),
            ValueError,
            "`images` must have 1 or 3 channels for ColorJitter",
        ),
    ],
)
def test_transforms_that_do_not_fit_are_refused_at_once(make, error, message):
    with pytest.raises(error, match=message):
        make()


# The same bits everywhere

PROMISED = {
    "Resize(size=(5, 6))": "9ae7616386866f4434bde3a3049e8e54",
    "Resize(size=(12, 12))": "b6a313b77fe6e4a10ac15406c2b7c276",
    "CenterCrop(size=(4, 3))": "fdb5f416d28fd2511972ae3c0d8e4034",
    "RandomCrop(size=(8, 7), padding=2)": "5e438085a61f8daefb0682bd0d70a6ac",
    "RandomCrop(size=(5, 5), padding=0)": "91b3d18ecd6e6ce84d9839f74aaefbb2",
    "RandomHorizontalFlip(p=0.5)": "c228620931f945498b011bbdc83d9e72",
    "ColorJitter(brightness=(0.6, 1.4), contrast=(0.2, 1.5), saturation=(0.6, 1.4))": "c196c1cefe5eada7425111620944c903",  # noqa: E501
    "Normalize(mean=(0.5, 0.4, 0.3), std=(0.2, 0.3, 0.4))": "e16e841d6b06d3412324b2b58d52a923",
    "Normalize(mean=(0.5,), std=(0.25,))": "fbe2eca04e122933ff52fb04436df2ac",
    "episodes": "93420012c24e39a6a791d42372bab70b",
}
"""Digests of every transform; they change only with the stream scheme, as those in tests/golden do."""

DIGESTS = """
import json, sys
sys.path.extend(sys.argv[1:])
from test_image_transforms import digests
print(json.dumps(digests()))
"""


def digests():
    batch = images(40, 33, 21)
    found = {repr(each): arrays_digest({"": (transformed(each, batch),)}) for each in TRANSFORMS}
    found["episodes"] = dataset().episodes(range(6), seed=3).digest()
    return found


def test_pixels_are_promised():
    assert digests() == PROMISED


@pytest.mark.parametrize("extensions", [True, False])
def test_another_process_and_a_plain_processor_compute_the_same(request, extensions):
    """NumPy chooses its routines by processor."""
    found = np.show_config(mode="dicts")["SIMD Extensions"].get("found", [])
    disabled = {} if extensions else {"NPY_DISABLE_CPU_FEATURES": " ".join(found)}
    result = run_python(DIGESTS, request.path.parent, request.path.parents[1], PYTHONHASHSEED="random", **disabled)
    assert result.returncode == 0, result.stderr
    assert json.loads(result.stdout) == digests()


def test_a_mean_of_floats_would_not_be_promised():
    """Why contrast sums integers: the same numbers in another order have another sum."""
    values = images(1, 84, 84, 1)
    assert np.add.reduce(values.ravel()) != np.cumsum(values.ravel())[-1]
    reversed_order = values[:, ::-1, ::-1]
    contrast = ColorJitter(contrast=(0.5, 0.5))
    np.testing.assert_array_equal(transformed(contrast, reversed_order), transformed(contrast, values)[:, ::-1, ::-1])


def test_a_transform_must_say_what_it_is():
    """Its text is part of the episodes' fingerprint; the default one holds an address."""
    from metabridge.transforms.images import expand_transforms

    class Silent:
        num_words = 0

        def draw(self, words):
            return {}

        def apply(self, images, parameters):
            return images

    with pytest.raises(TypeError, match="Silent must have a `__repr__`"):
        expand_transforms(Silent())
