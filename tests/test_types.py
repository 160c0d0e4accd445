"""What a type checker says of steppe in its users' code: in README, docs and a small file."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```python\n(.*?)^```", re.MULTILINE | re.DOTALL)
# blocks are scripts: their functions need no annotations, everything else is checked
RELAXED = "# mypy: allow-untyped-defs, allow-untyped-calls, allow-incomplete-defs\n"

FACE = """
import steppe
from steppe import Method, methods

m = steppe.methods.safe(sparsity=0.5)
reveal_type(m)
reveal_type(m.replace(perturb="none").for_language())
reveal_type(methods.safe.display)
n: Method = Method(budget={"name": "uniform", "sparsity": 0.5}, structure="2:4")
"""
MISUSE = """
import steppe

steppe.methods.saef(sparsity=0.5)
steppe.methods.safe(sparsty=0.5)
steppe.methods.safe(sparsity="half")
"""


def blocks(page):
    return FENCE.findall(page.read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """README's and the docs' blocks, a file per page, and two small files."""
    folder = tmp_path_factory.mktemp("typed")
    for page in PAGES:
        if blocks(page):
            name = "_".join(page.relative_to(ROOT).with_suffix("").parts).replace("-", "_")
            (folder / f"page_{name}.py").write_text(RELAXED + "\n".join(blocks(page)))
    (folder / "face.py").write_text(FACE)
    (folder / "misuse.py").write_text(MISUSE)
    return folder


@pytest.fixture(scope="module")
def mypy_says(files):
    # the configuration is src's own, strict; and so its cache is, which make type has filled
    command = [sys.executable, "-m", "mypy", "--no-error-summary", *map(str, files.glob("*.py"))]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode in (0, 1), done.stderr
    return done.stdout.splitlines()


@pytest.fixture(scope="module")
def pyright_says(files):
    program = shutil.which("basedpyright", path=str(Path(sys.executable).parent))
    if program is None:
        pytest.skip("basedpyright is not installed: pip install 'steppe[dev]'")
    (files / "pyrightconfig.json").write_text(
        json.dumps({"typeCheckingMode": "standard", "extraPaths": [str(ROOT / "src")]})
    )
    command = [program, "--outputjson", "--pythonpath", sys.executable, "-p", str(files)]
    done = subprocess.run(command, cwd=files, capture_output=True, text=True)
    said = json.loads(done.stdout)
    assert said["summary"]["filesAnalyzed"] == len(list(files.glob("*.py"))), done.stderr
    return [
        (Path(d["file"]).name, d["range"]["start"]["line"], d["severity"], d["message"])
        for d in said["generalDiagnostics"]
    ]


def test_mypy_accepts_the_blocks_of_readme_and_docs(mypy_says):
    wrong = [line for line in mypy_says if "page_" in line and ": error:" in line]
    assert not wrong, "\n".join(wrong)


def test_mypy_knows_what_a_method_is(mypy_says):
    face = [line for line in mypy_says if "face.py" in line]
    shown = [line.split('"')[1] for line in face if "Revealed type" in line]
    assert shown == ["steppe.method.Method", "steppe.method.Method", "str"], face
    assert len(face) == 3, face


def test_mypy_finds_misspelt_methods_and_options(mypy_says):
    said = "\n".join(line for line in mypy_says if "misuse.py" in line)
    for words in ('no attribute "saef"', 'argument "sparsty"', '"float | None"'):
        assert words in said, said


def test_pyright_accepts_the_blocks_of_readme_and_docs(pyright_says):
    wrong = [d for d in pyright_says if d[0].startswith("page_") and d[2] == "error"]
    assert not wrong, "\n".join(map(str, wrong))


def test_pyright_knows_what_a_method_is(pyright_says):
    face = [d for d in pyright_says if d[0] == "face.py"]
    assert [d[3].split('"')[-2] for d in face] == ["Method", "Method", "str"], face


def test_pyright_finds_misspelt_methods_and_options(pyright_says):
    lines = {d[1] for d in pyright_says if d[0] == "misuse.py" and d[2] == "error"}
    assert lines == {3, 4, 5}
