"""Dependencies point one way: read from the source, function bodies included."""

import ast
from pathlib import Path

import pytest

SRC = Path(__file__).resolve().parents[1] / "src" / "steppe"
AXES = {"score", "structure", "budget", "schedule", "coupling", "perturb", "objective"}
PACKAGES = {p.name for p in SRC.iterdir() if (p / "__init__.py").is_file()}

# What the files of a package may import of steppe. A new package needs a line here.
MAY = {
    "core": {"core"},
    **{axis: {"core", axis} for axis in AXES},
    "method": {"core"},
    "methods": {"core", "method", "methods", *AXES},
    "engine": {"core", "method", "engine"},  # parts reach it through the registries only
    "vision": {"core", "engine", "vision"},
    "sparse": {"core", "engine", "sparse"},
    "llm": {
        "callbacks",
        "core",
        "method",
        "methods",
        "engine",
        "record",
        "removal",
        "sparse",
        "llm",
    },
    "robustness": {"core", "engine", "robustness"},
    "removal": {"core", "engine", "removal"},
    "recipes": {"core", "recipes"},
    "experiment": {
        "core",
        "engine",
        "experiment",
        "llm",
        "method",
        "methods",
        "recipes",
        "record",
        "removal",
        "robustness",
        "vision",
    },
    "evaluation": {
        "core",
        "engine",
        "evaluation",
        "experiment",
        "llm",
        "record",
        "removal",
        "robustness",
        "vision",
    },
    "callbacks": {"callbacks", "core", "engine", "method"},
    "sweeps": {"core", "engine", "experiment", "report", "sweeps"},
    "theory": {"core", "coupling", "theory"},
    "record": {"core", "record"},
    "report": {"core", "method", "methods", "record", "report"},  # methods: to say what each is
    "__main__": {"cli"},
    "__init__": {
        "callbacks",
        "core",
        "engine",
        "experiment",
        "llm",
        "method",
        "methods",
        "removal",
        "sparse",
    },
}
# Under TYPE_CHECKING a part may also know the Method that it is checked beside.
MAY_FOR_TYPES = {name: {"method"} for name in ("core", *AXES)}

# Slow or optional packages: only inside a function, or under TYPE_CHECKING.
LATE = {
    "torchvision",
    "transformers",
    "datasets",
    "matplotlib",
    "peft",
    "pytorch_optimizer",
    "lightning",
    "ray",
}
# Packages that are never imported: they run code from a file.
NEVER = {"pickle", "dill", "joblib", "cloudpickle"}

FILES = sorted(SRC.rglob("*.py"))


def _is_type_checking(node):
    return isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test)


def imports(tree, module="steppe.x", for_types=False, late=False):
    """(dotted name, for types only, inside a function) of every import in the tree.

    ``from a import b`` counts as ``a.b``, since b may be a module; a relative import is resolved
    against ``module``, the dotted name of the file that holds it.
    """
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, for_types, late) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = module.split(".")[: -node.level] if node.level else []
            start = ".".join([*base, *([node.module] if node.module else [])])
            yield from ((f"{start}.{alias.name}", for_types, late) for alias in node.names)
        elif _is_type_checking(node):
            for child in node.body:
                yield from imports(ast.Module([child], []), module, True, late)
            for child in node.orelse:
                yield from imports(ast.Module([child], []), module, for_types, late)
        else:
            inside = late or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            yield from imports(node, module, for_types, inside)


def package_of(dotted):
    """``steppe.core.protocols.Score`` -> core; a name of the top module itself -> __init__."""
    parts = dotted.split(".")
    known = PACKAGES | {p.stem for p in SRC.glob("*.py")}
    return parts[1] if len(parts) > 1 and parts[1] in known else "__init__"


def home(path):
    """The package of a file: its folder below steppe, or its own name when it lies in none."""
    relative = path.relative_to(SRC)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def wrong_imports(source, package):
    """The imports of steppe in the source that ``package`` may not have."""
    if package == "cli":
        return []
    wrong = []
    for name, for_types, _ in imports(ast.parse(source), f"steppe.{package}.x"):
        if name.split(".")[0] != "steppe":
            continue
        allowed = MAY[package] | (MAY_FOR_TYPES.get(package, set()) if for_types else set())
        if package_of(name) not in allowed:
            wrong.append(name)
    return wrong


