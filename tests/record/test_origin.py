"""A model that was pruned more than once is compared with the first dense one."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from steppe import methods
from steppe.llm.prune import prune
from steppe.report.document import Document
from steppe.report.record import display, method_of, read_records, setting_of


def test_a_run_that_starts_from_a_run_says_so(
    language_model: Path, word_text: Path, tmp_path: Path
) -> None:
    options: dict[str, Any] = {"samples": 4, "window": 16, "evaluate": (word_text,)}
    slim = methods.slim(sparsity=0.5, structure="neurons")
    prune(language_model, slim, word_text, tmp_path / "slim", **options)
    magnitude = methods.magnitude(sparsity=0.5)
    prune(tmp_path / "slim", magnitude, None, tmp_path / "both", **options)
    stored = json.loads((tmp_path / "both/record.json").read_text())
    assert stored["made_from"]["method"] == "slim"
    assert "blocks" not in stored["made_from"]
    assert stored["dense"]["parameters"] == stored["made_from"]["sparse"]["parameters"]
    first, both = read_records([tmp_path / "slim", tmp_path / "both"])
    assert both["dense"] == first["dense"]
    assert setting_of(both) == setting_of(first) == language_model.name
    gone = 1 - first["sparse"]["parameters"] / first["dense"]["parameters"]
    assert gone < stored["made_from"]["sparsity_asked"] < 0.5, "of the blocks, embeddings stay"
    share = f"{100 * stored['made_from']['sparsity_asked']:.3g} %"
    assert method_of(both) == f"slim {share}, then magnitude"
    assert display(both) == f"Slim {share}, then Magnitude"
    rows = {row["method"] for row in _rows([first, both])}
    assert rows == {"dense", "slim", f"slim {share}, then magnitude"}


def _rows(records: list[dict[str, Any]]) -> list[dict[str, Any]]:
    document = Document.of(records, title="x", figures=False)
    return [{"method": row.method} for _, rows in document.tables for row in rows.rows]


@pytest.mark.parametrize("same", [True, False])
def test_a_quality_on_another_text_is_left_out(tmp_path: Path, same: bool) -> None:
    def part(perplexity: float, sha: str) -> dict[str, Any]:
        text = {"sha256": sha, "window": 8, "stride": 8, "perplexity": perplexity}
        return {"perplexity": perplexity, "parameters": 9, "texts": {"t": text}}

    slim = {"method": "slim", "dense": part(5.0, "a"), "sparse": part(6.0, "a")}
    text = "a" if same else "b"
    record = {"method": "wanda", "dense": part(6.0, text), "sparse": part(7.0, text)}
    (tmp_path / "record.json").write_text(json.dumps(record | {"made_from": slim}))
    (read,) = read_records([tmp_path])
    assert read["dense"]["parameters"] == 9
    assert read["dense"].get("perplexity") == (5.0 if same else None)
