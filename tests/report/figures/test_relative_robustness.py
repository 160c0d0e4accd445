"""A curve of R_C over what is kept."""

from __future__ import annotations

from typing import Any

import pytest

from detector_records import detector
from steppe.report.document import Document
from steppe.report.figures.relative_robustness import relative
from steppe.report.svg import Figure


def drawn(records: list[dict[str, Any]]) -> Figure | None:
    figures = Document.of(records, title="x").drawn.get("robust", [])
    return next((f for f in figures if f.key == "relative_robustness"), None)


def runs() -> list[dict[str, Any]]:
    return [
        detector("dense", None, 0, 0.7, 0.6),
        detector("halp", 0.4, 0, 0.65, 0.6),
        detector("halp", 0.6, 0, 0.6, 0.3),
        detector("adasap", 0.4, 0, 0.6, 0.9),
    ]


def test_it_is_the_mean_of_all_that_was_run_over_clean() -> None:
    # two kinds keep 0.6 of the precision, one half of that
    assert relative(detector("halp", 0.4, left=0.6)) == pytest.approx(0.6 * (1 + 1 + 0.5) / 3)
    assert relative({"sparse": {"map50": 0.5}}) is None


def test_detectors_stand_at_the_multiply_adds_that_are_kept() -> None:
    figure = drawn(runs())
    assert figure is not None
    assert "dense: 0.500; HALP: 0.500 at 60 %, 0.250 at 40 %; AdaSAP: 0.750 at 60 %." in figure.svg
    assert "multiply-adds kept, %" in figure.svg
    assert "Mean over 3 kinds of corruption at severities 3, 5" in figure.caption


def test_where_they_were_not_counted_the_sparsity_stands(study: Any) -> None:
    figure = drawn(study(layers=2, seeds=1))
    assert figure is not None
    assert "zeros asked for, %" in figure.svg
    assert "multiply-adds" not in figure.svg


def test_networks_that_were_pruned_otherwise_are_left_out_with_a_word(study: Any) -> None:
    records = study(layers=2, seeds=1)
    other = next(r for r in records if r["method"] != "dense")
    recipe = {**other.get("recipe", {}), "channels": {"target": "latency"}}
    figure, before = drawn([*records, other | {"recipe": recipe}]), drawn(records)
    assert figure is not None
    assert before is not None
    assert figure.caption == before.caption + " Left out: 1 run pruned otherwise."


@pytest.mark.parametrize("records", [[], [detector("dense", None)]])
def test_without_a_pruned_network_there_is_none(records: list[dict[str, Any]]) -> None:
    assert drawn(records) is None
