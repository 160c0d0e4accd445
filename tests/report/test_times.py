"""Times stand beside the dense ones of the same turns, and those of two places never mix."""

from __future__ import annotations

from html import unescape
from pathlib import Path
from typing import Any

import pytest

from detector_records import detector
from steppe.core.speed import Speed
from steppe.report.column import Cell
from steppe.report.document import Document
from steppe.report.html import write_report
from steppe.report.in_short import InShort
from steppe.report.markdown import data, markdown
from steppe.report.table import Rows
from steppe.report.times import Place, places, share, speed_of, usual_place


def timing(dense: float, own: float, device: str = "EPYC", threads: int = 1) -> dict[str, Any]:
    speed = Speed.of([(dense, own)] * 25, "channels are removed")
    place = {"device": device, "threads": threads, "parameters": [1000, 600]}
    return place | {"measured": speed.record(), "predicted_ms": [8.0, 5.0]}


def run(method: str, *timings: dict[str, Any], seed: int = 0) -> dict[str, Any]:
    one = detector(method, 0.4, seed)
    one["speed"] = {"one": Speed.of([(9.0, 8.0)] * 25, "channels are removed").record()}
    return one | {"timings": list(timings)}


def cells(*runs: dict[str, Any]) -> dict[str, Cell]:
    rows = Rows.from_records(runs)
    (row,) = [r for r in rows.rows if r.method == "halp"]
    return {c.label: cell for c in rows.columns if (cell := row.cells[c.key]) is not None}


def test_two_places_are_two_columns_and_never_averaged() -> None:
    found = cells(
        run("halp", timing(10.0, 5.0), timing(4.0, 3.0, threads=8)),
        run("halp", timing(20.0, 10.0), timing(2.0, 1.0, device="Xeon"), seed=1),
    )
    shares = {label: (cell.mean, cell.n) for label, cell in found.items() if "Time, " in label}
    assert shares == {
        "Time, EPYC, 1 thread, of dense, %": (pytest.approx(50.0), 2),
        "Time, EPYC, 8 threads, of dense, %": (pytest.approx(75.0), 1),
        "Time, Xeon, 1 thread, of dense, %": (pytest.approx(50.0), 1),
    }


def test_no_column_averages_milliseconds_of_several_moments() -> None:
    slow, fast = run("halp", timing(100.0, 50.0)), run("halp", timing(1.0, 0.5), seed=1)
    for one, ms in ((slow, 100.0), (fast, 1.0)):
        one["dense"]["latency_ms"], one["sparse"]["latency_ms"] = ms, ms / 2
    assert not [label for label in cells(slow, fast) if "ms" in label and "Predicted" not in label]
    text = markdown([slow, fast], title="x")
    row = "| HALP, 40 % fewer multiply-adds | {} | {} | 2.00 (2.00 to 2.00) | yes | 5 | 1.60 |"
    assert row.format(0, 50) in text
    assert row.format(1, 0.5) in text
    assert "75" not in "".join(f"{cell.mean:g} " for cell in cells(slow, fast).values()).split()


def test_page_markdown_and_json_have_what_was_measured_and_predicted(tmp_path: Path) -> None:
    runs = [detector("dense", None), run("halp", timing(10.0, 5.0)), run("adasap")]
    write_report(tmp_path / "report.html", title="x", records=runs)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    caption = "Time of one input: EPYC, 1 thread, by steppe evaluate --on latency"
    ended = "Time of one input: when the runs ended, each on its own machine"
    for text in (page, markdown(runs, title="x")):
        assert caption in text
        assert ended in text
    (own,) = [row for row in data(runs, title="x")["times"] if row["measured"] == caption]
    assert own["Measured, ms"] == "5"
    assert own["Times as fast as dense"] == "2.00 (2.00 to 2.00)"
    assert own["Predicted, ms"] == "5"
    assert own["Predicted times as fast"] == "1.60"
    (end,) = [row for row in data(runs, title="x")["times"] if row["measured"] == ended]
    assert end["Run"].startswith("AdaSAP"), "HALP was timed by evaluate"


def test_in_short_compares_where_all_were_timed_and_says_where() -> None:
    runs = [run("halp", timing(10.0, 5.0)), run("adasap", timing(10.0, 8.0))]
    table = InShort.of(runs).table
    assert table is not None
    assert table.place == Place("EPYC", 1)
    assert "Time of one input, in turns with dense on EPYC, 1 thread." in table.caption
    assert {m: c and round(c.mean) for m, c in table.cells["time"].items()} == {
        "dense": 100,
        "halp": 50,
        "adasap": 80,
    }
    assert any("2.00 times as fast with HALP" in text for text in InShort.of(runs).sentences)
    elsewhere = [runs[0], run("adasap", timing(10.0, 8.0, device="Xeon"))]
    table = InShort.of(elsewhere).table
    assert table is not None
    assert table.place is None
    assert "when the run ended" in table.caption
    assert {round(c.mean) for c in table.cells["time"].values() if c} == {100, 89}


