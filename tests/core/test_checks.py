"""One wording for arguments: what each check admits, what it makes of it, and how it refuses."""

import json
import math
import re
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pytest

from metabridge import checks
from metabridge.configs import EpisodeConfig

NO_INTEGERS = [True, np.True_, 1.0, np.float32(2), "3", None, [1], np.array([1])]
NO_NUMBERS = [True, np.True_, math.nan, math.inf, np.float64("-inf"), "3", None, [1.0], 1j]

ADMITTED = {
    "check_integer": [(-3, -3), (np.int8(-3), -3), (np.uint64(2**64 - 1), 2**64 - 1), (10**30, 10**30)],
    "check_count": [(1, 1), (np.int64(7), 7), (10**30, 10**30)],
    "check_number": [(-2, -2.0), (0.5, 0.5), (np.float32(0.5), 0.5), (np.int64(3), 3.0)],
    "check_positive": [(2, 2.0), (np.float16(0.5), 0.5), (5e-324, 5e-324)],
    "check_share": [(1, 1.0), (0.25, 0.25), (np.float32(0.25), 0.25)],
    "check_seed": [(-3, -3), (np.int8(-3), -3), (2**1024 - 1, 2**1024 - 1)],
    "check_size": [(5, (5, 5)), ((3, 4), (3, 4)), ([np.int64(3), 4], (3, 4))],
}
REFUSED = {
    "check_integer": (TypeError, "an integer", NO_INTEGERS),
    "check_count": (ValueError, "a positive integer", [*NO_INTEGERS, 0, -1, np.int64(0)]),
    "check_number": (ValueError, "a finite number", NO_NUMBERS),
    "check_positive": (ValueError, "a positive finite number", [*NO_NUMBERS, 0, -0.0, -1e-9]),
    "check_share": (ValueError, "a number in (0, 1]", [*NO_NUMBERS, 0, -0.5, 1.0000001, 2]),
    "check_seed": (TypeError, "an integer", NO_INTEGERS),
    "check_size": (
        ValueError,
        "a positive side or a pair (height, width)",
        [True, 0, 1.5, None, "28", (1, 2, 3), (5,), (), (3, 0), (3, 2.0), (True, 2)],
    ),
}
CASES = [(name, value, plain) for name, rows in ADMITTED.items() for value, plain in rows]
REFUSALS = [(name, kind, words, value) for name, (kind, words, values) in REFUSED.items() for value in values]


@pytest.mark.parametrize(("name", "value", "plain"), CASES)
def test_what_is_admitted_becomes_pythons_own(name, value, plain):
    result = getattr(checks, name)(value, "argument")
    assert result == plain
    assert type(result) is type(plain)


@pytest.mark.parametrize(("name", "kind", "words", "value"), REFUSALS)
def test_a_refusal_names_argument_constraint_and_value(name, kind, words, value):
    message = f"`argument` must be {words}, got {value!r}."
    with pytest.raises(kind, match=f"^{re.escape(message)}$"):
        getattr(checks, name)(value, "argument")


def test_a_bound_is_part_of_the_constraint():
    assert checks.check_count(np.int32(0), "argument", least=0) == 0
    with pytest.raises(ValueError, match=r"^`argument` must be an integer of at least 3, got 2; write 3\.$"):
        checks.check_count(2, "argument", least=3, advice="write 3")
    with pytest.raises(ValueError, match=r"^`argument` must be a finite number of at least 0, got -0\.5\.$"):
        checks.check_number(-0.5, "argument", least=0)


@pytest.mark.parametrize("bits", [1025, 20_000])
def test_integers_that_python_does_not_print_are_refused_by_name(bits):
    huge = 2 ** (bits - 1)
    with pytest.raises(ValueError, match=rf"^`seed` must be .* of at most 1024 bits, got an integer of {bits} bits\.$"):
        checks.check_seed(-huge, "seed")
    with pytest.raises(ValueError, match=rf"^`noise` must be a finite number, got an integer of {bits} bits\.$"):
        checks.check_number(huge, "noise")
    with pytest.raises(ValueError, match=r"^`side` must be a positive side or a pair \(height, width\), got "):
        checks.check_size((huge, huge, huge), "side")


def test_a_choice_names_all_choices_and_their_owner():
    checks.check_choice("b", "argument", ("a", "b"))
    with pytest.raises(ValueError, match=r"^`argument` must be one of 'a', 'b', got 'c'\.$"):
        checks.check_choice("c", "argument", ("a", "b"))
    with pytest.raises(ValueError, match=r"^`argument` of omniglot must be one of 'a', got None\.$"):
        checks.check_choice(None, "argument", {"a": 1}, owner="omniglot")


def _integer_or_text(value, argument):
    checks.check_instance(value, (int, str), argument)


@pytest.mark.parametrize(
    ("check", "admitted", "refused", "words"),
    [
        (checks.check_callable, [len, int], [None, 1, "len"], "a function"),
        (checks.check_mapping, [{}, MappingProxyType({})], [None, [], [("a", 1)], dict], "a mapping"),
        (_integer_or_text, [1, "a"], [None, int], "of class int or str"),
    ],
    ids=["function", "mapping", "instance"],
)
def test_values_of_the_wrong_kind_are_refused_by_name(check, admitted, refused, words):
    for value in admitted:
        check(value, "argument")
    for value in refused:
        with pytest.raises(TypeError, match=f"^{re.escape(f'`argument` must be {words}, got {value!r}.')}$"):
            check(value, "argument")


def test_a_path_is_text_or_a_path():
    assert checks.check_path("a/b", "argument") == checks.check_path(Path("a/b"), "argument") == Path("a/b")
    for value in (None, 1, b"a", ["a"]):
        with pytest.raises(TypeError, match=r"^`argument` must be a path, got .*; pass text or a pathlib\.Path\.$"):
            checks.check_path(value, "argument")
    with pytest.raises(ValueError, match=r"^`argument` must be a path without null characters, got "):
        checks.check_path("a\0", "argument")


def test_an_object_that_cannot_be_printed_is_refused_by_name():
    class Mute:
        def __repr__(self):
            raise RuntimeError("no words")

    with pytest.raises(TypeError, match=r"^`argument` must be an integer, got a Mute that cannot be printed\.$"):
        checks.check_integer(Mute(), "argument")


def test_every_check_is_tried():
    tried = {*ADMITTED, "check_choice"}
    tried |= {"check_class_targets", "check_same_shape"}  # with the losses of the backends
    tried |= {"check_callable", "check_instance", "check_mapping", "check_path"}  # below
    assert tried == {name for name in checks.__all__ if name.startswith("check_")}
    assert set(ADMITTED) == set(REFUSED)


def test_a_record_of_numpys_integers_is_ready_for_json():
    config = EpisodeConfig(np.int64(5), np.int32(1), np.uint8(15))
    assert EpisodeConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == EpisodeConfig(5, 1, 15)
