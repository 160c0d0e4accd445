"""What README and docs say is true: blocks run, commands exist, links lead somewhere."""

import ast
import importlib
import importlib.util
import re
import tomllib
from pathlib import Path
from types import SimpleNamespace

import pytest

import steppe
from steppe.core.protocols import AXES
from steppe.core.statistic import STATISTICS
from steppe.methods import METHODS

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]
FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)


def page_id(path):
    return str(path.relative_to(ROOT))


def blocks(path, language):
    return [body for kind, body in FENCE.findall(path.read_text()) if kind == language]


@pytest.fixture
def registries(monkeypatch):
    """What a page registers is forgotten after it."""
    for registry in (METHODS, STATISTICS, *(axis.registry for axis in AXES)):
        registry.load()
        monkeypatch.setattr(registry, "_items", dict(registry._items))


@pytest.mark.parametrize(
    "path", [p for p in PAGES if blocks(p, "python")], ids=lambda p: page_id(p)
)
def test_python_blocks_run(path, registries, tmp_path, monkeypatch):
    """All blocks of a page, in order, in one namespace."""
    monkeypatch.chdir(tmp_path)
    space = {"__name__": "docs"}
    for number, body in enumerate(blocks(path, "python"), 1):
        exec(compile(body, f"{page_id(path)}, python block {number}", "exec"), space)
    assert space.keys() - {"__name__", "__builtins__"}, f"{page_id(path)} defines nothing"


def slug(heading):
    """The anchor that a heading gets."""
    kept = re.sub(r"[^\w\- ]", "", heading.strip().lower())
    return kept.replace(" ", "-")


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_links_lead_somewhere(path):
    text = FENCE.sub("", path.read_text())
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if re.match(r"[a-z]+:", target):
            continue
        name, _, anchor = target.partition("#")
        file = (path.parent / name).resolve() if name else path
        assert file.exists(), f"{page_id(path)} links to {target}, which is not there"
        if anchor:
            headings = re.findall(r"^#+ (.*)$", file.read_text(), re.MULTILINE)
            assert anchor in map(slug, headings), f"{page_id(path)}: no heading for #{anchor}"


GENERATED = [p for p in PAGES if "<!-- generate:" in p.read_text()]


def built(path):
    """A page as the site shows it, before it is made HTML."""
    made = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs" / "hooks.py")
    hooks = importlib.util.module_from_spec(made)
    made.loader.exec_module(hooks)
    page = SimpleNamespace(file=SimpleNamespace(src_uri=str(path.relative_to(ROOT / "docs"))))
    config = SimpleNamespace(repo_url="https://example.org")
    return hooks.on_page_markdown(path.read_text(), page=page, config=config)


@pytest.mark.parametrize("path", GENERATED, ids=page_id)
def test_a_page_that_is_generated_says_in_a_clone_what_fills_it(path):
    assert "`make docs`" in path.read_text().partition("<!-- generate:")[0]
    assert "In a clone" not in built(path)
    assert len(built(path)) > len(path.read_text()), "the site has what a clone has not"


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_a_heading_has_a_blank_line_before_it(path):
    text = re.sub(r"^```.*?^```", "```", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    assert not re.findall(r"(?<=[^\n]\n)#+ .*", text)


def command_line():
    """The commands as click sees them."""
    return importlib.import_module("steppe.cli.main").commands().commands


def shell_lines(path):
    """Commands of the blocks of code, one each: lines, and what follows ; & or do in them."""
    for body in (*blocks(path, "sh"), *blocks(path, "bash"), *blocks(path, "")):
        for line in body.replace("\\\n", " ").splitlines():
            for command in re.split(r"[;&]|\bdo\s", line.split("#")[0]):
                yield re.sub(r"^\$?\s*(?:[A-Z_]+=\S+ )*", "", command)


def shown_commands(path):
    """(verb, rest of the line) for every command that starts with steppe."""
    for line in shell_lines(path):
        match = re.match(r"(?:\.venv/bin/)?steppe ([a-z]+)(.*)", line)
        if match:
            yield match[1], match[2]


def shown_scripts(path):
    """(script, rest of the line) for every command that starts a script of benchmarks/."""
    inline = re.findall(r"`(python benchmarks/[^`]+)`", path.read_text())
    for line in [*shell_lines(path), *inline]:
        match = re.match(r"python (benchmarks/\S+\.py)(.*)", line)
        if match:
            yield match[1], match[2]


def options_of(script):
    """What a script names in its calls of add_argument."""
    calls = (n for n in ast.walk(ast.parse(script.read_text())) if isinstance(n, ast.Call))
    named = [c.args for c in calls if ast.unparse(c.func).endswith(".add_argument")]
    options = {ast.literal_eval(argument) for arguments in named for argument in arguments}
    return options | ({"--record"} if "add_record(parser" in script.read_text() else set())


@pytest.mark.parametrize("path", [p for p in PAGES if list(shown_scripts(p))], ids=page_id)
def test_scripts_of_benchmarks_and_their_options_exist(path):
    for name, rest in shown_scripts(path):
        script = ROOT / name
        assert script.is_file(), f"{page_id(path)} shows {name}, which is not there"
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest):
            assert option in options_of(script), f"{page_id(path)}: {name} has no {option}"


