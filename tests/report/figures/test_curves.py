"""A curve needs epochs: one alone is a point, and points alone are no figure."""

from __future__ import annotations

import re
from typing import Any

from steppe.report.document import Document
from steppe.report.svg import Figure


def trained(method: str, epochs: int) -> dict[str, Any]:
    rows = [{"epoch": e + 1, "train_loss": 1.0 / (e + 1)} for e in range(epochs)]
    level = None if method == "dense" else 0.5
    return {"method": method, "sparsity_asked": level, "metrics": rows}


def drawn(*runs: dict[str, Any]) -> Figure | None:
    figures = Document.of(runs, title="x").drawn.get("inside", [])
    return next((f for f in figures if f.key == "curves"), None)


def test_points_alone_are_no_figure() -> None:
    assert drawn(trained("dense", 1), trained("gmp", 1)) is None
    said = Document.of([trained("dense", 1), trained("gmp", 1)], title="x").remarks
    assert any("Training curves: left out" in text and "several epochs" in text for text in said)


def test_a_point_beside_a_curve_is_seen() -> None:
    figure = drawn(trained("dense", 1), trained("gmp", 3))
    assert figure is not None
    circles = r'<path id="curves-m\w+" d="[^"]*C[^"]*" style="stroke: currentColor'
    assert re.search(circles, figure.svg), "dense has no marker along a curve"
    longer = drawn(trained("dense", 2), trained("gmp", 3))
    assert longer is not None
    assert not re.search(circles, longer.svg)
