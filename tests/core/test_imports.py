"""What an import loads, and in which direction imports go (contract C4)."""

import ast
import importlib.util
import json
import pkgutil
from pathlib import Path

import pytest
from helpers import ROOT, run_python

FRAMEWORKS = ("torch", "torchvision", "jax", "jaxlib", "flax", "optax", "tensorflow")
BACKENDS = {"torch_backend": "torch", "jax_backend": "jax"}
FOREIGN = {
    "torch_backend": ("jax", "jaxlib", "flax", "optax", "jax_backend"),
    "jax_backend": ("torch", "torchvision", "torch_backend"),
}
"""Backend → what it must never import."""

WAY_OF_THE_DATA = [
    "metabridge.streams.portable",
    "metabridge.streams.philox",
    "metabridge.streams.draws",
    "metabridge.streams",
    "metabridge.checks",
    "metabridge.networks.layers",
    "metabridge.networks.tables",
    "metabridge.configs.record",
    "metabridge.configs.episode",
    "metabridge.configs.network",
    "metabridge.configs.algorithms",
    "metabridge.configs.optimiser",
    "metabridge.configs.run",
    "metabridge.configs",
    "metabridge.storage.atomic",
    "metabridge.storage",
    "metabridge.sources.base",
    "metabridge.sources.tables",
    "metabridge.sources.array",
    "metabridge.sources.hdf5",
    "metabridge.sources.images",
    "metabridge.sources.lazy",
    "metabridge.sources.folder",
    "metabridge.sources.labelled",
    "metabridge.sources.views",
    "metabridge.sources.splits",
    "metabridge.sources.copies",
    "metabridge.sources",
    "metabridge.episodes.splitters",
    "metabridge.transforms.classes",
    "metabridge.transforms.targets",
    "metabridge.transforms.images",
    "metabridge.transforms.geometry",
    "metabridge.transforms.colours",
    "metabridge.transforms",
    "metabridge.episodes.plans",
    "metabridge.episodes.batches",
    "metabridge.episodes.metadatasets",
    "metabridge.episodes.segmentation",
    "metabridge.episodes.supervised",
    "metabridge.toy.base",
    "metabridge.toy.sinusoid",
    "metabridge.toy.sinusoid_line",
    "metabridge.toy.harmonic",
    "metabridge.toy.helpers",
    "metabridge.toy",
    "metabridge.episodes.loader",
    "metabridge.episodes",
]
"""The modules of the data core, in the order in which data goes through them: each may import from earlier ones."""


def modules_of(package):
    """Names of a package and all its modules; a `__main__` runs instead of being imported."""
    spec = importlib.util.find_spec(package)
    found = pkgutil.walk_packages(spec.submodule_search_locations, f"{package}.")
    return [package, *sorted(module.name for module in found if not module.name.endswith("__main__"))]


LOADED = """
import importlib, json, sys
for name in sys.argv[1:]:
    importlib.import_module(name)
print(json.dumps(sorted({name.partition(".")[0] for name in sys.modules})))
"""


def loaded_by(*modules):
    """Top-level packages that are loaded after importing `modules` in a fresh interpreter."""
    result = run_python(LOADED, *modules)
    assert result.returncode == 0, result.stderr
    return set(json.loads(result.stdout))


# What an import loads


def test_the_core_loads_no_framework():
    loaded = loaded_by(*modules_of("metabridge"))
    assert {"metabridge", "numpy"} <= loaded
    assert not loaded & {*FRAMEWORKS, *BACKENDS}


def test_the_front_door_loads_numpy_and_little_else():
    """The optional weight of h5py, pooch, Pillow and matplotlib is paid by those who use it."""
    heavy = {"h5py", "pooch", "PIL", "matplotlib", "typer", "tqdm", "requests", *FRAMEWORKS, *BACKENDS}
    assert not loaded_by("metabridge") & heavy
    assert not loaded_by("metabridge.toy", "metabridge.sources", "metabridge.episodes.loader") & heavy


@pytest.mark.parametrize("framework", ["torch", "jax", "optax"])
def test_the_check_finds_a_framework_that_is_loaded(tmp_path, framework):
    """A module which imports one, also inside a function that it calls, must be caught."""
    if importlib.util.find_spec(framework) is None:
        pytest.skip(f"{framework} is not installed")
    (tmp_path / "guilty.py").write_text(f"def hidden():\n    import {framework}\n\n\nhidden()\n")
    program = f"import sys; sys.path.append({str(tmp_path)!r})\n{LOADED}"
    loaded = json.loads(run_python(program, "metabridge", "guilty").stdout)
    assert framework in loaded