def test_a_run_and_what_was_removed_from_it_are_timed_once() -> None:
    runs = [run("halp"), run("halp", timing(10.0, 5.0)) | {"label": "HALP, removed"}]
    assert usual_place(runs) == Place("EPYC", 1)
    table = InShort.of(runs).table
    assert table is not None
    assert {m: c and round(c.mean) for m, c in table.cells["time"].items()} == {
        "dense": 100,
        "halp": None,
        "HALP, removed": 50,
    }
    assert usual_place([*runs, run("halp", seed=1)]) is None, "a seed that is timed nowhere"
    more = run("halp") | {"sparsity_asked": 0.6}
    assert usual_place([*runs, more]) is None, "nor is what was pruned further"


def test_a_claim_and_the_time_beside_it_are_of_the_same_turns() -> None:
    """Medians of each network contradict the ratio of the turns when the machine was busy."""
    pairs = [(5.8, 5.5)] * 14 + [(5.0, 9.0)] * 11
    one = run("halp") | {"speed": {"one": Speed.of(pairs, "channels are removed").record()}}
    one["dense"]["latency_ms"], one["sparse"]["latency_ms"] = 5.8, 7.7  # another moment
    speed = speed_of(one, None)
    assert speed is not None
    assert share(one) == pytest.approx(100 / speed.ratio)
    text = markdown([one], title="x")
    assert "5.8" not in text
    assert "7.7" not in text


def test_a_time_beside_a_network_that_is_not_the_dense_one_is_none() -> None:
    other = timing(10.0, 9.0) | {"parameters": [700, 600]}
    assert share(run("halp", other), Place("EPYC", 1)) is None
    assert places([run("halp", other)]) == []


def test_dense_runs_have_no_time_of_themselves() -> None:
    dense = detector("dense", None) | {"speed": {"one": Speed.of([(2.0, 1.0)] * 9).record()}}
    assert share(dense) is None
    rows = Rows.from_records([dense, run("halp")]).rows
    assert rows[0].cells["time"] is None
    assert usual_place([dense, run("halp", timing(2.0, 1.0))]) == Place("EPYC", 1)


def test_tables_of_layers_are_told_apart_by_what_they_say_of_dense_not_by_their_path() -> None:
    one, other = run("halp", timing(10.0, 5.0)), run("halp", timing(10.0, 5.0), seed=1)
    one["removed"]["cost"] = other["removed"]["cost"] = [8.0, 5.0]
    for path, record in (("a.json", one), ("b/c.json", other)):
        record["recipe"]["channels"] = {"target": "latency", "table": path}
    assert cells(one, other)["Predicted latency (dense 8), ms"].n == 2
    other["removed"]["cost"] = [16.0, 9.0]
    assert cells(one, other)["Predicted latency (dense 16), ms"].n == 1


def test_figures_have_a_panel_for_each_place() -> None:
    runs = [
        run("halp", timing(10.0, 5.0), timing(10.0, 7.0, threads=8)),
        run("adasap", timing(10.0, 8.0)),
    ]
    drawn = {f.key: f for f in Document.of(runs, title="x").drawn["gain"]}
    assert "Time, EPYC, 1 thread, of dense, %. HALP at 40 %" in drawn["cost"].svg
    assert "Time, EPYC, 8 threads, of dense, %. HALP at 40 %" in drawn["cost"].svg
    assert "steppe evaluate --on latency" in drawn["cost"].caption
    more = {f.key: f for f in Document.of([*runs, run("halp", seed=1)], title="x").drawn["gain"]}
    assert "when the runs ended" in more["cost"].caption, "as the table: not all were timed there"
    assert "Time at the run's end, of dense, %. HALP at 40 %" in unescape(more["cost"].svg)
    assert "EPYC" not in more["cost"].svg
    plain = {f.key: f for f in Document.of([run("halp")], title="x").drawn["gain"]}
    assert "when the runs ended" in plain["cost"].caption


def test_the_legend_names_what_any_panel_draws() -> None:
    """HALP has a time and no packed size; AdaSAP has a size and no time."""
    runs = [run("halp", timing(10.0, 5.0)), run("adasap")]
    runs[0]["sparse"].pop("bytes_packed", None)
    runs[1]["sparse"]["bytes_packed"] = 500
    del runs[1]["speed"], runs[1]["sparse"]["latency_ms"]
    (cost,) = [f for f in Document.of(runs, title="x").drawn["gain"] if f.key == "cost"]
    drawn = cost.svg[cost.svg.index("legend_1") :]
    assert "HALP" in drawn
    assert "AdaSAP" in drawn


def test_a_predicted_time_of_a_batch_says_so() -> None:
    """Beside measured times of one image."""
    one = run("halp", timing(10.0, 5.0))
    one["removed"] |= {"target": "ms", "cost": [0.85, 0.59]}
    one["recipe"]["channels"] = {"target": "latency", "batch": 64}
    found = cells(one)
    assert found["Predicted latency, 64 images (dense 0.85), ms"].mean == 0.59
    assert found["Predicted latency (dense 8), ms"].mean == 5.0, "what evaluate asks is of one"
    other = run("adasap", timing(10.0, 8.0)) | {"removed": one["removed"]}
    drawn = Document.of([detector("dense", None), other, one], title="x").drawn["gain"]
    svg = " ".join(f.svg for f in drawn if f.key == "image_pareto")
    assert "64 images by the table of layers, ms" in " ".join(svg.split())