def test_dependencies_point_one_way():
    wrong = {}
    for path in FILES:
        package = home(path)
        assert package in MAY or package == "cli", f"say in MAY what {package} may import"
        if names := wrong_imports(path.read_text(), package):
            wrong[str(path.relative_to(SRC))] = f"{package} must not import {', '.join(names)}"
    assert not wrong


def test_slow_and_optional_packages_are_imported_late():
    wrong = []
    for path in FILES:
        for name, for_types, late in imports(ast.parse(path.read_text())):
            top = name.split(".")[0]
            if top in NEVER:
                wrong.append(f"{path.relative_to(SRC)} imports {name}, which runs code in files")
            if top in LATE and not for_types and not late:
                wrong.append(f"{name} at the top of {path.relative_to(SRC)}")
    assert not wrong


def dotted(path):
    """The name of a file as a module."""
    names = path.relative_to(SRC.parent).with_suffix("").parts
    return ".".join(names[:-1] if names[-1] == "__init__" else names)


def circles(graph):
    """Groups of modules that import each other, each through the others.

    Args:
        graph: for each module the modules that it imports.
    """
    reached = {}
    for start in graph:
        seen, open_ends = set(), [start]
        while open_ends:
            following = graph.get(open_ends.pop(), set()) - seen
            seen |= following
            open_ends += following
        reached[start] = seen
    groups = (
        tuple(sorted(n for n in seen if m in reached.get(n, ()))) for m, seen in reached.items()
    )
    return sorted({group for group in groups if len(group) > 1})


def test_no_module_of_llm_imports_itself_through_others():
    """Not for types and not within functions either: one of the two does not belong there."""
    modules = {dotted(path): path for path in FILES if home(path) == "llm"}
    graph = {}
    for module, path in modules.items():
        inside = module if path.stem != "__init__" else f"{module}.__init__"
        names = [name for name, _, _ in imports(ast.parse(path.read_text()), inside)]
        graph[module] = {n if n in modules else n.rpartition(".")[0] for n in names} & set(modules)
    assert circles(graph) == []


def test_circles_are_found():
    graph = {"a": {"b"}, "b": {"c"}, "c": {"b"}, "d": {"a"}, "e": set()}
    assert circles(graph) == [("b", "c")]
    assert circles({"a": {"b"}, "b": set()}) == []


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("core", "from steppe.score.magnitude import Magnitude"),
        ("score", "def f():\n    from steppe.structure.nm import NM"),
        ("engine", "from steppe import methods"),
        ("engine", "import steppe"),
        ("engine", "from steppe.coupling.admm import Admm"),
        ("report", "from ..engine import sparsifier"),
        ("core", "from steppe.method import Method"),
    ],
)
def test_the_check_itself_finds_what_is_wrong(package, source):
    assert wrong_imports(source, package)


@pytest.mark.parametrize(
    ("package", "source"),
    [
        ("score", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import steppe.method"),
        ("score", "from . import l1\nfrom ..core import part"),
        ("methods", "from steppe.methods import METHODS"),
        ("cli", "import steppe.report"),
    ],
)
def test_the_check_itself_lets_pass_what_is_right(package, source):
    assert not wrong_imports(source, package)


def test_importing_steppe_imports_no_slow_package():
    import subprocess
    import sys

    code = "import sys, steppe; print(*[m for m in %r if m in sys.modules])" % sorted(LATE)  # noqa: UP031
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_benchmarks_take_nothing_from_the_command_line_but_its_entry():
    for path in sorted((SRC.parents[1] / "benchmarks").rglob("*.py")):
        taken = {name for name, _, _ in imports(ast.parse(path.read_text()))}
        wrong = {n for n in taken if n.startswith("steppe.cli")} - {"steppe.cli.main.main"}
        assert not wrong, f"{path.name} imports {', '.join(sorted(wrong))}"
