from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest

from steppe.report.document import Document

DENSE = {"kind": "dense", "perplexity": 30.0, "packed_bytes": 11e6}
TEXT = {"sha256": "abc", "window": 256, "stride": 256}


def run(
    method: str, kind: str, perplexity: float, size: float, rate: float, seed: int = 0
) -> dict[str, Any]:
    def arm(median: float) -> dict[str, Any]:
        each = [median * share for share in (0.8, 0.9, 1.0, 1.1, 1.2)]
        own = {"tokens_per_second": median, "prompt_tokens_per_second": 1.0, "each": each}
        return {"resident_bytes": 1e6, "batches": {"1": own}}

    generation = {"dense": "dense b", "sparse": "sparse b", "ratio": rate / 100, "claimed": False}
    sparse = {"kind": kind, "perplexity": perplexity, "packed_bytes": size * 1e6}
    speed = {
        "speed": {"1": {"generation": generation, "prompt": generation}},
        "arms": {"dense b": arm(100.0), "sparse b": arm(rate)},
        "points": {"dense": DENSE | TEXT, "sparse": sparse | TEXT},
    }
    return {
        "method": method,
        "seed": seed,
        "sparsity_asked": 0.5,
        "blocks": [],
        "sparse": {"perplexity": perplexity},
        "evaluations": {"speed": speed},
    }


def four() -> list[dict[str, Any]]:
    return [
        run("wanda", "unstructured", 36.0, 6.0, 90.0),
        run("sparsegpt", "N:M", 40.0, 6.5, 95.0),
        run("slim", "structured", 34.0, 7.0, 140.0),
        run("alps", "structured and unstructured", 42.0, 4.0, 150.0),
    ]


def drawn(records: list[dict[str, Any]]) -> str:
    (figure,) = [f for f in Document.of(records, title="x").drawn["gain"] if f.key == "pareto"]
    return " ".join(figure.svg.split())


def test_each_kind_has_its_mark_and_the_dominated_are_named() -> None:
    svg = drawn(four())
    for kind in ("dense", "unstructured", "N:M", "structured", "structured and unstructured"):
        assert f">{kind}<" in svg
    size, speed = svg.split("MB 4;")[0], svg.split("MB 4;")[1]
    assert (
        "SparseGPT 50 %: perplexity 40.00, size, zeros as a bit mask, MB 6.5, dominated by" in size
    )
    assert (
        "Wanda 50 %: perplexity 36.00, writing, tokens per second 90, dominated by dense" in speed
    )
    assert "dense: perplexity 30.00, writing, tokens per second 100;" in speed


def test_seeds_are_one_point_and_have_whiskers() -> None:
    records = [*four(), run("slim", "structured", 36.0, 7.0, 160.0, seed=1)]
    svg = drawn(records)
    assert "Slim 50 %: perplexity 35.00" in svg
    assert "tokens per second 150" in svg


@pytest.mark.parametrize("other", ["sha256", "window"])
def test_another_text_is_another_figure(other: str) -> None:
    records = four()
    records[0] = deepcopy(records[0])
    records[0]["evaluations"]["speed"]["points"]["sparse"][other] = "else"
    assert "Wanda" not in drawn(records).split("</desc>")[0]


def test_what_was_not_measured_names_the_command() -> None:
    records = four()
    for record in records:
        del record["evaluations"]["speed"]["points"]
    (hint,) = Document.of(records, title="x").hints["gain"]
    assert "--text TEXT" in hint
    assert "gain" not in Document.of(four(), title="x").hints


def test_one_model_beside_dense_needs_no_figure() -> None:
    keys = [f.key for f in Document.of(four()[:1], title="x").drawn["gain"]]
    assert "pareto" not in keys
