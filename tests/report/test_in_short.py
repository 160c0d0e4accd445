"""At most five sentences, one table with a mark where a method wins, and nothing lost."""

from __future__ import annotations

import io
import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from steppe.core.speed import Speed
from steppe.report.html import write_report
from steppe.report.in_short import MOST, InShort
from steppe.report.markdown import data, markdown
from steppe.report.notes import notes
from steppe.report.record import robust_accuracy
from steppe.report.short_table import MARK, ShortTable
from steppe.report.table import Rows
from steppe.report.verdicts import verdicts


def timed(ratio: float, reason: str = "channels are removed", turns: int = 25) -> dict[str, Any]:
    """As a record holds it: ``ratio`` times as fast in every turn."""
    return {"one": Speed.of([(2.0, 2.0 / ratio)] * turns, reason).record()}


def run(method: str, level: float = 0.9, seed: int = 0, **sparse: Any) -> dict[str, Any]:
    dense = {"accuracy": 0.95, "bytes": 4000, "latency_ms": 2.0, "parameters": 1000}
    return {
        "method": method,
        "seed": seed,
        "sparsity_asked": level,
        "sparsity_reached": level,
        "dense": {k: v for k, v in dense.items() if k in sparse or k == "parameters"},
        "sparse": sparse,
    }


def table_of(*runs: dict[str, Any]) -> ShortTable:
    table = InShort.of(runs).table
    assert table is not None
    return table


def marks(*runs: dict[str, Any]) -> dict[str, list[str]]:
    """Method -> the headings of the columns that it wins."""
    table = table_of(*runs)
    return {
        row.display: [h for h, won in zip(table.head[1:], row.wins, strict=True) if won]
        for row in table.rows
        if any(row.wins)
    }


def first(*runs: dict[str, Any]) -> str:
    return InShort.of(runs).sentences[0]


def test_the_best_is_marked_and_those_level_with_it() -> None:
    runs = [run("safe", accuracy=0.93), run("gmp", accuracy=0.8), run("admm", accuracy=0.7)]
    assert marks(*runs) == {"SAFE": ["Accuracy, %"]}
    runs[1]["sparse"]["accuracy"] = 0.926
    assert marks(*runs) == {"SAFE": ["Accuracy, %"], "GMP": ["Accuracy, %"]}


def test_nobody_wins_alone_or_where_all_are_level() -> None:
    assert marks(run("safe", accuracy=0.93)) == {}
    assert marks(run("safe", accuracy=0.93), run("gmp", accuracy=0.931)) == {}


def test_seeds_that_differ_more_than_methods_do_make_them_level() -> None:
    runs = [run("safe", seed=s, accuracy=a) for s, a in enumerate((0.80, 0.94))]
    assert marks(*runs, *(run("gmp", seed=s, accuracy=0.90) for s in range(2))) == {}


def test_less_is_better_for_perplexity_and_loss() -> None:
    runs = [run("wanda", perplexity=7.0, loss=2.1), run("alps", perplexity=6.5, loss=2.2)]
    assert marks(*runs) == {"ALPS": ["Perplexity"]}, "one measure of quality in the table"
    assert marks(run("a", loss=2.0), run("b", loss=1.0)) == {"b": ["Loss"]}


def test_a_size_or_time_wins_only_if_it_is_better_than_dense() -> None:
    runs = [run("a", latency_ms=2.5), run("b", latency_ms=1.95)]
    assert marks(*runs) == {}, "5 % is within what timings differ by"
    runs[1]["sparse"]["latency_ms"] = 1.0
    assert marks(*runs) == {}, "not timed in turns"
    runs[1]["speed"] = timed(2.0)
    assert marks(*runs) == {"b": ["Time, of dense, %"]}
    runs[1]["speed"] = timed(2.0, reason="")
    assert marks(*runs) == {}, "no reason to be faster"
    runs = [run("a", bytes=4000), run("b", bytes=4000, bytes_packed=500)]
    assert marks(*runs) == {"b": ["Size, kB"]}


