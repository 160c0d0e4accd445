"""The rules of the house that a machine can check; each names every offender."""

import ast
import re
import subprocess
from pathlib import Path

import pytest

import steppe
from steppe import methods
from steppe.core.protocols import AXES

ROOT = Path(__file__).resolve().parents[1]
SRC = ROOT / "src" / "steppe"
TREES = {path: ast.parse(path.read_text()) for path in sorted(SRC.rglob("*.py"))}
AXIS_NAMES = {axis.registry.kind for axis in AXES} | {"perturb"}
PART_FOLDERS = {axis.registry.kind for axis in AXES} | {"methods"}

PART_LINES, MODULE_LINES, CLASS_LINES, FUNCTION_LINES = 150, 400, 300, 60


def relative(path):
    return path.relative_to(SRC).as_posix()


def nodes(kinds):
    """(file and line, node) for every node of these kinds in the sources."""
    for path, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                yield f"{relative(path)}:{node.lineno}", node


DEFINITIONS = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def body_lines(definition):
    """Lines of a function or class without the docstrings in it."""
    lines = definition.end_lineno - definition.lineno + 1
    for node in ast.walk(definition):
        if isinstance(node, DEFINITIONS) and ast.get_docstring(node) is not None:
            lines -= node.body[0].end_lineno - node.body[0].lineno + 1
    return lines


def test_files_are_short():
    long = {}
    for path in TREES:
        lines = len(path.read_text().splitlines())
        limit = PART_LINES if path.parent.name in PART_FOLDERS else MODULE_LINES
        if lines > limit:
            long[relative(path)] = f"{lines} lines, the limit is {limit}"
    assert not long


@pytest.mark.parametrize(
    ("kinds", "limit"),
    [(ast.ClassDef, CLASS_LINES), (ast.FunctionDef | ast.AsyncFunctionDef, FUNCTION_LINES)],
    ids=["classes", "functions"],
)
def test_definitions_are_short(kinds, limit):
    long = {}
    for place, node in nodes(kinds):
        lines = body_lines(node)
        if lines > limit:
            long[f"{place} {node.name}"] = f"{lines} lines, the limit is {limit}"
    assert not long


def asks_a_part(call):
    """Whether this is getattr or hasattr of a method or a part: ``self.method.score``, ``part``."""
    if ast.unparse(call.func) not in {"getattr", "hasattr"}:
        return False
    last = call.args[0]
    name = last.attr if isinstance(last, ast.Attribute) else getattr(last, "id", "")
    return name in AXIS_NAMES | {"part", "solver", "method"}


def test_the_engine_asks_no_part_for_what_it_may_not_have():
    """What a part may have, its protocol declares with a default."""
    asked = [
        f"{place} {ast.unparse(node)}"
        for place, node in nodes(ast.Call)
        if place.startswith("engine/") and asks_a_part(node)
    ]
    assert not asked


@pytest.mark.parametrize(
    ("source", "asks"),
    [
        ("getattr(method.score, 'x', 1)", True),
        ("getattr(self.method.objective, 'x')", True),
        ("hasattr(coupling, 'x')", True),
        ("getattr(part, name)", True),
        ("getattr(optimizer, 'x')", False),
        ("method.score.x", False),
    ],
)
def test_the_check_itself_tells_parts_from_others(source, asks):
    calls = [n for n in ast.walk(ast.parse(source)) if isinstance(n, ast.Call)]
    assert any(map(asks_a_part, calls)) == asks


def test_nothing_is_read_that_could_run_code():
    """See core/ for what reads and writes trees of tensors instead."""
    calls = {"torch.load", "torch.save", "eval", "exec", "yaml.load"}
    wrong = [f"{p} {n}" for p, c in nodes(ast.Call) if (n := ast.unparse(c.func)) in calls]
    assert not wrong


def test_modules_say_what_they_are():
    """One sentence first; a module's own text may be all of it."""
    wrong = {}
    for path, tree in TREES.items():
        first = (ast.get_docstring(tree) or "").split("\n\n")[0]
        if not first.rstrip().endswith((".", "?", ":")):
            wrong[relative(path)] = first or "no docstring"
    assert not wrong


def undocumented():
    """What is public and does not say what it is, with the reason."""
    for name in steppe.__all__:
        if name == "methods":
            continue
        thing = getattr(steppe, name)
        doc = thing.__doc__ or ""
        if len(doc) <= 40:
            yield f"steppe.{name} has no docstring"
        if doc.startswith(f"{name}("):
            yield f"steppe.{name} has only its generated signature"
        for key, member in vars(thing).items() if isinstance(thing, type) else ():
            public = not key.startswith("_") and (callable(member) or isinstance(member, property))
            if public and not member.__doc__:
                yield f"steppe.{name}.{key} has no docstring"
    for registry in (axis.registry for axis in AXES):
        for name in registry:
            part = registry[name]
            doc = part.__doc__ or ""
            if not doc or doc.startswith(f"{part.__name__}("):
                yield f"{registry.kind} {name} has no docstring of its own"
            if part.name != name:
                yield f"{registry.kind} {name} calls itself {part.name}"
    for name in methods.METHODS:
        doc = methods.METHODS[name].__doc__ or ""
        if "Args:" not in doc:
            yield f"method {name} does not say what its options are"
        if "Source:" not in doc and name != "dense":
            yield f"method {name} does not say where it comes from"


def test_what_is_public_is_documented():
    assert not list(undocumented())


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
    offenders = []
    for path in tracked():
        if path.suffix in {".py", ".md", ".toml", ".yaml", ".yml", ".txt", ".json", ""} and (
            path.is_file() and path.stat().st_size < 1_000_000
        ):
            text = path.read_text(encoding="utf-8", errors="ignore")
            offenders += [f"{path.relative_to(ROOT)}: {m.group()}" for m in wrong.finditer(text)]
    assert not offenders


def test_make_bench_needs_no_arguments():
    """It calls every script by its name alone, and each writes its record."""
    asking = []
    for path in sorted((ROOT / "benchmarks").glob("bench_*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Call) or not ast.unparse(node.func).endswith(
                "parser.add_argument"
            ):
                continue
            flag, given = (
                node.args[0],
                {word.arg: ast.unparse(word.value) for word in node.keywords},
            )
            place = not ast.literal_eval(flag).startswith("-")
            if (place and given.get("nargs") != "'?'") or "required" in given:
                asking.append(f"{path.name}: {ast.unparse(node)}")
    assert not asking
