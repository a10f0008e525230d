"""Every comparison must be able to fail."""

import ast
from pathlib import Path

import numpy as np
import pytest
from helpers import every
from tolerances import LEAST_DIFFERENCE, LIMITS, assert_close, assert_differs, assert_identical, relative_error

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


def test_the_limits_are_those_of_the_contract():
    """Contract C7 in figures: a limit is loosened in two places or not at all."""
    assert LIMITS == {
        "forward": 1e-12,
        "gradient": 1e-11,
        "meta_gradient_mlp": 1e-10,
        "meta_gradient_conv4": 1e-9,
        "finite_difference": 1e-6,
        "trajectory": 1e-8,
        "forward_float32": 1e-5,
        "gradient_float32": 1e-4,
        "forward_float16": 1e-3,
        "distribution": 0.05,
    }
    assert LEAST_DIFFERENCE == 1e-3


def test_the_comparison_that_users_run_holds_to_the_contract_too():
    for name, meta_gradient in {"mlp": 1e-10, "conv4": 1e-9, "resnet12": 1e-9}.items():
        assert measures.LIMITS[name] == measures.Limits(
            meta_gradient, finite_difference=1e-6, second_order_share=1e-6, loss_difference=1e-8
        )
    assert list(measures.LIMITS) == ["mlp", "conv4", "resnet12"]


def test_a_law_over_nothing_fails():
    assert every([True, 1])
    assert not every([True, 0])
    with pytest.raises(AssertionError, match="there is nothing to check"):
        every([])


def test_no_test_asserts_all_of_what_may_be_nothing():
    """`assert all(…)` passes over nothing; `helpers.every` does not."""
    tests = sorted(Path(__file__).parent.rglob("*.py"))
    found = [f"{path.name}:{line}" for path in tests for line in vacuous(path.read_text())]
    assert len(tests) > 50
    assert not found, "write every(…) of tests/helpers.py"
    assert list(vacuous("assert all([])\nassert not any([])\nassert any([1])\nassert not all([0])")) == [1, 2]


def vacuous(program):
    """Lines that assert `all(…)`, or `not any(… for …)`."""
    for node in ast.walk(ast.parse(program)):
        if isinstance(node, ast.Assert):
            negated = isinstance(node.test, ast.UnaryOp) and isinstance(node.test.op, ast.Not)
            call = node.test.operand if negated else node.test
            name = call.func.id if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) else ""
            if name == ("any" if negated else "all"):
                yield node.lineno