def files_named(text):
    """Places in src/ and benchmarks/, also in braces and behind a variable (R=src/...)."""
    for name, folder in re.findall(r"^([A-Z])=(\S+)$", text, re.MULTILINE):
        text = text.replace(f"${name}/", f"{folder}/")
    for place in re.findall(r"(?<![\w/])(?:src|benchmarks)/[\w/.{},-]+", text):
        first, _, rest = place.rstrip(".,").partition("{")
        inner, _, last = rest.partition("}")
        yield from (f"{first}{one}{last}" for one in inner.split(","))


@pytest.mark.parametrize("path", PAGES, ids=page_id)
def test_files_of_the_repository_that_are_named_exist(path):
    for name in files_named(path.read_text()):
        assert (ROOT / name).exists(), f"{page_id(path)} names {name}, which is not there"


@pytest.mark.parametrize(
    "path", [p for p in PAGES if list(shown_commands(p))], ids=lambda p: page_id(p)
)
def test_commands_and_their_options_exist(path):
    known = command_line()
    for verb, rest in shown_commands(path):
        assert verb in known, f"{page_id(path)} shows steppe {verb}; there is {sorted(known)}"
        options = {o for p in known[verb].params for o in (*p.opts, *p.secondary_opts)}
        for option in re.findall(r"(?<!\S)--[a-z][a-z0-9-]*", rest):
            assert option in options | {"--help"}, f"{page_id(path)}: steppe {verb} has no {option}"


def test_every_method_and_part_is_on_its_page():
    page = (ROOT / "docs" / "methods.md").read_text()
    concepts = (ROOT / "docs" / "concepts.md").read_text()
    for name in METHODS:
        assert f"| `{name}` |" in page, f"method {name} is in no table of docs/methods.md"
        assert f"\n## {name}\n" in page, f"method {name} has no section in docs/methods.md"
    for axis in AXES:
        for name in axis.registry:
            assert f"`{name}`" in concepts, (
                f"{axis.registry.kind} {name} is not in docs/concepts.md"
            )


def test_the_readme_stays_short():
    assert len((ROOT / "README.md").read_text().splitlines()) <= 150


def exists(dotted):
    """Whether a name such as steppe.engine.batchnorm.reestimate can be imported."""
    thing = importlib.import_module("steppe")
    path = "steppe"
    for part in dotted.split(".")[1:]:
        path += f".{part}"
        if not hasattr(thing, part):
            try:
                importlib.import_module(path)
            except ImportError:
                return False
        thing = getattr(thing, part)
    return True


def test_names_in_the_text_exist():
    for path in PAGES:
        if path.name == "CHANGELOG.md":  # it names what is no more
            continue
        for dotted in set(re.findall(r"\bsteppe(?:\.[a-zA-Z_]\w*)+", path.read_text())):
            assert exists(dotted), f"{page_id(path)} names {dotted}, which is not there"


def project():
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]


def test_extras_that_are_named_exist_and_are_explained():
    extras = project()["optional-dependencies"]
    start = (ROOT / "docs" / "start.md").read_text()
    for path in [*PAGES, *(ROOT / "src").rglob("*.py")]:
        for named in re.findall(r"steppe\[([a-z,-]+)\]", path.read_text()):
            assert set(named.split(",")) <= set(extras), f"{page_id(path)}: no extra {named}"
    for extra in extras.keys() - {"dev", "docs", "bench"}:
        assert f"'steppe[{extra}]'" in start, f"docs/start.md does not say what {extra} is for"


def test_the_version_is_the_same_everywhere():
    version = project()["version"]
    assert steppe.__version__ == version
    assert f"\nversion: {version}\n" in (ROOT / "CITATION.cff").read_text()
    assert f"\n## [{version}]" in (ROOT / "CHANGELOG.md").read_text()


def test_make_targets_that_are_named_exist():
    targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
    for path in PAGES:
        for name in re.findall(r"`make ([a-z-]+)", path.read_text()):
            assert name in targets, f"{page_id(path)}: no make {name}"
