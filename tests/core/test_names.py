"""Names in `params`: the right part, or an error that proposes the nearest right name (contract C10)."""

import re

import pytest

from metabridge.adaptation.names import check_names, check_shape, select_names, select_subdict

NAMES = [
    "features.layer1.linear.weight",
    "features.layer1.linear.bias",
    "features.layer10.linear.weight",
    "head.weight",
    "head.bias",
]
PARAMS = {name: number for number, name in enumerate(NAMES)}


def below(key):
    """What a module asks for on behalf of its submodule `key`."""
    prefix = f"{key}." if key else ""
    return {name[len(prefix) :]: name for name in NAMES if name.startswith(prefix)}


def select(params, key=""):
    return select_subdict(params, below(key), NAMES, "Model")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ("", PARAMS),
        ("head", {"weight": 3, "bias": 4}),
        ("features", {"layer1.linear.weight": 0, "layer1.linear.bias": 1, "layer10.linear.weight": 2}),
        ("features.layer1", {"linear.weight": 0, "linear.bias": 1}),
        ("features.layer1.linear", {"weight": 0, "bias": 1}),
        ("features.layer10", {"linear.weight": 2}),
    ],
)
def test_a_part_has_the_names_below_its_key(key, expected):
    assert select(PARAMS, key) == expected


def test_a_part_has_the_order_of_the_module_and_the_very_values():
    values = {name: object() for name in reversed(NAMES)}
    part = select(values, "head")
    assert list(part) == ["weight", "bias"]
    assert part["weight"] is values["head.weight"]


def test_selecting_twice_is_selecting_the_longer_key():
    features = select(PARAMS, "features")
    wanted = {"linear.weight": "layer1.linear.weight", "linear.bias": "layer1.linear.bias"}
    again = select_subdict(features, wanted, [n.removeprefix("features.") for n in NAMES[:3]], "Features")
    assert again == select(PARAMS, "features.layer1")


def test_a_shared_parameter_is_handed_out_under_each_of_its_names():
    wanted = {"encoder.weight": "head.weight", "decoder.weight": "head.weight"}
    assert select_subdict(PARAMS, wanted, NAMES, "Model") == {"encoder.weight": 3, "decoder.weight": 3}


def test_a_submodule_without_parameters_has_no_part():
    """Nothing is replaced; an activation between layers, for example."""
    assert select(PARAMS, "activation") == {}


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ("head.wieght", "`params` holds 'head.wieght', which is no parameter of Model; did you mean 'head.weight'"),
        ("weight", "'weight', which is no parameter of Model; did you mean 'head.weight'"),
        ("features.layer2.linear.bias", "did you mean 'features.layer1.linear.bias' or "),
        ("xyz", "'xyz', which is no parameter of Model; it has features.layer1.linear.weight, .*, head.bias"),
    ],
)
@pytest.mark.parametrize("key", ["", "features"])
def test_an_unknown_name_proposes_the_nearest(wrong, message, key):
    for params in ({**PARAMS, wrong: 0}, {wrong if name == "head.weight" else name: 0 for name in NAMES}):
        with pytest.raises(ValueError, match=message):
            select(params, key)


def test_several_unknown_names_are_counted():
    with pytest.raises(ValueError, match=r"'a', which is no parameter of Model \(and 2 more\)"):
        select({"a": 1, **PARAMS, "b": 1, "c": 1})


def test_a_missing_name_is_no_permission_to_use_the_stored_one():
    partial = {"head.weight": 0}
    message = "`params` of Model must hold every parameter, 'head.bias' is missing; start from a mapping with all names"
    with pytest.raises(ValueError, match=message):
        select(partial, "head")
    with pytest.raises(ValueError, match=r"'features.layer1.linear.weight' is missing \(and 2 more\)"):
        select(partial, "features")
    with pytest.raises(ValueError, match=r"is missing \(and 3 more\)"):
        select(partial)
    with pytest.raises(ValueError, match=r"is missing \(and 4 more\)"):
        check_names({}, NAMES, "Model")


