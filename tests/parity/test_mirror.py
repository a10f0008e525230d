"""The two backends mirror each other: files, public names, signatures (contract C5).

Annotations are not compared: each backend names its own array type.
"""

import fnmatch
import importlib
import inspect
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from backends.kits import make_kit

pytestmark = pytest.mark.xdist_group("mirror")

DRAWN = "Flax draws initial parameters from an explicit `rngs`; torch draws them from its global random state."
PLACED = "torch's layers take `device` and `dtype`; in JAX the computation decides both."
LOADER = "The torch loader is a `torch.utils.data.DataLoader` and takes its other arguments; JAX has no such class."

RANDOM = "`torch.func.vmap` asks what random operations do; in JAX random numbers come from keys, which are arguments."

INHERITED = "torch's containers inherit it from torch.nn."
STORED = "It says how torch stores a gradient or changes a weight in place, which JAX does not do."

EXEMPTIONS = {
    "modules.pooling: only in jax": "torch has nn.MaxPool2d; Flax's pooling shares ties, which contract C8 forbids.",
    "modules.MaxPool2d: only in jax": "The same.",
    "modules.Flatten: only in jax": "torch's nn.Flatten has torch's order already.",
    "modules.leaky_relu: only in jax": "torch has nn.LeakyReLU; JAX's has another derivative at 0 (contract C8).",
    "modules.conv.conv: only in jax": "torch has functional.conv2d; XLA's is hopeless under vmap on a CPU.",
    "modules.module.own_parameters: only in jax": "A JAX layer computes with what this returns …",
    "modules.module.MetaLayer: only in torch": "… while a torch layer is PyTorch's own.",
    "modules.variables: only in jax": "torch's modules name their tensors themselves.",
    "modules.placement.placed(context): only in torch": "Exact derivatives are a mode in torch; JAX's are right.",
    "modules.placement.placed(statistics): only in jax": "In torch it is part of that mode.",
    "modules.placement.placed(frozen): only in jax": "In torch it is part of that mode.",
    "modules.placement.Statistics: only in jax": "In torch it is part of that mode.",
    "modules.placement.meta_entries: only in torch": "In JAX it is in `variables`, which torch lacks.",
    "modules.placement.substituted: only in jax": "Compiled programs take stored arrays as arguments; torch has none.",
    "modules.placement.moves_statistics: only in jax": "In torch it is part of that mode.",
    "modules.exact*: only in torch": "Some of torch's second derivatives are wrong or missing; JAX's are right.",
    "modules.module.uniform_parameter: only in jax": "torch's layers initialise themselves.",
    "modules.parallel: only in torch": "JAX places arrays on devices with shardings, whatever the module.",
    "modules.DataParallel: only in torch": "The same.",
    "models.ResNet18: only in jax": "In torch it is as_meta_module(torchvision.models.resnet18()).",
    "training.precision: only in jax": "float64 is a mode in JAX and an ordinary dtype in torch.",
    "data.BatchMetaDataLoader(kwargs): only in torch": LOADER,
    "data.BatchMetaDataLoader(num_workers): only in jax": "In torch they are among these.",
    "data.BatchMetaDataLoader(prefetch_factor): only in jax": "The same.",
    "torchmeta: only in torch": "Torchmeta is a library for torch; its names stand here for scripts that import them.",
    "algorithms.*(randomness): only in torch": RANDOM,
    "tasks.Randomness: only in torch": RANDOM,
    "tasks.*(randomness): only in torch": RANDOM,
    "optimisers.Optimiser*: only in torch": "In JAX it is optax.GradientTransformation.",
    "trees.*: only in jax": "torch's trees are those of metabridge.adaptation.trees; JAX has its own.",
    "programs: only in jax": "JAX compiles functions; torch runs them.",
    "modules.Meta*(rngs): only in jax": DRAWN,
    "models.*(rngs): only in jax": DRAWN,
    "modules.Meta*(device): only in torch": PLACED,
    "modules.Meta*(dtype): only in torch": PLACED,
    "modules.Meta*Norm(channels_last): only in jax": "torch has the channels first, the neutral axes.",
    "modules.Meta*Norm.neutral_axes: only in jax": "The same; other layers have it as a class attribute.",
    "modules.MetaMultiheadAttention(dropout): only in torch": "Dropout draws numbers, and a JAX call is pure.",
    "modules.MetaEmbedding*(max_norm): only in torch": STORED,
    "modules.MetaEmbedding*(norm_type): only in torch": STORED,
    "modules.MetaEmbedding*(scale_grad_by_freq): only in torch": STORED,
    "modules.MetaEmbedding*(sparse): only in torch": STORED,
    "modules.MetaEmbedding*(_*): only in torch": "Private arguments of torch's constructors.",
    "modules.MetaModuleList.*: only in jax": INHERITED,
    "modules.MetaModuleDict.*: only in jax": INHERITED,
    "modules.MetaSequential.*: only in jax": INHERITED,
}
"""Every difference that may be → why it must be. A star stands for any characters."""

