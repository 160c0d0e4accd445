"""The rules of the house that a machine can check."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import steppe
from steppe import methods
from steppe.core.protocols import AXES

ROOT = Path(__file__).resolve().parents[1]
SRC, TESTS = ROOT / "src" / "steppe", ROOT / "tests"
FILES = sorted(SRC.rglob("*.py"))
PART_FOLDERS = {axis.registry.kind for axis in AXES} | {"methods"}

PART_LINES, MODULE_LINES, FUNCTION_LINES = 150, 400, 60

# Files above the limit, with why; the number is a ceiling of their own, so that they do not grow.
LONG = {
    "engine/sparsifier.py": (460, "a third of it is the documentation of the public face"),
}

# Tests without a source file of the same name: they are about more than one file.
CROSS = {
    "test_imports.py": "the direction of imports",
    "test_layout.py": "this file",
    "test_docs.py": "README and docs",
    "contract": "what every part of an axis fulfils, from the registries",
    "parity": "whole methods beside plain transcriptions of their rules",
    "end_to_end": "commands, run as a user runs them",
    "llm/test_families.py": "every family of language models, from folder to folder",
}


def relative(path):
    return str(path.relative_to(SRC))


@pytest.mark.parametrize(
    "path", sorted(TESTS.rglob("test_*.py")), ids=lambda p: str(p.relative_to(TESTS))
)
def test_every_test_file_has_its_source_file(path):
    inside = path.relative_to(TESTS)
    if inside.parts[0] in CROSS or inside.as_posix() in CROSS:
        return
    name = inside.stem.removeprefix("test_")
    folder = SRC / inside.parent
    # test_load.py beside a package's __init__.py may also be named after a function in it
    init = folder / "__init__.py"
    found = (folder / f"{name}.py").is_file() or (folder / name).is_dir()
    if not found and init.is_file():
        found = f"def {name}(" in init.read_text()
    assert found, f"no {inside.parent / name}.py in src/steppe; a test of more goes into CROSS"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_files_are_short(path):
    lines = len(path.read_text().splitlines())
    limit = PART_LINES if path.parent.name in PART_FOLDERS else MODULE_LINES
    limit, why = LONG.get(relative(path), (limit, ""))
    assert lines <= limit, f"{relative(path)} has {lines} lines, the limit is {limit} {why}"


def test_no_file_is_called_long_without_need():
    for name in LONG:
        assert (SRC / name).is_file(), name
        assert len((SRC / name).read_text().splitlines()) > MODULE_LINES, f"{name} is short now"


def body_lines(function):
    """Lines of a function without its docstring."""
    lines = function.end_lineno - function.lineno + 1
    if ast.get_docstring(function) is not None:
        doc = function.body[0]
        lines -= doc.end_lineno - doc.lineno + 1
    return lines


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_functions_are_short(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            assert body_lines(node) <= FUNCTION_LINES, f"{relative(path)}:{node.lineno} {node.name}"


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_nothing_is_read_that_could_run_code(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in {"torch.load", "torch.save", "eval", "exec", "yaml.load"}, (
                f"{relative(path)}:{node.lineno} calls {called}; see core/serialization.py"
            )


@pytest.mark.parametrize("path", FILES, ids=relative)
def test_modules_say_what_they_are(path):
    doc = ast.get_docstring(ast.parse(path.read_text()))
    assert doc, f"{relative(path)} has no docstring"
    # one sentence first; a module's own text may be all of it
    first = doc.split("\n\n")[0]
    assert first.rstrip().endswith((".", "?", ":")), f"{relative(path)}: {first!r}"


@pytest.mark.parametrize("name", [n for n in steppe.__all__ if n != "methods"])
def test_public_names_are_documented(name):
    thing = getattr(steppe, name)
    doc = thing.__doc__ or ""
    assert len(doc) > 40, f"steppe.{name} has no docstring"
    assert not doc.startswith(f"{name}("), f"steppe.{name} has only its generated signature"
    for key, member in vars(thing).items() if isinstance(thing, type) else ():
        if not key.startswith("_") and (callable(member) or isinstance(member, property)):
            assert member.__doc__, f"steppe.{name}.{key} has no docstring"


PARTS = [(axis.registry.kind, name) for axis in AXES for name in axis.registry]


@pytest.mark.parametrize(("kind", "name"), PARTS, ids="-".join)
def test_parts_are_documented(kind, name):
    part = next(axis for axis in AXES if axis.registry.kind == kind).registry[name]
    doc = part.__doc__ or ""
    assert doc, f"{kind} {name} has no docstring"
    assert not doc.startswith(f"{part.__name__}("), f"{kind} {name} has only a signature"
    assert part.name == name, f"{kind} {name} calls itself {part.name}"


@pytest.mark.parametrize("name", list(methods.METHODS))
def test_methods_are_documented(name):
    doc = methods.METHODS[name].__doc__ or ""
    assert "Args:" in doc, f"method {name} does not say what its options are"
    assert "Source:" in doc or name == "dense", f"method {name} does not say where it comes from"


def tracked():
    listed = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.decode().split("\0") if name]


def test_no_file_holds_a_path_of_one_machine():
    # put together here, so that this file does not hold what it looks for
    wrong = re.compile("|".join(["/" + "work/", "/" + "home/", "/" + "Users/", "/" + "root/"]))
    found = []
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ""} and (
            path.is_file() and path.stat().st_size < 1_000_000
        ):
            text = path.read_text(encoding="utf-8", errors="ignore")
            found += [f"{path.relative_to(ROOT)}: {m.group()}" for m in wrong.finditer(text)]
    assert not found, found