def test_no_time_of_a_run_wins_that_was_taken_once() -> None:
    once = [run(m, accuracy=0.9) | {"seconds": s} for m, s in (("a", 10.0), ("b", 20.0))]
    assert "The run took, s" in table_of(*once).head
    assert marks(*once) == {}
    again = [r | {"seed": 1, "seconds": r["seconds"] + 0.5} for r in once]
    assert marks(*once, *again) == {"a": ["The run took, s"]}


def test_rows_that_the_table_has_no_room_for_are_counted() -> None:
    runs = [run("a", level=level, accuracy=0.9) for level in (0.5, 0.7)]
    assert "1 more row, in the report." in table_of(*runs).caption
    assert "more row" not in table_of(runs[0]).caption


def test_removed_parameters_replace_zeros() -> None:
    table = table_of(run("a", parameters=400), run("b", parameters=500))
    assert table.head == ("Method", "Parameters removed, %")
    assert [(r.texts, r.wins) for r in table.rows] == [
        (("60.00",), (True,)),
        (("50.00",), (False,)),
    ]


def test_only_methods_of_one_sparsity_are_compared() -> None:
    runs = [run("safe", 0.5, accuracy=0.94), run("gmp", accuracy=0.8), run("iht", accuracy=0.9)]
    table = table_of(*runs)
    assert [r.display for r in table.rows] == ["dense", "SAFE, 50 % zeros", "GMP", "IHT"]
    assert marks(*runs) == {"IHT": ["Accuracy, %"]}
    assert "Methods that were not pruned so" in table.caption
    assert "Methods that were not pruned so" not in table_of(*runs[1:]).caption


def test_large_networks_are_in_megabytes() -> None:
    table = table_of(run("a", bytes=13_476_000_000))
    assert table.head[-1] == "Size, MB"
    assert table.rows[-1].texts[-1] == "13,476.0"


@pytest.mark.parametrize(
    ("accuracies", "sentence"),
    [
        (
            (0.949, 0.8),
            "At 90 % zeros SAFE (94.90 %) is as accurate as the dense network (95.00 %).",
        ),
        (
            (0.949, 0.95),
            "At 90 % zeros GMP (95.00 %) and SAFE (94.90 %) are as accurate as the dense network (",
        ),
        (
            (0.949, 0.97),
            "At 90 % zeros GMP (97.00 %) is more accurate than the dense network (95.00 %); "
            "SAFE (94.90 %) is as accurate as it.",
        ),
        (
            (0.97, 0.5),
            "At 90 % zeros SAFE (97.00 %) is more accurate than the dense network (95.00",
        ),
        (
            (0.8, 0.9),
            "At 90 % zeros every method is below the dense network (95.00 %); GMP (90.00 %) comes",
        ),
        (
            (0.9, 0.9),
            "At 90 % zeros every method is below the dense network (95.00 %); SAFE (90.00 %) and",
        ),
    ],
)
def test_the_first_sentence_is_about_quality(accuracies: Any, sentence: str) -> None:
    pairs = zip(("safe", "gmp"), accuracies, strict=True)
    assert first(*(run(m, accuracy=a) for m, a in pairs)).startswith(sentence)


def test_the_first_sentence_of_other_runs() -> None:
    assert first(run("safe", accuracy=0.8)) == (
        "At 90 % zeros SAFE is below the dense network: 80.00 % against 95.00 %."
    )
    assert first(run("a", perplexity=7.0)) == "At 90 % zeros a reaches: perplexity 7.00."
    assert first(run("a", perplexity=7.0), run("b", perplexity=9.0)) == (
        "At 90 % zeros a is the best (perplexity): perplexity 7.00."
    )
    assert "No record holds an accuracy" in first(run("a", bytes=1))
    assert first({"method": "dense"}) == "No sparse run among the records: nothing to compare."


def test_how_far_the_accuracy_holds() -> None:
    runs = [run("safe", level, accuracy=a) for level, a in ((0.5, 0.95), (0.9, 0.7))]
    assert "Up to 50 % zeros SAFE keeps the dense accuracy." in InShort.of(runs).sentences
    runs[0]["sparse"]["accuracy"] = 0.9
    text = "Already at 50 % zeros no method is as accurate as dense."
    assert text in InShort.of(runs).sentences


