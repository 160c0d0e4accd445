from __future__ import annotations

from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
from matplotlib.figure import Figure

from steppe.report.document import Document
from steppe.report.figures.speed import _bar, _make_room
from steppe.report.html import write_report


def arm(writes: float, reads: float, memory: float) -> dict[str, Any]:
    batches = {
        batch: {"tokens_per_second": writes * int(batch), "prompt_tokens_per_second": reads}
        for batch in ("1", "4")
    }
    return {"resident_bytes": memory, "batches": batches}


def gain(ratio: float, claimed: bool) -> dict[str, Any]:
    return {"dense": "dense float32", "sparse": "sparse b", "ratio": ratio, "claimed": claimed}


def pruned(method: str = "magnitude", sparsity: float = 0.7, seed: int = 0) -> dict[str, Any]:
    """A record of steppe prune."""
    sparse = {"bytes": 100, "bytes_packed": 40, "perplexity": 20.0}
    return {
        "method": method,
        "sparsity_asked": sparsity,
        "seed": seed,
        "blocks": [],
        "sparse": sparse,
    }


def timed(**of: Any) -> dict[str, Any]:
    speeds = {"generation": gain(2.03, True), "prompt": gain(0.96, False)}
    arms = {"dense float32": arm(12.5, 400.0, 2e9), "sparse b": arm(25.0, 390.0, 5e8)}
    arms["dense b"] = arm(99.0, 999.0, 9e9)
    result = {"speed": {"1": speeds, "4": deepcopy(speeds)}, "arms": arms}
    return pruned(**of) | {"evaluations": {"speed": result}}


def drawn(records: list[dict[str, Any]]) -> str:
    document = Document.of(records, title="x")
    (figure,) = [f for f in document.drawn["gain"] if f.key == "speed"]
    return figure.svg


def test_writing_reading_and_memory_stand_beside_dense() -> None:
    svg = drawn([timed()])
    for said in (
        "writing, tokens per second, Magnitude 70 %\nbatch 1: 25, dense 12.5 (2.03x, surely)",
        "Magnitude 70 %\nbatch 4: 100, dense 50 (2.03x, surely)",
        "reading a prompt, tokens per second, Magnitude 70 %\nbatch 1: 390, dense 400 "
        "(0.96x, not surely)",
        "memory after loading, MB, Magnitude 70 %: 500, dense 2000 (25% of dense)",
    ):
        assert " ".join(said.split()) in " ".join(svg.split())
    assert ">999<" not in svg, "the slower dense arm is not drawn"


def test_seeds_are_averaged_and_one_that_is_not_sure_takes_the_word_away() -> None:
    second = timed(seed=1)
    own = second["evaluations"]["speed"]
    own["speed"]["1"]["generation"] |= {"ratio": 1.03, "claimed": False}
    own["arms"]["sparse b"]["batches"]["1"]["tokens_per_second"] = 15.0
    assert "batch 1: 20, dense 12.5 (1.53x, not surely)" in " ".join(
        drawn([timed(), second]).split()
    )


def test_of_many_runs_the_first_batch_is_drawn() -> None:
    records = [timed(method=m, sparsity=s) for m in ("wanda", "magnitude") for s in (0.5, 0.7, 0.9)]
    svg = drawn(records)
    assert "batch 1" in svg
    assert "batch 4" not in svg


def test_what_was_not_timed_names_the_command(tmp_path: Path) -> None:
    document = Document.of([pruned()], title="x")
    assert [f.key for f in document.drawn["gain"]] == ["cost"]
    (hint,) = document.hints["gain"]
    assert "steppe bench RUN" in hint
    write_report(tmp_path / "report.html", title="x", records=[pruned()])
    page = (tmp_path / "report.html").read_text()
    section = page[page.index('<section id="gain"') :]
    assert hint in section[: section.index("</section>")]


@pytest.mark.parametrize("record", [timed(), {"method": "safe", "sparsity_asked": 0.9}])
def test_nothing_is_asked_for_that_is_there_or_cannot_be(record: dict[str, Any]) -> None:
    assert not Document.of([record], title="x").hints


@pytest.mark.parametrize("broken", [{}, {"speed": {"1": {}}}, {"speed": {"1": None}, "arms": {}}])
def test_a_result_that_lacks_something_is_left_out(broken: dict[str, Any]) -> None:
    record = pruned() | {"evaluations": {"speed": broken}}
    keys = [f.key for f in Document.of([record], title="x").drawn["gain"]]
    assert keys == ["cost"]


def test_texts_behind_bars_end_inside_of_the_panel() -> None:
    figure = Figure(figsize=(5, 2), layout="constrained")
    ax = figure.subplots()
    ax.set_yticks([0, 1], ["a method 50 %", "b"])
    ax.set_xlim(0, 11.0)  # too short
    _bar(ax, 0.0, 10.0, "10.0 (1.19x, not surely)", "red", "a")
    _bar(ax, 1.0, 2.0, "2.0", "blue", "b")
    figure.draw_without_rendering()
    _make_room(ax)
    figure.draw_without_rendering()
    assert max(text.get_window_extent().x1 for text in ax.texts) <= ax.bbox.x1
