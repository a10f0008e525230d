"""Every comparison must be able to fail."""

import numpy as np
import pytest
from tolerances import LIMITS, assert_close, assert_differs, assert_identical, relative_error

from metabridge.comparison import measures

ALL_KINDS = pytest.mark.parametrize("kind", LIMITS)


def parameters():
    rng = np.random.default_rng(0)
    return {"head.weight": rng.standard_normal((50, 40)), "head.bias": np.zeros(50)}


def perturbed(change, name="head.weight", index=(3, 7)):
    values = {key: array.copy() for key, array in parameters().items()}
    values[name][index] += change
    return values


@ALL_KINDS
def test_equal_results_are_close(kind):
    assert_close(parameters(), parameters(), kind)
    assert_close(np.float64(2.0), 2.0, kind)
    assert_identical(parameters(), parameters())


@ALL_KINDS
def test_one_perturbed_weight_fails(kind):
    norm = np.sqrt(sum((array**2).sum() for array in parameters().values()))
    with pytest.raises(AssertionError, match="relative error"):
        assert_close(perturbed(1.01 * LIMITS[kind] * norm), parameters(), kind)
    assert_close(perturbed(0.99 * LIMITS[kind] * norm), parameters(), kind)


@ALL_KINDS
@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_not_finite_fails_on_either_side_and_on_both(kind, value):
    broken = perturbed(value)
    for actual, expected in [(broken, parameters()), (parameters(), broken), (broken, broken)]:
        with pytest.raises(AssertionError, match="relative error inf"):
            assert_close(actual, expected, kind)


def test_a_missing_name_fails():
    only_bias = {"head.bias": np.zeros(50)}
    for actual, expected in [(only_bias, parameters()), (parameters(), only_bias)]:
        with pytest.raises(AssertionError, match=r"only one has head\.weight"):
            assert_close(actual, expected, "forward")


def test_another_shape_fails_even_if_it_would_broadcast():
    with pytest.raises(AssertionError, match=r"shape \(1, 3\) on one side and \(4, 3\)"):
        assert_close(np.ones((1, 3)), np.ones((4, 3)), "forward")


def test_anything_but_zero_is_infinitely_far_from_zero():
    assert relative_error(np.zeros(3), np.zeros(3)) == 0
    assert relative_error(np.full(3, 1e-100), np.zeros(3)) == np.inf


def test_identity_sees_one_bit_a_dtype_a_shape_and_the_order_of_names():
    values = np.ones(3)
    for other, message in [
        (np.nextafter(values, 2), "differs in 3 of 3"),
        (values.astype(np.float32), "float64"),
        (values[None], r"\(1, 3\)"),
    ]:
        with pytest.raises(AssertionError, match=message):
            assert_identical(values, other)
    with pytest.raises(AssertionError, match="names differ"):
        assert_identical(parameters(), dict(reversed(parameters().items())))


@pytest.mark.parametrize("other", [np.ones(3), np.full(3, 1 + 1e-9), np.full(3, np.nan)])
def test_difference_must_be_real_and_finite(other):
    with pytest.raises(AssertionError, match="relative difference"):
        assert_differs(np.ones(3), other)
    assert_differs(np.ones(3), np.full(3, 1.1))


def test_the_comparison_that_users_run_holds_to_the_same_limits():
    for name in ("mlp", "conv4"):
        assert measures.LIMITS[name].meta_gradient == LIMITS[f"meta_gradient_{name}"]
        assert measures.LIMITS[name].finite_difference == LIMITS["finite_difference"]
        assert measures.LIMITS[name].loss_difference == LIMITS["trajectory"]