def test_what_was_gained_or_that_nothing_was() -> None:
    one = run("a", bytes=4000, bytes_packed=500, latency_ms=1.0) | {"speed": timed(2.0)}
    (_, gained, *_) = InShort.of([one]).sentences
    assert gained == (
        "Stored without zeros a is 8.0 times smaller than dense; one input is 2.00 times as fast "
        "with a (at least 2.00)."
    )
    for speed, said in (
        (timed(16.6, reason=""), "none is faster here, as zeros in dense tensors are multiplied"),
        (timed(1.04), "none is surely faster here."),
        (timed(2.0, turns=7), "none is surely faster here."),
        (None, "whether one is faster is not known, as they were not timed in paired turns."),
    ):
        (_, gained, *_) = InShort.of(
            [run("a", bytes=4000, latency_ms=0.1) | {"speed": speed}]
        ).sentences
        assert gained.startswith(f"No network is smaller than dense; {said}")


def odd_ones() -> list[list[dict[str, Any]]]:
    many = [run(f"mine {i}", accuracy=0.9) for i in range(12)]
    noisy = run("safe", accuracy=0.5) | {"recipe": {"data": {"label_noise": {"rate": 0.5}}}}
    twice = [run("safe", accuracy=0.9, latency_ms=1.0, bytes=1)] * 2
    return [[], [{}], [{"method": "safe"}], many, [noisy], twice, [run("a", 1 / 3, loss=-1.0)]]


@pytest.mark.parametrize("odd", odd_ones())
def test_at_most_five_sentences(odd: Any) -> None:
    assert 1 <= len(InShort.of(odd).sentences) <= MOST == 5


def test_at_most_five_sentences_of_much(records: Any) -> None:
    records[-1]["fallbacks"] = ["no GPU: ran on the CPU"]
    short = InShort.of(records)
    assert len(short.sentences) == MOST
    assert all(sentence.count(". ") == 0 for sentence in short.sentences), "each is one sentence"
    assert max(map(len, short.sentences)) < 180
    assert "1 remark" in short.sentences[-1]
    assert len(short.full) > 10


def test_many_names_are_few_and_a_count() -> None:
    assert "mine 0 (90.00 %), mine 1 (90.00 %) and 10 others" in first(*odd_ones()[3])


def test_no_number_is_lost(tmp_path: Path, records: Any) -> None:
    full = [*verdicts(records), *notes(records)]
    short = InShort.of(records)
    assert short.full == full
    assert short.table is not None
    shown = [text for row in short.table.rows for text in row.texts]
    write_report(tmp_path / "report.html", title="x", records=records)
    page = unescape((tmp_path / "report.html").read_text(encoding="utf-8"))
    written = markdown(records, title="x")
    held = data(records, title="x")
    assert held["in_full"] == full
    assert held["summary"] == short.sentences
    for text in (*full, *short.sentences, *shown):
        assert text in page
        assert text in written
    numbers = {n for text in short.sentences for n in re.findall(r"\d+\.\d\d", text)}
    assert numbers
    assert all(any(n in text for text in (*full, *shown)) for n in numbers), "none is made up"


def test_the_sentences_fold_away_below_the_table(tmp_path: Path, records: Any) -> None:
    write_report(tmp_path / "report.html", title="x", records=records)
    page = (tmp_path / "report.html").read_text(encoding="utf-8")
    (part,) = re.findall(r'<section id="summary".*?</section>', page, re.DOTALL)
    assert part.index("<ul>") < part.index("<table>") < part.index('<details class="full">')
    assert part.count('role="img" aria-label="best"') == part.count('<td class="wins">') > 0
    assert len(re.findall(r"<li>", part[: part.index("<table>")])) <= MOST


