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