def test_messages_name_the_argument_that_was_given():
    with pytest.raises(ValueError, match="`step_size` of the model must hold every parameter, 'a' is missing"):
        check_names({}, ["a"], "the model", "step_size")
    with pytest.raises(ValueError, match="`step_size` holds 'b', which is no parameter of the model"):
        check_names({"b": 1}, ["a"], "the model", "step_size")


def test_names_of_other_parts_may_be_missing():
    assert select({"head.weight": 0, "head.bias": 1}, "head") == {"weight": 0, "bias": 1}


def test_exactly_the_names_pass():
    check_names(dict(reversed(PARAMS.items())), NAMES, "Model")
    check_names({}, [], "ReLU")
    with pytest.raises(ValueError, match="'weight', which is no parameter of ReLU; it has none"):
        check_names({"weight": 0}, [], "ReLU")


def test_a_shape_must_be_the_one_it_replaces():
    check_shape("weight", (5, 3), (5, 3), "Linear")
    for shape in ((3, 5), (5,), (5, 3, 1), (), (1, 3)):
        with pytest.raises(ValueError, match=r"`params\['weight'\]` of Linear must have shape \(5, 3\), got \("):
            check_shape("weight", shape, (5, 3), "Linear")


# Which parameters adapt


@pytest.mark.parametrize(
    ("selection", "expected"),
    [
        (None, NAMES),
        ("*", NAMES),
        ("head.*", NAMES[3:]),
        ("head.weight", NAMES[3:4]),
        ("*.weight", [NAMES[0], NAMES[2], NAMES[3]]),
        ("*.layer1.*", NAMES[:2]),
        ("features.layer1?.linear.weight", NAMES[2:3]),
        (["head.*", "*.weight"], [NAMES[0], NAMES[2], NAMES[3], NAMES[4]]),
        (("head.bias", "head.weight", "head.*"), NAMES[3:]),
        (lambda name: "layer1." in name, NAMES[:2]),
    ],
)
def test_a_selection_keeps_the_order_of_the_names(selection, expected):
    assert select_names(NAMES, selection, "Model") == expected
    assert select_names(iter(NAMES), selection, "Model") == expected


@pytest.mark.parametrize(
    ("pattern", "hint"),
    [
        ("haed.*", r"did you mean 'head\.\*'"),
        ("head", r"did you mean 'head\.\*'"),
        ("HEAD.*", r"it has features\.layer1\.linear\.weight, .*, head\.bias\."),
        ("head.wieght", r"did you mean 'head\.weight'"),
        ("features.layer2.*", r"did you mean 'features\.layer1"),
        ("", "it has features"),
    ],
)
def test_every_pattern_must_match_a_name(pattern, hint):
    message = rf"`names` holds {re.escape(repr(pattern))}, which matches no parameter of Model; {hint}"
    for selection in (pattern, [pattern, "head.*"], ["head.*", pattern]):
        with pytest.raises(ValueError, match=message):
            select_names(NAMES, selection, "Model")


@pytest.mark.parametrize("selection", [[], (), lambda name: False])
def test_something_must_be_selected(selection):
    message = (
        r"`names` selects no parameter of Model, got .*; select at least one of features\..*, or pass None for all"
    )
    with pytest.raises(ValueError, match=message):
        select_names(NAMES, selection, "Model")


def test_entries_must_have_the_names_and_the_shapes():
    import numpy as np

    from metabridge.adaptation.names import check_entries

    shapes = {"weight": (2, 3), "bias": (2,)}
    given = {name: np.zeros(shape) for name, shape in shapes.items()}
    check_entries(given, shapes, "Model", "buffers")
    with pytest.raises(ValueError, match=r"`buffers` of Model must hold every .*'bias' is missing"):
        check_entries({"weight": given["weight"]}, shapes, "Model", "buffers")
    with pytest.raises(ValueError, match=r"`buffers\['bias'\]` of Model must have shape \(2,\), got \(3,\)"):
        check_entries({**given, "bias": np.zeros(3)}, shapes, "Model", "buffers")
