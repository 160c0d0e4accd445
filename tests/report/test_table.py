"""The numbers in the table are the mean and standard error of the records."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from steppe.core.errors import SteppeError
from steppe.report.level import Level
from steppe.report.table import Rows

Records = list[dict[str, Any]]


def row(rows: Rows, method: str, sparsity: float | None) -> Any:
    level = None if sparsity is None else Level("zeros", sparsity)
    return next(r for r in rows.rows if (r.method, r.level) == (method, level))


def test_mean_and_standard_error_are_those_of_the_records(records: Records) -> None:
    rows = Rows.from_records(records)
    for level in (0.9, 0.99):
        held = [r for r in records if r["method"] == "safe" and r["sparsity_asked"] == level]
        values = np.array([r["sparse"]["accuracy"] for r in held])
        cell = row(rows, "safe", level).cells["accuracy"]
        assert cell.mean == pytest.approx(values.mean())
        assert cell.error == pytest.approx(values.std(ddof=1) / np.sqrt(3))
        text = f"{100 * values.mean():.2f} ± {100 * values.std(ddof=1) / np.sqrt(3):.2f}"
        assert text in rows.markdown()
        assert text in rows.html("caption")


def test_dense_is_first_and_sparsity_ascends(records: Records) -> None:
    rows = Rows.from_records(records[::-1]).rows
    assert rows[0].method == "dense"
    levels = [r.level for r in rows[1:]]
    assert levels == sorted(levels)
    assert all(r.seeds == 3 for r in rows)


def test_dense_out_of_the_sparse_records_counts_once_per_seed() -> None:
    runs = [
        {"method": m, "seed": s, "sparsity_asked": 0.9, "dense": {"accuracy": 0.9 + s / 100}}
        for s in (0, 1)
        for m in ("gmp", "safe")
    ]
    cell = row(Rows.from_records(runs), "dense", None).cells["accuracy"]
    assert (cell.mean, cell.n) == (pytest.approx(0.905), 2)


def test_sizes_alone_are_no_dense_network() -> None:
    runs = [{"method": "gmp", "seed": 0, "sparsity_asked": 0.9, "dense": {"bytes": 4}}]
    assert [r.method for r in Rows.from_records(runs).rows] == ["gmp"]


def test_what_was_not_measured_is_a_dash_and_some_seeds_are_told() -> None:
    runs: Records = [
        {"method": "gmp", "seed": s, "sparsity_asked": 0.9, "sparse": {"accuracy": 0.5}}
        for s in range(3)
    ]
    runs[0]["flatness"] = {"hessian_top": 2.0}
    runs[1]["flatness"] = {"hessian_top": float("nan")}
    runs.append({"method": "safe", "seed": 0, "sparsity_asked": 0.9})
    text = Rows.from_records(runs).markdown()
    assert "2 (n = 1)" in text
    assert "| SAFE | 90 % | 1 | – | – |" in text
    assert "nan" not in text


def test_errors_have_two_significant_digits() -> None:
    values = (1234.0, 1300.0)
    runs = [
        {"method": "m", "seed": i, "sparsity_asked": 0.5, "sparse": {"loss": v, "nonzero": 7.0}}
        for i, v in enumerate(values)
    ]
    assert "| 1,267 ± 33 | 7 |" in Rows.from_records(runs).markdown()


def test_rich_shows_the_same(records: Records) -> None:
    out = io.StringIO()
    rows = Rows.from_records(records)
    Console(file=out, width=900).print(rows.rich("runs"))
    for cells in rows.texts()[1]:
        assert all(cell in out.getvalue() for cell in cells)


def test_percentages_are_refused(records: Records) -> None:
    records[4]["sparse"]["accuracy"] = 97.0
    with pytest.raises(SteppeError, match="fractions"):
        Rows.from_records(records)


def test_names_are_escaped() -> None:
    runs = [{"method": "<b>|x", "seed": 0, "sparsity_asked": 0.5, "sparse": {"loss": 1.0}}]
    rows = Rows.from_records(runs)
    assert "<b>" not in rows.html("<i>")
    assert "<i>" not in rows.html("<i>")
    assert "\\|x" in rows.markdown()
