"""Sine, logarithm and the normal quantile from IEEE additions, multiplications, divisions and square roots.

Those four operations are exact to the last bit on every machine; a library's `sin` or `log` is not: NumPy picks
a vector routine by processor and by version, and its results differ in the last bits. Toy problems and noise are
episodes, and an episode's bits may depend on nothing but its address (docs/architecture.md, contract C1).
Accuracy against `math`: a few units in the last place; tests/core/test_portable.py holds the bounds.
"""

import numpy as np
import numpy.typing as npt

__all__ = ["log", "normal_quantile", "sin"]

Floats = npt.NDArray[np.float64]

# pi/2 in three parts: with the first two of 33 bits each, k * part is exact for |k| < 2**20.
_HALF_PI = (1.57079632673412561417e00, 6.07710050630396597660e-11, 2.02226624879595063154e-21)
_SIN = tuple(float(sign) / d for sign, d in zip((-1, 1, -1, 1, -1, 1, -1, 1), (6, 120, 5040, 362880, 39916800,
             6227020800, 1307674368000, 355687428096000), strict=True))  # fmt: skip
_COS = tuple(float(sign) / d for sign, d in zip((-1, 1, -1, 1, -1, 1, -1, 1), (2, 24, 720, 40320, 3628800,
             479001600, 87178291200, 20922789888000), strict=True))  # fmt: skip
_SIN_LIMIT = 1e5


def sin(x: npt.ArrayLike) -> Floats:
    """Sine of float64 values of magnitude at most 1e5 (Cody–Waite reduction, then the Taylor series on ±pi/4).

    Raises:
        ValueError: beyond ±1e5, where this reduction would lose digits.
    """
    values = np.asarray(x, dtype=np.float64)
    if values.size and not np.abs(values).max() <= _SIN_LIMIT:
        raise ValueError(
            f"`x` must lie within ±{_SIN_LIMIT:g}, got {values.flat[np.abs(values).argmax()]}; reduce it first."
        )
    quadrant = np.rint(values * (2 / np.pi))
    reduced = ((values - quadrant * _HALF_PI[0]) - quadrant * _HALF_PI[1]) - quadrant * _HALF_PI[2]
    square = reduced * reduced
    sine = reduced + reduced * (square * _polynomial(square, _SIN))
    cosine = 1.0 + square * _polynomial(square, _COS)
    turns = quadrant.astype(np.int64) & 3
    return np.where(turns & 1, cosine, sine) * np.where(turns & 2, -1.0, 1.0)


def log(x: npt.ArrayLike) -> Floats:
    """Natural logarithm of positive, finite float64 values.

    `x = m * 2**e` with m in [sqrt(1/2), sqrt(2)); log m = 2 artanh(s) with s = (m - 1) / (m + 1).

    Raises:
        ValueError: for any other value.
    """
    values = np.asarray(x, dtype=np.float64)
    _check_between("x", values, 0.0, np.inf)
    mantissa, exponent = np.frexp(values)  # mantissa in [0.5, 1)
    small = mantissa < 0.7071067811865476
    mantissa = np.where(small, mantissa * 2, mantissa)
    exponent = (exponent - small).astype(np.float64)
    s = (mantissa - 1.0) / (mantissa + 1.0)
    square = s * s
    series = _polynomial(square, tuple(2.0 / (2 * n + 1) for n in range(1, 12)))
    # ln 2 in two parts keeps exponent * high exact.
    return exponent * 6.93147180369123816490e-01 + (
        2 * s + (s * (square * series) + exponent * 1.90821492927058770002e-10)
    )


def normal_quantile(p: npt.ArrayLike) -> Floats:
    """Inverse of the standard normal distribution function, for p in (0, 1).

    Algorithm AS 241, routine PPND16 (Wichura 1988, Applied Statistics 37, 477–484): rational approximations in
    three regions, relative accuracy about 1e-16.

    Raises:
        ValueError: for a probability outside (0, 1).
    """
    probability = np.asarray(p, dtype=np.float64)
    _check_between("p", probability, 0.0, 1.0)
    centred = probability - 0.5
    r = 0.180625 - centred * centred
    centre = centred * _ratio(r, _CENTRE)
    tail = np.minimum(probability, 1.0 - probability)
    r = np.sqrt(-log(tail))
    outer = np.where(r <= 5.0, _ratio(r - 1.6, _MIDDLE), _ratio(r - 5.0, _FAR))
    return np.where(np.abs(centred) <= 0.425, centre, np.where(centred < 0, -outer, outer))


def _check_between(name: str, values: Floats, low: float, high: float) -> None:
    if values.size and not (low < values.min() and values.max() < high):
        raise ValueError(f"`{name}` must lie between {low:g} and {high:g}, got {values.min()} to {values.max()}.")


def _polynomial(x: Floats, coefficients: tuple[float, ...]) -> Floats:
    """Horner's rule, lowest power first."""
    total = np.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total


def _ratio(x: Floats, coefficients: tuple[tuple[float, ...], tuple[float, ...]]) -> Floats:
    return _polynomial(x, coefficients[0]) / _polynomial(x, coefficients[1])


# Wichura's coefficients (a, b), (c, d), (e, f), lowest power first.
_CENTRE = (
    (3.3871328727963666080e0, 1.3314166789178437745e2, 1.9715909503065514427e3, 1.3731693765509461125e4,
     4.5921953931549871457e4, 6.7265770927008700853e4, 3.3430575583588128105e4, 2.5090809287301226727e3),
    (1.0, 4.2313330701600911252e1, 6.8718700749205790830e2, 5.3941960214247511077e3,
     2.1213794301586595867e4, 3.9307895800092710610e4, 2.8729085735721942674e4, 5.2264952788528545610e3),
)  # fmt: skip
_MIDDLE = (
    (1.42343711074968357734e0, 4.63033784615654529590e0, 5.76949722146069140550e0, 3.64784832476320460504e0,
     1.27045825245236838258e0, 2.41780725177450611770e-1, 2.27238449892691845833e-2, 7.74545014278341407640e-4),
    (1.0, 2.05319162663775882187e0, 1.67638483018380384940e0, 6.89767334985100004550e-1,
     1.48103976427480074590e-1, 1.51986665636164571966e-2, 5.47593808499534494600e-4, 1.05075007164441684324e-9),
)  # fmt: skip
_FAR = (
    (6.65790464350110377720e0, 5.46378491116411436990e0, 1.78482653991729133580e0, 2.96560571828504891230e-1,
     2.65321895265761230930e-2, 1.24266094738807843860e-3, 2.71155556874348757815e-5, 2.01033439929228813265e-7),
    (1.0, 5.99832206555887937690e-1, 1.36929880922735805310e-1, 1.48753612908506148525e-2,
     7.86869131145613259100e-4, 1.84631831751005468180e-5, 1.42151175831644588870e-7, 2.04426310338993978564e-15),
)  # fmt: skip
