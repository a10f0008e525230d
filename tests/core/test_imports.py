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

BACKEND_ROOMS = [
    "trees",
    "modules",
    "functional",
    "optimisers",
    "adjoints",
    "apply",
    "descent",
    "solvers",
    "adaptation",
    "tasks",
    "programs",
    "algorithms",
    "models",
    "weights",
    "data",
    "evaluation",
    "training",
    "backend",
    "torchmeta",
]
ROOMS = {
    "metabridge": [
        "checks",
        "digests",
        "streams",
        "storage",
        "adaptation",
        "networks",
        "configs",
        "sources",
        "transforms",
        "episodes",
        "metabridge",
        "toy",
        "archives",
        "datasets",
        "runs",
        "backends",
        "comparison",
        "reports",
        "cli",
        "__main__",
    ],
    "torch_backend": ["torch_backend", *BACKEND_ROOMS],
    "jax_backend": ["jax_backend", *BACKEND_ROOMS],
}
"""Package → its rooms, in the order in which data goes through them: a room imports from earlier ones alone.

A package's own name stands for its `__init__`.
"""


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
    """The optional weight of h5py, Pillow and matplotlib is paid by those who use it."""
    heavy = {"h5py", "PIL", "matplotlib", "typer", "tqdm", "requests", *FRAMEWORKS, *BACKENDS}
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
    """Module → modules of `package` that it imports, for types alone or inside a function too."""
    files = {_module_name(path, folder): path for path in sorted((folder / package).rglob("*.py"))}
    graph = {}
    for name, path in files.items():
        imports = _Imports(name, path.name == "__init__.py", set(files))
        imports.visit(ast.parse(path.read_text()))
        graph[name] = imports.modules - {name}
    return graph


def _module_name(path, folder):
    parts = path.relative_to(folder).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


class _Imports(ast.NodeVisitor):
    def __init__(self, module, is_package, known):
        self.package = module.split(".") if is_package else module.split(".")[:-1]
        self.known = known
        self.modules = set()

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


def room_of(module):
    """The part of a package that a module belongs to: a folder, a file, or the package's own `__init__`."""
    package, _, inner = module.partition(".")
    return inner.partition(".")[0] or package


def upward_imports(graph, rooms):
    """A line for every room that is not in the table, and for every import of a later room."""
    place = {room: position for position, room in enumerate(rooms)}
    unknown = sorted({room_of(module) for module in graph} - set(rooms))
    return [f"{room} is not in the table of rooms" for room in unknown] + [
        f"{module} imports {target}, and {room_of(target)} comes after {room_of(module)}"
        for module, targets in graph.items()
        for target in sorted(targets)
        if not {room_of(module), room_of(target)} & set(unknown) and place[room_of(target)] > place[room_of(module)]
    ]


@pytest.mark.parametrize("package", ROOMS)
def test_imports_have_no_cycle(package):
    graph = import_graph(ROOT, package)
    assert set(modules_of(package)) <= set(graph)
    assert cycle_in(graph) == []


@pytest.mark.parametrize("package", ROOMS)
def test_no_import_goes_upwards(package):
    graph = import_graph(ROOT, package)
    assert sum(map(len, graph.values())) > len(ROOMS[package])
    assert upward_imports(graph, ROOMS[package]) == []


def test_the_core_names_no_backend_outside_the_look_up():
    """Backends are found by entry point; only metabridge.backends knows the names of the two."""
    paths = sorted((ROOT / "metabridge").rglob("*.py"))
    assert paths
    for path in paths:
        imported = {
            name.partition(".")[0] for node in ast.walk(ast.parse(path.read_text())) for name in _imported_names(node)
        }
        assert not imported & {*FRAMEWORKS, *BACKENDS}, path


def _imported_names(node):
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""] if isinstance(node, ast.ImportFrom) and not node.level else []


# The proofs, tried on a made package

SOURCES = {
    "p/__init__.py": "from p.a import x",
    "p/a.py": "import p.b",
    "p/b.py": "x = 1",
    "p/inner/__init__.py": "",
    "p/inner/c.py": "from ..b import x",
}
ORDER = ["b", "a", "p", "inner"]


def write_package(folder: Path, **changed):
    for name, text in (SOURCES | {key.replace("__", "/") + ".py": text for key, text in changed.items()}).items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return import_graph(folder, "p")


def test_the_graph_is_read_from_every_form_of_import(tmp_path):
    graph = write_package(tmp_path)
    assert graph == {
        "p": {"p.a"},
        "p.a": {"p.b"},
        "p.b": set(),
        "p.inner": set(),
        "p.inner.c": {"p.b"},
    }
    assert cycle_in(graph) == []
    assert upward_imports(graph, ORDER) == []


FORMS = [
    "import {}",
    "from {0} import x",
    "from {parent} import {name}",
    "from .{name} import x",
    "from . import {name}",
    "def f():\n    from {0} import x",
    "if True:\n    import {0}",
    "try:\n    import {0}\nexcept ImportError:\n    pass",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from {0} import x",
    "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    pass\nelse:\n    import {0}",
    "class C:\n    def f(self):\n        import {0}",
]


@pytest.mark.parametrize("form", FORMS)
def test_a_cycle_is_found_in_every_form_of_import(tmp_path, form):
    closing = form.format("p.a", parent="p", name="a")
    assert cycle_in(write_package(tmp_path, p__b=closing)) == ["p.a", "p.b", "p.a"]


def test_a_cycle_through_a_package_is_found(tmp_path):
    assert len(cycle_in(write_package(tmp_path, p__b="from p.inner import c as d", p__inner__c="import p.a"))) == 4


@pytest.mark.parametrize("form", FORMS)
def test_an_import_upwards_is_found_in_every_form_of_import(tmp_path, form):
    upward = form.format("p.inner", parent="p", name="inner")
    graph = write_package(tmp_path, p__a=upward)
    assert upward_imports(graph, ORDER) == ["p.a imports p.inner, and inner comes after a"]


def test_a_room_outside_the_table_is_found(tmp_path):
    assert upward_imports(write_package(tmp_path, p__new="import p.a"), ORDER) == ["new is not in the table of rooms"]
