"""The fuzzer of arguments: a short run of it, and mistakes that it must find."""

import numpy as np
import pytest
from fuzz import Call, attempt, fuzz

from metabridge.checks import check_count

MOST_FINDINGS = 0.15
"""Share of mistaken calls that end in an error of another library, or in one that names no argument."""


@pytest.mark.slow
def test_most_mistakes_succeed_or_are_refused_by_name():
    made, findings = fuzz(calls=500, seed=0)
    assert made == 500
    assert len(findings) <= MOST_FINDINGS * made, "\n".join(map(str, findings))


def test_a_refusal_by_name_is_no_finding():
    assert attempt(Call("count", check_count, {"value": 1, "argument": "value"}), "value", None) is None


@pytest.mark.parametrize(
    ("function", "mistake", "kind"),
    [
        (lambda value: np.random.default_rng(value), "a", "below"),
        (lambda value: check_count(1, "value", least=value), "a", "implicit"),
        (lambda value: check_count(value, "another"), 0, None),
    ],
)
def test_the_kind_of_a_finding_says_where_it_came_from(function, mistake, kind):
    finding = attempt(Call("call", function, {"value": 1}), "value", mistake)
    assert (finding and finding.kind) == kind