CALL = "call"
_CALLS = {"forward", "__call__"}
_UNCOMPARED = {"__init__", "__init_subclass__", "__repr__", "__setattr__", "__getattr__"}

Parameters = dict[str, inspect.Parameter]
Surface = dict[str, dict[str, Parameters]]


def differences(torch_side: Surface, jax_side: Surface) -> set[str]:
    """Everything that one surface has and the other has not, or has otherwise."""
    found = {f"{name}: only in {side}" for name, side in _one_sided(torch_side, jax_side)}
    for module in torch_side.keys() & jax_side.keys():
        ours, theirs = torch_side[module], jax_side[module]
        found |= {f"{module}.{name}: only in {side}" for name, side in _one_sided(ours, theirs)}
        for name in ours.keys() & theirs.keys():
            found |= {f"{module}.{name}{text}" for text in _signature_differences(ours[name], theirs[name])}
    return found


def _one_sided(torch_side: Mapping, jax_side: Mapping) -> list[tuple[str, str]]:
    sides = (("torch", torch_side.keys() - jax_side.keys()), ("jax", jax_side.keys() - torch_side.keys()))
    # A class on one side is one difference, whatever its methods.
    return [(name, side) for side, names in sides for name in names if name.partition(".")[0] not in names - {name}]


def _signature_differences(ours: Parameters, theirs: Parameters) -> Iterator[str]:
    yield from (f"({name}): only in {side}" for name, side in _one_sided(ours, theirs))
    shared = [name for name in ours if name in theirs]
    if shared != [name for name in theirs if name in ours]:
        yield f": order {', '.join(shared)} in torch only"
    for name in shared:
        for field in ("kind", "default"):
            pair = getattr(ours[name], field), getattr(theirs[name], field)
            if pair[0] != pair[1] and not _are_twins(*pair):
                yield f"({name}): {field} {pair[0]!r} in torch, {pair[1]!r} in jax"


def _are_twins(ours: object, theirs: object) -> bool:
    """Whether two defaults are the same value of a class that each backend has, such as an adjoint."""
    modules = [type(value).__module__.partition("_backend.") for value in (ours, theirs)]
    return modules[0][1] != "" and modules[0][2] == modules[1][2] and repr(ours) == repr(theirs)


def surface(package: str) -> Surface:
    """Module → public name → parameters of everything in a package's `__all__`s.

    A name that a folder's `__init__` re-exports counts there; its defining file lists only what it adds.
    """
    modules = {name: importlib.import_module(f"{package}.{name}" if name else package) for name in _names(package)}
    exported = {
        id(getattr(module, name)): folder
        for folder, module in modules.items()
        if hasattr(module, "__path__")
        for name in getattr(module, "__all__", ())
    }
    return {
        module_name: {
            name: parameters
            for public in getattr(module, "__all__", ())
            if exported.get(id(getattr(module, public)), module_name) == module_name
            for name, parameters in _describe(package, public, getattr(module, public))
        }
        for module_name, module in modules.items()
    }


def _names(package: str) -> list[str]:
    """Dotted names of all modules of a package, from its files."""
    root = Path(importlib.import_module(package).__file__).parent
    files = [path.relative_to(root).with_suffix("") for path in sorted(root.rglob("*.py"))]
    return [".".join(part for part in file.parts if part != "__init__") for file in files]


def _describe(package: str, name: str, value: object) -> Iterator[tuple[str, Parameters]]:
    if inspect.isclass(value) and value.__module__.startswith(package):
        yield name, _parameters(value.__init__)
        for method, function in _own_methods(package, value):
            yield f"{name}.{method}", _parameters(function)
    else:
        yield name, _parameters(value) if inspect.isfunction(value) else {}


def _own_methods(package: str, cls: type) -> Iterator[tuple[str, object]]:
    """Public methods and properties that this package defines, inherited ones included."""
    own = [base for base in reversed(cls.__mro__) if base.__module__.startswith(package)]
    members = {name: member for base in own for name, member in vars(base).items()}
    for name, member in members.items():
        if name in _CALLS and inspect.isfunction(member):
            yield CALL, member
        elif isinstance(member, property) and not name.startswith("_"):
            yield name, None
        elif inspect.isfunction(member) and name not in _UNCOMPARED and _is_public(name):
            yield name, member


def _is_public(name: str) -> bool:
    return not name.startswith("_") or (name.startswith("__") and name.endswith("__"))


def _parameters(function: object) -> Parameters:
    parameters = dict(inspect.signature(function).parameters) if function else {}
    return {name: each for name, each in parameters.items() if name != "self"}


@pytest.fixture(scope="module")
def found():
    """All differences there are."""
    for name in ("torch", "jax"):
        make_kit(name)
    return differences(surface("torch_backend"), surface("jax_backend"))


