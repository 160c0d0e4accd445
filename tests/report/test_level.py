"""Runs are called by what their budget says, and those of different budgets are never mixed."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from detector_records import detector
from steppe.report.document import Document
from steppe.report.html import write_report
from steppe.report.in_short import InShort
from steppe.report.level import Level, highest, level_of
from steppe.report.markdown import data, markdown
from steppe.report.table import Rows

TEXTS = {
    "latency": "40 % less latency",
    "flops": "40 % fewer multiply-adds",
    "parameters": "40 % fewer parameters",
    "channels": "40 % fewer channels",
}


def run(method: str, target: str, share: float = 0.4, seed: int = 0, **more: Any) -> dict[str, Any]:
    one = detector(method, share, seed, **more)
    one["recipe"]["channels"] = {"target": target}
    return one


@pytest.mark.parametrize("target", TEXTS)
def test_a_run_is_called_by_its_budget_wherever_it_is_shown(tmp_path: Path, target: str) -> None:
    runs = [detector("dense", None), run("halp", target), run("adasap", target, map50=0.6)]
    write_report(tmp_path / "report.html", title="x", records=runs)
    page = unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    shown = (page.replace("\xa0", " "), markdown(runs, title="x"), *InShort.of(runs).full)
    for text in shown[:2]:
        assert TEXTS[target] in text
        assert not re.search(r"% zeros|weights zero|zeros asked", text)
    assert all(TEXTS[target] in text for text in shown[2:4])
    (table,) = [t for t in [InShort.of(runs).table] if t is not None]
    assert TEXTS[target] in table.caption


def test_one_share_of_two_budgets_is_two_levels() -> None:
    runs = [run("halp", "latency"), run("halp", "flops", seed=1), run("adasap", "flops")]
    rows = Rows.from_records(runs).rows
    assert [(r.method, r.where, r.seeds) for r in rows] == [
        ("halp", TEXTS["flops"], 1),
        ("adasap", TEXTS["flops"], 1),
        ("halp", TEXTS["latency"], 1),
    ]
    assert highest(runs) == Level("fewer multiply-adds", 0.4)
    counted = {row["counted"] for row in data(runs, title="x")["rows"]}
    assert counted == {"less latency", "fewer multiply-adds"}


def test_a_run_and_its_copy_without_channels_are_one_method_at_a_level() -> None:
    zeros = [{"method": m, "sparsity_asked": 0.3} for m in ("safe", "gmp")]
    channels = [run("halp", "flops"), run("halp", "flops") | {"label": "HALP, removed"}]
    assert highest([*channels, *zeros]) == Level("zeros", 0.3)


def test_sentences_and_marks_compare_within_a_budget() -> None:
    runs = [detector("dense", None), run("halp", "latency", map50=0.5), run("adasap", "flops")]
    short = InShort.of(runs)
    assert short.table is not None
    (first, second) = [text for text in short.full if "level with dense" in text]
    assert first.startswith(f"At {TEXTS['flops']}")
    assert "HALP" not in first
    assert second.startswith(f"At {TEXTS['latency']}")
    assert "AdaSAP" not in second
    assert not any("leads" in text or "is first" in text for text in short.full)
    assert len(short.table.compared) == 1
    assert not any(won for row in short.table.rows for won in row.wins)
    names = {row.display for row in short.table.rows}
    assert any(text.startswith("Pruned otherwise and not compared: ") for text in short.sentences)
    assert {f"HALP, {TEXTS['latency']}", f"AdaSAP, {TEXTS['flops']}"} & names


def test_figures_join_and_name_no_two_budgets_as_one() -> None:
    runs = [
        detector("dense", None),
        *(run("halp", "latency", share) for share in (0.4, 0.6)),
        *(run("halp", "flops", share) for share in (0.4, 0.6)),
    ]
    document = Document.of(runs, title="x")
    figures = {f.key: f for own in document.drawn.values() for f in own}
    svg = figures["accuracy"].svg
    assert "HALP at 40 % less latency: 70.00" in svg
    assert "HALP at 40 % fewer multiply-adds: 70.00" in svg
    assert re.search(r"<text[^>]*>asked for \(evenly", svg)
    assert len(re.findall(r"<text[^>]*>HALP</text>", svg)) == 1, "one name in the legend"
    assert "40 %, 60 % less latency; 40 %, 60 % fewer multiply-adds" in document.about
    assert "takes whole channels out of a network" in document.about


def test_a_language_model_with_smaller_shapes_has_fewer_parameters_not_zeros() -> None:
    slim = {"method": "slim", "sparsity_asked": 0.25, "removed": {"units": {}}}
    recovered = {"method": "recover", "sparsity_asked": 0.25, "pruning": slim}
    levels = [level_of(slim), level_of(recovered)]
    # 25 % of those in the blocks: of all parameters, which a column has, fewer are gone
    said = "25 % fewer parameters in the blocks"
    assert [level.text for level in levels if level] == [said] * 2
    assert level_of({"method": "dense", "sparsity_asked": 0.0}) is None


def test_layers_without_their_channels_have_no_zeros_but_weights_that_are_left() -> None:
    layers = [{"name": "conv1", "total": 100, "zeros": 64}]
    channels = run("halp", "flops") | {"layers": layers}
    zeros = {"method": "gmp", "sparsity_asked": 0.4, "layers": layers}
    (figure,) = [f for f in Document.of([channels], title="x").drawn["inside"] if f.key == "layers"]
    assert figure.title == "Weights left per layer at 40 % fewer multiply-adds"
    assert "HALP: conv1 36.0 %" in figure.svg
    (figure,) = [f for f in Document.of([zeros], title="x").drawn["inside"] if f.key == "layers"]
    assert figure.title == "Zeros per layer at 40 % zeros"
    assert "GMP: conv1 64.0 %" in figure.svg
