"""Portable elementary functions: within a few units in the last place of `math`, and the same bits everywhere."""

import math
from statistics import NormalDist

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from metabridge.streams.portable import log, normal_quantile, sin

ULPS = {sin: 2, log: 2, normal_quantile: 4}
"""Largest distance from the reference, in units in the last place of the reference."""
QUANTILES = {
    0.5: 0.0,
    0.75: 0.6744897501960817,
    0.9: 1.2815515655446006,
    0.975: 1.9599639845400538,
    0.999: 3.090232306167813,
    1e-9: -5.9978070150076865,
    1e-100: -21.273453560965326,
}
"""Quantiles of the standard normal distribution, computed to 40 digits and rounded."""


def ulps(values, references):
    references = np.asarray(references, dtype=np.float64)
    units = np.array([math.ulp(r) for r in references.ravel()]).reshape(references.shape)
    return np.abs(values - references) / units


@given(st.floats(-1e5, 1e5))
def test_sin_is_close_everywhere(x):
    assert ulps(sin([x]), [math.sin(x)]) <= ULPS[sin]


@pytest.mark.parametrize("reach", [4.0, 100.0, 1e5])
def test_sin_is_close_on_a_grid_and_at_multiples_of_half_pi(reach):
    multiples = np.arange(-int(reach * 0.63), int(reach * 0.63) + 1) * (math.pi / 2)
    for x in (np.linspace(-reach, reach, 20_001), multiples, np.nextafter(multiples, np.inf)):
        assert ulps(sin(x), [math.sin(v) for v in x]).max() <= ULPS[sin]


@given(st.floats(-1e5, 1e5))
def test_sin_is_odd(x):
    assert sin(-x) == -sin(x)


def test_sin_of_small_values_is_the_value():
    tiny = np.array([0.0, 5e-324, 1e-300, 1e-9, -1e-9])
    np.testing.assert_array_equal(sin(tiny), tiny)


@pytest.mark.parametrize("x", [100_000.1, -1e300, math.inf, math.nan, [0.0, math.nan, 1.0]])
def test_sin_refuses_what_it_cannot_reduce(x):
    with pytest.raises(ValueError, match=r"`x` must lie within ±100000, got (100000\.1|-1e\+300|inf|nan); reduce"):
        sin(x)


@given(st.floats(min_value=0, exclude_min=True, allow_infinity=False))
def test_log_is_close_everywhere(x):
    assert ulps(log([x]), [math.log(x)]) <= ULPS[log]


def test_log_is_close_around_one_and_exact_at_powers_of_two_that_are_one():
    x = np.concatenate([np.linspace(0.5, 2.0, 20_001), 1 + np.linspace(-1e-6, 1e-6, 2_001), [2.0**-1074, 2.0**1023]])
    assert ulps(log(x), [math.log(v) for v in x]).max() <= ULPS[log]
    assert log(1.0) == 0.0


@pytest.mark.parametrize("x", [0.0, -1.0, math.inf, math.nan, [1.0, 0.0], [math.nan, 1.0]])
def test_log_refuses_what_has_no_logarithm(x):
    with pytest.raises(ValueError, match=r"`x` must lie between 0 and inf, got "):
        log(x)


@given(st.floats(0, 1, exclude_min=True, exclude_max=True))
def test_quantile_is_close_everywhere(p):
    assert ulps(normal_quantile([p]), [NormalDist().inv_cdf(p)]) <= ULPS[normal_quantile]


@pytest.mark.parametrize(("p", "quantile"), QUANTILES.items())
def test_quantile_is_the_exact_one(p, quantile):
    assert ulps(normal_quantile([p]), [quantile]) <= ULPS[normal_quantile]


def test_quantile_inverts_the_distribution_function():
    """The distribution function from `math.erfc`, a computation that shares nothing with the quantile's."""
    p = np.concatenate([2.0 ** -np.linspace(1, 300, 3_001), np.linspace(0.01, 0.5, 500)])
    z = normal_quantile(p)
    back = np.array([0.5 * math.erfc(-v / math.sqrt(2)) for v in z])
    condition = 1 + z**2  # how much a relative error of z is magnified
    assert (np.abs(back / p - 1) <= 4e-16 * 8 * condition).all()


def test_quantile_is_antisymmetric_and_increasing():
    p = np.linspace(0, 0.5, 4_097)[1:]
    z = normal_quantile(p)
    np.testing.assert_array_equal(normal_quantile(1 - p), -z)
    assert (np.diff(z) > 0).all()


@pytest.mark.parametrize("p", [0.0, 1.0, -0.5, 2.0, math.nan, [0.5, 1.0]])
def test_quantile_refuses_what_is_no_probability(p):
    with pytest.raises(ValueError, match=r"`p` must lie between 0 and 1, got "):
        normal_quantile(p)


@pytest.mark.parametrize("function", ULPS)
def test_shape_is_kept_and_values_do_not_depend_on_their_neighbours(function):
    """NumPy's own vector routines may round the tail of an array differently from its body."""
    x = np.linspace(0.01, 0.99, 105).reshape(3, 5, 7)
    whole = function(x)
    assert whole.shape == x.shape
    assert whole.dtype == np.float64
    np.testing.assert_array_equal(whole.ravel(), [float(function(v)) for v in x.ravel()])
    np.testing.assert_array_equal(function(x[:, ::2, ::-1]), whole[:, ::2, ::-1])
    assert function([]).shape == (0,)


def test_the_distance_in_ulps_can_fail():
    assert ulps(np.array([math.sin(1.0) + 4 * math.ulp(1.0)]), [math.sin(1.0)]) > ULPS[sin]