def test_markdown_and_terminal_have_the_marks_and_the_sentences_below(records: Any) -> None:
    table = InShort.of(records).table
    assert table is not None
    wins = sum(sum(row.wins) for row in table.rows)
    assert wins > 0
    written = markdown(records, title="x")
    assert written.count(f"{MARK} ") == wins + table.caption.count(MARK)
    assert written.index("| Method |") < written.index("## In full")
    out = io.StringIO()
    Console(file=out, width=200).print(table.rich())
    assert out.getvalue().count(f"{MARK} ") == wins + table.caption.count(MARK)
    best = [row["method"] for row in data(records, title="x")["in_short"] if row["best"]]
    assert best == [row.method for row in table.rows if any(row.wins)]


def test_names_are_escaped() -> None:
    table = table_of(run("<b>|x", loss=1.0))
    assert "<b>" not in table.html()
    assert "\\|x" in table.markdown()


def test_an_accuracy_under_attack_that_cannot_be_trusted_is_left_out_and_said(study: Any) -> None:
    records = study(layers=2, seeds=1)
    masked = next(r for r in records if r["method"] == "gmp")
    attacks = masked["evaluations"]["attacks"]
    attacks["probes"] = {
        norm: {eps: {"doubt": "its gradients vanish"} for eps in shares}
        for norm, shares in attacks["accuracy"].items()
    }
    doubted = attacks["accuracy"]["l2"]["0.25"]
    told = " ".join(InShort.of(records).full)
    assert f"({doubted:.2%}), cannot be trusted and is left out: its gradients vanish." in told
    assert robust_accuracy(masked, "l2", "0.25") is None
    (row,) = Rows.from_records([masked]).rows
    assert row.cells["l2 0.25"] is None
    del attacks["probes"]
    assert robust_accuracy(masked, "l2", "0.25") == doubted
    assert "cannot be trusted" not in " ".join(InShort.of(records).full)


@pytest.mark.parametrize("key", ["perplexity", "loss"])
def test_of_a_perplexity_or_loss_worse_is_not_called_below(key: str) -> None:
    runs = [run("safe", **{key: 30.0}) | {"dense": {key: 10.0}}]
    assert f"SAFE is worse than the dense network in {key}: 30" in first(*runs)
    runs += [run("gmp", **{key: 20.0}) | {"dense": {key: 10.0}}]
    assert f"every method is worse than the dense network in {key} (10" in first(*runs)


def test_it_says_what_the_full_sentences_say_and_of_each_network_its_own() -> None:
    better = run("a", accuracy=0.97, bytes=4000, bytes_packed=3000)
    best = run("b", accuracy=0.99, bytes=4000, bytes_packed=2000) | {"speed": timed(1.2)}
    fast = better | {"speed": timed(2.0)}
    short = InShort.of([fast, best])
    assert short.sentences[0] == (
        "At 90 % zeros b (99.00 %) and a (97.00 %) are more accurate than the dense network "
        "(95.00 %)."
    )
    assert short.full[0] == (
        "At 90 % zeros, above dense (95.00 %): b (99.00 %, +4.00), a (97.00 %, +2.00)."
    )
    for one in (fast, best):
        one["sparse"]["latency_ms"] = 1.0
    (_, gained, *_) = InShort.of([fast, best]).sentences
    assert gained.startswith("Stored without zeros b is 2.0 times smaller than dense; ")
    assert gained.endswith("one input is 2.00 times as fast with a (at least 2.00).")


def test_none_is_faster_is_said_of_those_it_speaks_of_and_the_fast_one_is_named() -> None:
    zeros = run("gmp", 0.95, accuracy=0.9, bytes=4000) | {"speed": timed(1.0, reason="")}
    more = run("safe", 0.9, accuracy=0.95, bytes=4000) | {"speed": timed(1.0, reason="")}
    fewer = run("halp", 0.3, accuracy=0.95, bytes=4000) | {"speed": timed(2.0)}
    fewer |= {"recipe": {"channels": {"target": "latency"}}}
    text = " ".join(InShort.of([zeros, more, fewer]).sentences)
    assert "none at 95 % zeros is faster here, as zeros" in text
    assert "surely faster, pruned otherwise: HALP, 30 % less latency (2.00 times, at least" in text
    assert "Up to 90 % zeros SAFE keeps the dense accuracy; pruned otherwise" in text
    alone = " ".join(InShort.of([zeros]).sentences)
    assert "none is faster here" in alone
