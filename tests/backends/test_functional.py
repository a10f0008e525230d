"""Losses and metrics: the same numbers in both backends, averaged the same way."""

import numpy as np
import oracle
import pytest
from tolerances import assert_close

RNG = np.random.default_rng(0)
LOGITS, CLASSES = RNG.standard_normal((7, 4)), RNG.integers(4, size=7)
VALUES, WANTED = RNG.standard_normal((7, 2)), RNG.standard_normal((7, 2))
LOSSES = {
    "cross_entropy": (LOGITS, CLASSES, oracle.cross_entropy),
    "mean_squared_error": (VALUES, WANTED, oracle.mean_squared_error),
}
EVERY_LOSS = pytest.mark.parametrize("name", LOSSES)


def measure(kit, name, outputs, targets):
    """A loss or metric of NumPy arrays, as a NumPy array."""
    return kit.numpy(getattr(kit.functional, name)(kit.array(outputs), kit.array(targets)))


@EVERY_LOSS
def test_values_and_gradients_are_those_of_the_reference(backend64, name):
    outputs, targets, reference = LOSSES[name]
    value, gradient = reference(outputs, targets)
    assert_close(measure(backend64, name, outputs, targets), value, "forward")
    loss = getattr(backend64.functional, name)
    found = backend64.gradient(lambda x: loss(x, backend64.array(targets)), backend64.array(outputs))
    assert_close(found, gradient, "gradient")


@EVERY_LOSS
def test_losses_are_means_over_examples(backend64, name):
    outputs, targets, _ = LOSSES[name]
    whole = measure(backend64, name, outputs, targets)
    singles = [measure(backend64, name, outputs[[i]], targets[[i]]) for i in range(len(outputs))]
    assert_close(whole, np.mean(singles), "forward")
    assert whole.shape == ()


@EVERY_LOSS
def test_losses_keep_the_dtype(backend, name):
    outputs, targets, _ = LOSSES[name]
    outputs = outputs.astype(np.float32)
    targets = targets.astype(np.float32 if targets.dtype == np.float64 else np.int64)
    with backend.float64():
        assert measure(backend, name, outputs, targets).dtype == np.float32


def test_cross_entropy_does_not_overflow(backend64):
    logits, target = np.array([[1e4, 0.0, -1e4]]), np.array([1])
    assert_close(measure(backend64, "cross_entropy", logits, target), 1e4, "forward")
    assert_close(measure(backend64, "cross_entropy", logits + 1e5, target), 1e4, "forward")


def test_squared_errors_do_not_broadcast(backend64):
    for outputs, targets in ((VALUES, WANTED[:, 0]), (VALUES, WANTED[:1]), (VALUES[:, :1], WANTED[:, 0])):
        with pytest.raises(ValueError, match=r"`targets` must have the shape of `outputs`, \(7, \d\), got \("):
            measure(backend64, "mean_squared_error", outputs, targets)


def test_accuracy_counts_the_right_ones(backend64):
    logits = np.array([[0.0, 2, 1], [3, 0, 0], [0, 0, 1], [0, 1, 0]])
    assert measure(backend64, "accuracy", logits, np.array([1, 0, 2, 2])) == 0.75
    assert measure(backend64, "accuracy", LOGITS, LOGITS.argmax(1)) == 1


def test_a_tie_goes_to_the_lowest_class(backend64):
    logits = np.array([[1.0, 1, 0], [0, 1, 1], [0, 0, 0]])
    assert measure(backend64, "accuracy", logits, np.array([0, 1, 0])) == 1
    assert measure(backend64, "accuracy", logits, np.array([1, 2, 2])) == 0


# Masks: a target for every pixel, some of which do not count

PIXELS, MASKS = RNG.standard_normal((3, 5, 6, 2)), RNG.choice([0, 1, 255], (3, 5, 6))


def pixelwise(kit, name, pixels, masks, **more):
    """A loss or metric of logits `(n, H, W, N)`, which each framework gets in its own layout."""
    return kit.numpy(getattr(kit.functional, name)(kit.images(pixels), kit.array(masks), **more))


@pytest.mark.parametrize("name", ["cross_entropy", "accuracy"])
def test_ignored_pixels_do_not_count(backend64, name):
    counts = MASKS != 255
    expected = measure(backend64, name, PIXELS[counts], MASKS[counts])
    assert_close(pixelwise(backend64, name, PIXELS, MASKS, ignore_index=255), expected, "forward")
    other = np.where(counts[..., None], PIXELS, 1e3 * PIXELS[..., ::-1])
    assert_close(pixelwise(backend64, name, other, MASKS, ignore_index=255), expected, "forward")
    assert np.isnan(pixelwise(backend64, name, PIXELS, np.full_like(MASKS, 255), ignore_index=255))


def test_ignored_pixels_have_no_gradient(backend64):
    loss = backend64.functional.cross_entropy
    masks = backend64.array(MASKS)
    found = backend64.gradient(lambda x: loss(x, masks, ignore_index=255), backend64.images(PIXELS))
    found = np.moveaxis(np.asarray(found), 1, -1) if backend64.name == "torch" else np.asarray(found)
    assert (found[MASKS == 255] == 0).all()
    _, expected = oracle.cross_entropy(PIXELS[MASKS != 255], MASKS[MASKS != 255])
    assert_close(found[MASKS != 255], expected, "gradient")


def test_half_precision_counts_the_pixels_of_a_large_mask(backend):
    """More than 65,504 of them, the largest number of half precision."""
    pixels, masks = np.zeros((1, 300, 300, 2), np.float16), np.ones((1, 300, 300), np.int64)
    pixels[..., 1] = 1
    assert pixelwise(backend, "accuracy", pixels, masks) == 1
    if backend.name == "jax":  # torch's own is the sum of so many in half precision, on a CPU
        assert_close(pixelwise(backend, "cross_entropy", pixels, masks), np.log1p(np.exp(-1)), "forward_float16")


@pytest.mark.parametrize("name", ["cross_entropy", "accuracy"])
def test_classes_are_integers_one_for_each_example(backend64, name):
    """Of `(n, 1)` outputs torch's own cross-entropy with float targets is 0, whatever they are."""
    with pytest.raises(ValueError, match=r"`targets` must be integers, .*, got .*float64; .* take mean_squared_error"):
        measure(backend64, name, VALUES[:, :1], WANTED[:, :1])
    with pytest.raises(ValueError, match=r"`targets` must have the shape of `outputs` .*, \(7,\), got \(7, 1\)"):
        measure(backend64, name, LOGITS, CLASSES[:, None])
    for integer in (np.int32, np.uint8):
        narrow = measure(backend64, name, LOGITS, CLASSES.astype(integer))
        assert_close(narrow, measure(backend64, name, LOGITS, CLASSES), "forward")
