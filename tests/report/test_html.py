"""The page: whole, offline, labelled, atomic."""

from __future__ import annotations

import copy
import re
import shutil
import subprocess
from collections import Counter
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from steppe.core.errors import SteppeError
from steppe.report.html import Section, write_report
from steppe.report.level import Level
from steppe.report.table import Rows

FIGURES = (
    "accuracy",
    "corrupted",
    "corruption_difference",
    "relative_robustness",
    "heatmap",
    "noise",
    "attacked",
    "hessian_top",
    "sharpness",
    "landscape_line",
    "landscape_plane",
    "cost",
    "layers",
    "curves",
)
VOID = {"meta", "link", "br", "img", "input", "hr"}


class Page(HTMLParser):
    """Checks that tags nest; collects ids, labels, headings, references."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.feed(text)
        self.close()
        assert not self.open
        self.ids = Counter(a["id"] for _, a in self.tags if "id" in a)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [a for t, a in self.tags if t == tag]


def write(folder: Path, records: Any, **more: Any) -> str:
    path = folder / "out" / "report.html"
    write_report(path, title="Digits", records=records, **more)
    return path.read_text(encoding="utf-8")


COMMAND = "steppe demo --seeds 3 > a & b"


@pytest.fixture(scope="module")
def text(tmp_path_factory: pytest.TempPathFactory, study: Any) -> str:
    """The page of the unchanged records; drawing it takes seconds."""
    return write(tmp_path_factory.mktemp("page"), study(), commands=[COMMAND])


def test_the_page_parses_and_every_figure_is_there_and_labelled(text: str) -> None:
    page = Page(text)
    assert max(page.ids.values()) == 1
    for key in FIGURES:
        assert page.ids[key] == 1
    drawings = page.all("svg")
    assert len(drawings) == len(FIGURES)
    for svg in drawings:
        assert svg["role"] == "img"
        assert all(page.ids[name] == 1 for name in str(svg["aria-labelledby"]).split())
    assert len(page.all("main")) == len(page.all("h1")) == len(page.all("header")) == 1
    assert len(page.all("caption")) == len(page.all("table")) == 9
    assert all("scope" in th for th in page.all("th"))
    # every reference leads to something in the page
    for _, attrs in page.tags:
        for name in ("href", "xlink:href"):
            if name in attrs:
                assert page.ids[str(attrs[name]).removeprefix("#")] == 1, attrs


def test_nothing_is_fetched_and_nothing_runs(text: str) -> None:
    assert "http://" not in text
    assert "https://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    page = Page(text)
    names = {tag for tag, _ in page.tags}
    assert not names & {"script", "link", "iframe", "image", "object"}
    assert not [a for _, a in page.tags if any(k.startswith("on") for k in a)]
    sources = [str(a["src"]) for _, a in page.tags if "src" in a]
    assert sources
    assert all(source.startswith("data:image/png;base64,") for source in sources)
    assert all(image["alt"] for image in page.all("img"))


def test_text_is_text_and_follows_the_page_colour(text: str) -> None:
    assert re.search(r"<text[^>]*>accuracy, %</text>", text)
    assert "currentColor" in text
    assert "#010203" not in text
    assert "#000000" not in text
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text


def test_the_numbers_and_the_end_of_the_page(text: str, records: Any) -> None:
    for cells in Rows.from_records(records).only("accuracy", "hessian_top").texts()[1]:
        assert all(f">{cell}</" in text for cell in cells)
    assert "steppe demo --seeds 3 &gt; a &amp; b" in text
    assert "2.13.0" in text
    assert "Recipes (17)" in text


def test_the_same_records_give_the_same_page(tmp_path: Path, text: str, records: Any) -> None:
    assert write(tmp_path, records, commands=[COMMAND]) == text


@pytest.mark.parametrize(
    ("key", "gone"),
    [
        ("sparse", {"accuracy", "cost"}),
        ("noise", {"noise"}),
        ("layers", {"layers"}),
        ("curve", {"curves"}),
        (
            "evaluations.corruptions",
            {"corrupted", "heatmap", "corruption_difference", "relative_robustness"},
        ),
        ("evaluations.attacks", {"attacked"}),
        ("evaluations.landscape", {"landscape_line", "landscape_plane"}),
    ],
)
def test_a_missing_key_leaves_its_figures_out_and_says_so(
    tmp_path: Path, records: Any, key: str, gone: set[str]
) -> None:
    first, _, rest = key.partition(".")
    for record in records:
        del (record[first] if rest else record)[rest or first]
    text = write(tmp_path, records)
    page = Page(text)
    assert "left out, as no record" in text
    assert {name for name in FIGURES if page.ids[name] == 0} == gone


def test_flatness_is_read_from_either_place(tmp_path: Path, records: Any) -> None:
    for record in records:
        del record["flatness"]
    page = Page(write(tmp_path / "a", records))
    assert page.ids["hessian_top"] == page.ids["sharpness"] == 1
    for record in records:
        del record["evaluations"]["sharpness"]
    page = Page(write(tmp_path / "b", records))
    assert page.ids["hessian_top"] == page.ids["sharpness"] == 0


def test_wrong_labels_have_a_part_of_their_own(tmp_path: Path, text: str, records: Any) -> None:
    before = text
    more = copy.deepcopy([r for r in records if r["sparsity_asked"] == 0.95])
    for record in more:
        record["recipe"]["data"] = {"label_noise": {"rate": 0.5}}
        record["sparse"]["accuracy"] = 0.5
    text = write(tmp_path / "b", records + more)
    assert Page(text).ids["wrong_labels"] == 1
    assert "SAFE, 50 % wrong labels" in text
    # the others' means are as they were
    for figure in ("accuracy", "attacked"):
        own = rf'<figure id="{figure}".*?</figure>'
        found = [re.search(own, t, re.DOTALL) for t in (before, text)]
        assert found[0] is not None
        assert found[1] is not None
        assert found[0].group() == found[1].group()


def test_the_papers_numbers_stand_beside(text: str, records: Any) -> None:
    mean = Rows.from_records(records)
    (safe,) = [r for r in mean.rows if r.method == "safe" and r.level == Level("zeros", 0.9)]
    column = next(c for c in mean.columns if c.key == "corrupted_19 3")
    # table 3 of SAFE: 73.98 ± .09 at 90 %, severity 3
    assert f"<td>73.98 ± 0.09</td><td>{column.show(safe.cells['corrupted_19 3'], 3)}</td>" in text


@pytest.mark.parametrize(
    "odd",
    [
        [{}],
        [{"method": "safe"}],
        [{"method": "dense", "sparse": {"accuracy": 0.9}}],
        [{"method": "safe", "sparsity_asked": 0.5, "sparse": None, "layers": 3, "curve": {}}],
        [{"method": "safe", "sparsity_asked": 0.5, "noise": {"high": 1, "0.1": None}}],
        [{"method": "m", "sparsity_asked": 0.5, "sparse": {"perplexity": 7.5}, "seconds": 1}],
        [{"method": "m", "sparsity_asked": 0.5, "metrics": [{"epoch": 1, "train_loss": 0.0}]}],
        [{"method": "m", "sparsity_asked": 0.5, "flatness": {"hessian_top": -1.0}}],
        [{"method": "Dense", "curve": [{"loss": 1.0}]}, {"method": "m", "curve": [{"loss": 2}]}],
        [{"method": "m", "sparsity_asked": 1 / 3, "layers": [{"name": "a", "total": 0}, "b"]}],
    ],
)
def test_odd_records_do_not_break_it(tmp_path: Path, odd: Any) -> None:
    page = Page(write(tmp_path, odd))
    # whatever the records lack, the page has its table and loads nothing from outside
    assert page.all("table")
    assert not page.all("script")


def test_record_json_as_train_writes_it(tmp_path: Path, records: Any) -> None:
    for record in records:
        rows = record.pop("curve")
        record["metrics"] = [{"epoch": r["epoch"], "train_loss": r["loss"]} for r in rows]
        del record["flatness"], record["noise"]
    page = Page(write(tmp_path, records))
    assert page.ids["curves"] == page.ids["accuracy"] == page.ids["layers"] == 1


def test_what_comes_from_outside_is_escaped(tmp_path: Path, records: Any) -> None:
    evil = '"><script>alert(1)</script>'
    for record in records:
        record["method"] = record["label"] = evil
        record["layers"][0]["name"] = evil
        record["recipe"] = {"name": evil}
        record["versions"] = {evil: evil}
    text = write(tmp_path, records, commands=[evil], summary=[evil])
    assert "<script" not in text
    Page(text)


def test_mixed_runs_are_told(tmp_path: Path, records: Any) -> None:
    records[-1]["recipe"] = {**records[-1]["recipe"], "lr": 0.2}
    records[-1]["fallbacks"] = ["no GPU: ran on the CPU"]
    records.append(records[-1])
    text = write(tmp_path, records)
    assert "SAFE at 99 % zeros: seed 2 is there 2 times" in text
    assert "different recipes are averaged (lr: 0.1, 0.2)" in text
    assert "no GPU: ran on the CPU" in text


def test_many_layers_and_many_methods(tmp_path: Path, records: Any) -> None:
    for record in records:
        record["layers"] = [{"name": f"block.{i}", "total": 9, "zeros": 3} for i in range(150)]
    for i in range(12):
        records.append({**records[-1], "method": f"mine {i}"})
    page = Page(write(tmp_path, records))
    assert page.ids["layers"] == 1
    assert not page.all("image")


def test_own_sections_and_summary(tmp_path: Path) -> None:
    more = [Section("mine", "Mine & yours", "<p>body</p>")]
    text = write(tmp_path, [], summary=["One."], sections=more)
    assert '<h2 id="mine-heading">Mine &amp; yours</h2><p>body</p>' in text
    Page(text)


def test_no_half_file_when_rendering_fails(
    tmp_path: Path, records: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = write(tmp_path, records)
    path = tmp_path / "out" / "report.html"

    def broken(*_: object) -> None:
        raise RuntimeError("no ink")

    with monkeypatch.context() as patch:
        patch.setattr("steppe.report.figures.curves.Curves.draw", broken)
        with pytest.raises(RuntimeError, match="no ink"):
            write(tmp_path, records, commands=["another"])
    assert path.read_text(encoding="utf-8") == before
    assert [p.name for p in path.parent.iterdir()] == ["report.html"]
    records[0]["sparse"]["accuracy"] = 97.0
    with pytest.raises(SteppeError, match="fractions"):
        write(tmp_path, records)
    assert path.read_text(encoding="utf-8") == before


def test_in_a_real_browser(tmp_path: Path, records: Any) -> None:
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    if chromium is None:
        pytest.skip("no chromium here")
    write(tmp_path, records)
    done = subprocess.run(
        [
            *(chromium, "--headless", "--no-sandbox", "--disable-gpu", "--window-size=390,800"),
            *("--enable-logging=stderr", f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom"),
            (tmp_path / "out" / "report.html").as_uri(),
        ],
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert "CONSOLE" not in done.stderr  # a refused request or style would be told there
    for key in FIGURES:
        assert f'<figure id="{key}"' in done.stdout