def test_the_backends_differ_only_where_they_must(found):
    others = sorted(each for each in found if not any(fnmatch.fnmatchcase(each, known) for known in EXEMPTIONS))
    assert not others, "make the backends alike, or exempt the difference with its reason"


def test_no_exemption_is_superfluous(found):
    gone = [known for known in EXEMPTIONS if not any(fnmatch.fnmatchcase(each, known) for each in found)]
    assert not gone, "these differences are gone: take them out of the table"


@pytest.mark.parametrize("difference", EXEMPTIONS)
def test_every_exemption_has_a_reason(difference):
    assert len(EXEMPTIONS[difference]) > 8


def test_there_is_something_to_compare():
    make_kit("torch")
    described = surface("torch_backend")
    assert {
        "",
        "adaptation",
        "algorithms",
        "backend",
        "data",
        "functional",
        "models",
        "modules",
        "optimisers",
        "training",
        "weights",
    } <= set(described)
    assert list(described["adaptation"]["gradient_update_parameters"]) == [
        "model", "loss", "params", "step_size", "first_order", "names",
    ]  # fmt: skip
    assert list(described["modules"]["MetaLinear"]) == ["in_features", "out_features", "bias", "device", "dtype"]
    assert list(described["modules"]["MetaLinear.call"]) == ["input", "params"]
    assert "MetaLinear.meta_named_parameters" in described["modules"]
    assert list(described["algorithms"]["MAML.adapt"]) == ["params", "inputs", "targets", "steps"]
    assert described["backend"]["Backend.version"] == {}


# The comparison can fail


def original(a, b=1, *, c=None):
    """What the others drift from."""


def renamed(a, d=1, *, c=None):
    """An argument has another name."""


def reordered(b=1, a=2, *, c=None):
    """Arguments in another order."""


def other_default(a, b=2, *, c=None):
    """A default has another value."""


def other_kind(a, b=1, c=None):
    """An argument is no longer by name alone."""


def extra(a, b=1, *, c=None, e=0):
    """An argument was added."""


@pytest.mark.parametrize(
    ("drifted", "expected"),
    [
        (original, set()),
        (renamed, {"m.f(b): only in torch", "m.f(d): only in jax"}),
        (other_default, {"m.f(b): default 1 in torch, 2 in jax"}),
        (extra, {"m.f(e): only in jax"}),
    ],
)
def test_a_drifted_signature_is_found(drifted, expected):
    assert differences({"m": {"f": _parameters(original)}}, {"m": {"f": _parameters(drifted)}}) == expected


@pytest.mark.parametrize(("drifted", "word"), [(reordered, "order a, b, c"), (other_kind, "(c): kind")])
def test_drifted_order_and_kind_are_found(drifted, word):
    found = differences({"m": {"f": _parameters(original)}}, {"m": {"f": _parameters(drifted)}})
    assert any(word in each for each in found)


PACKAGE = {
    "__init__.py": "",
    "one.py": """
__all__ = ['Thing', 'work']
class Thing:
    def __init__(self, size): ...
    def run(self, x): ...
    def _private(self, a, b): ...
def work(x): ...
def unlisted(x): ...
""",
    "deep/__init__.py": "from {name}.deep.inner import value\n__all__ = ['value']\n",
    "deep/inner.py": "__all__ = ['value']\ndef value(): ...\n",
}


def write_package(folder, name, **changes):
    for path, text in {**PACKAGE, **changes}.items():
        if text is not None:
            file = folder / name / path
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text.replace("{name}", name))
    return name


CHANGES = {
    "nothing": ({}, set()),
    "a file is gone": ({"one.py": None}, {"one: only in torch"}),
    "a file is new": ({"two.py": "__all__ = []"}, {"two: only in jax"}),
    "a name is gone": ({"one.py": PACKAGE["one.py"].replace(", 'work'", "")}, {"one.work: only in torch"}),
    "a method is renamed": (
        {"one.py": PACKAGE["one.py"].replace("def run", "def walk")},
        {"one.Thing.run: only in torch", "one.Thing.walk: only in jax"},
    ),
    "a constructor changed": (
        {"one.py": PACKAGE["one.py"].replace("self, size", "self, size=3")},
        {"one.Thing(size): default <class 'inspect._empty'> in torch, 3 in jax"},
    ),
    "private things changed": (
        {"one.py": PACKAGE["one.py"].replace("a, b", "c").replace("unlisted(x)", "other(y)")},
        set(),
    ),
    "a re-export is gone": (
        {"deep/__init__.py": "__all__ = []"},
        {"deep.value: only in torch", "deep.inner.value: only in jax"},
    ),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_drifted_package_is_found(tmp_path, monkeypatch, change):
    changes, expected = CHANGES[change]
    monkeypatch.syspath_prepend(tmp_path)
    suffix = re.sub(r"\W", "_", change)
    ours, theirs = write_package(tmp_path, f"ours_{suffix}"), write_package(tmp_path, f"theirs_{suffix}", **changes)
    assert differences(surface(ours), surface(theirs)) == expected
