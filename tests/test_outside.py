"""What docs/extending.md shows, installed as a package of somebody else, does what ours does."""

import os
import re
import subprocess
import sys
import textwrap
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text()
FENCE = re.compile(r"^```(\w+)\n(.*?)^```", re.MULTILINE | re.DOTALL)
FILE = re.compile(r"# (\w+)\.py\n")


def entry_points():
    """Group -> name -> module, as the page's toml says."""
    (toml,) = [body for kind, body in FENCE.findall(PAGE) if kind == "toml"]
    return tomllib.loads(toml)["project"]["entry-points"]


@pytest.fixture(scope="module")
def python(tmp_path_factory):
    """Runs Python with the page's files on its path, laid out as pip would install them."""
    site = tmp_path_factory.mktemp("site")
    for kind, body in FENCE.findall(PAGE):
        if kind == "python" and (name := FILE.match(body)):
            (site / f"{name[1]}.py").write_text(body)
    info = site / "strangers_parts-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: strangers-parts\nVersion: 1.0\n")
    lines = []
    for group, points in entry_points().items():
        lines += [f"[{group}]", *(f"{name} = {module}" for name, module in points.items())]
    (info / "entry_points.txt").write_text("\n".join(lines))
    path = os.pathsep.join([str(site), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTEST_")}

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            env=environment | {"PYTHONPATH": path},
            cwd=ROOT,
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
        return done.stdout

    run.site = site
    return run


def test_every_file_of_the_page_is_an_entry_point(python):
    modules = {module for points in entry_points().values() for module in points.values()}
    assert modules == {path.stem for path in python.site.glob("*.py")}
    assert {"steppe.score", "steppe.coupling", "steppe.methods"} <= entry_points().keys()


def test_they_are_found_by_name_and_come_back_from_yaml(python):
    code = """
    import steppe
    parts = {points!r}
    made = [steppe.methods.make(name, sparsity=0.5) for name in parts.pop("steppe.methods")]
    for group, names in parts.items():
        axis = group.removeprefix("steppe.")
        for name in names:
            made.append(steppe.methods.gmp(sparsity=0.5).replace(**{{axis: name}}))
            assert getattr(made[-1], axis).name == name
    for method in made:
        assert steppe.Method.from_yaml(method.to_yaml()) == method
    """
    python("-c", textwrap.dedent(code).format(points=entry_points()))


def test_they_fulfil_the_contracts(python, tmp_path):
    """The whole of tests/contract, since new parts change which combinations are tried."""
    options = ["-vv", "-p", "no:cacheprovider", "-p", "no:xdist", f"--basetemp={tmp_path / 'base'}"]
    said = python("-m", "pytest", "tests/contract", *options)
    assert " passed" in said
    parts = {g: points for g, points in entry_points().items() if g != "steppe.methods"}
    for name in (name for points in parts.values() for name in points):
        assert re.search(rf"\[.*{name}.*\] PASSED", said), f"{name} was not among the parts"