POISONED = """
import importlib, json, sys
for name in json.loads(sys.argv[1]):
    sys.modules[name] = None  # importing it now raises ModuleNotFoundError
for name in sys.argv[2:]:
    importlib.import_module(name)
"""


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_backend_needs_nothing_of_the_other_framework(backend):
    if importlib.util.find_spec(BACKENDS[backend]) is None:
        pytest.skip(f"{BACKENDS[backend]} is not installed")
    result = run_python(POISONED, json.dumps(FOREIGN[backend]), *modules_of(backend))
    assert result.returncode == 0, result.stderr


def test_the_poison_works():
    result = run_python(POISONED, json.dumps(["numpy"]), "metabridge")
    assert result.returncode != 0
    assert "import of numpy halted" in result.stderr


# In which direction imports go


def import_graph(folder, package):
    """Module → modules of `package` that it imports; imports inside functions count, those for types alone do not."""
    files = {_module_name(path, folder): path for path in sorted((folder / package).rglob("*.py"))}
    graph = {}
    for name, path in files.items():
        found = _Imports(name, path.name == "__init__.py", set(files))
        found.visit(ast.parse(path.read_text()))
        graph[name] = found.modules - {name}
    return graph


def _module_name(path, folder):
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Imports(ast.NodeVisitor):
    def __init__(self, module, is_package, known):
        self.package = module.split(".") if is_package else module.split(".")[:-1]
        self.known = known
        self.modules = set()

    def visit_If(self, node):
        test = ast.unparse(node.test)
        for child in node.orelse if test in ("TYPE_CHECKING", "typing.TYPE_CHECKING") else ast.iter_child_nodes(node):
            self.visit(child)

    def visit_Import(self, node):
        self.modules |= {alias.name for alias in node.names} & self.known

    def visit_ImportFrom(self, node):
        base = self.package[: len(self.package) - node.level + 1] if node.level else []
        origin = ".".join([*base, *([node.module] if node.module else [])])
        for alias in node.names:
            inner = f"{origin}.{alias.name}"
            self.modules |= {inner if inner in self.known else origin} & self.known


def cycle_in(graph):
    """Some cycle of the graph as a list of modules, or an empty list."""
    finished, path = set(), []

    def visit(module):
        if module in path:
            return [*path[path.index(module) :], module]
        if module in finished:
            return []
        path.append(module)
        for target in sorted(graph[module]):
            if found := visit(target):
                return found
        finished.add(path.pop())
        return []

    return next((found for module in graph if (found := visit(module))), [])


@pytest.mark.parametrize("package", ["metabridge", *BACKENDS])
def test_imports_have_no_cycle(package):
    graph = import_graph(ROOT, package)
    assert set(modules_of(package)) <= set(graph)
    assert cycle_in(graph) == []


def test_imports_follow_the_way_of_the_data():
    graph = import_graph(ROOT, "metabridge")
    for position, module in enumerate(WAY_OF_THE_DATA):
        later = graph[module] - set(WAY_OF_THE_DATA[:position])
        assert not later, f"{module} imports {sorted(later)}, to which data comes later"


def test_the_core_names_no_backend_outside_the_look_up():
    """Backends are found by entry point; only metabridge.backends knows the names of the two."""
    for path in sorted((ROOT / "metabridge").rglob("*.py")):
        imported = {
            name.partition(".")[0] for node in ast.walk(ast.parse(path.read_text())) for name in _imported_names(node)
        }
        assert not imported & {*FRAMEWORKS, *BACKENDS}, path


def _imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


SOURCES = {
    "p/__init__.py": "from p.a import x",
    "p/a.py": "import p.b",
    "p/b.py": "x = 1",
    "p/inner/__init__.py": "",
    "p/inner/c.py": "from ..b import x",
}


def write_package(folder: Path, **changed):
    for name, text in (SOURCES | {key.replace("__", "/") + ".py": text for key, text in changed.items()}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return import_graph(folder, "p")


def test_the_graph_is_read_from_every_form_of_import(tmp_path):
    assert write_package(tmp_path) == {
        "p": {"p.a"},
        "p.a": {"p.b"},
        "p.b": set(),
        "p.inner": set(),
        "p.inner.c": {"p.b"},
    }


@pytest.mark.parametrize(
    "closing",
    [
        "import p.a",
        "from p import a",
        "from . import a",
        "from .a import x",
        "from p.inner import c as d",
        "def f():\n    from p.a import x",
        "if True:\n    import p.a",
        "try:\n    import p.a\nexcept ImportError:\n    pass",
        "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import p.a",
    ],
)
def test_a_cycle_is_found_in_every_form_of_import(tmp_path, closing):
    assert len(cycle_in(write_package(tmp_path, p__b=closing))) == 3


def test_imports_for_types_make_no_cycle(tmp_path):
    graph = write_package(tmp_path, p__b="from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from p.a import x")
    assert cycle_in(graph) == []
