"""The times of a removal: nothing of what finds out what goes is left out."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import language_models
import mixture_models
from language_models import Saved, windows
from steppe import methods
from steppe.llm.prune import prune
from steppe.llm.structured import block_trials, dimension_ranking, weighing
from steppe.method import Method


def merging() -> Method:
    made = methods.reap(sparsity=0.25, score="routing_frequency")
    return made.replace(coupling="merge_experts")


METHODS: dict[str, tuple[str, Callable[[], Method], set[str]]] = {
    "layers": ("llama", lambda: methods.depth(sparsity=0.5), {"rank"}),
    "hidden": ("llama", lambda: methods.make("hidden", sparsity=0.25), {"rank", "outside"}),
    "depth and width": (
        "llama",
        lambda: methods.slim(sparsity=0.5, structure="neurons+heads+layers"),
        {"weigh"},
    ),
    "experts": ("mixtral", lambda: methods.reap(sparsity=0.25), set()),
    "merged experts": ("mixtral", merging, set()),
}


def build(name: str) -> Any:
    return (mixture_models if name == "mixtral" else language_models).build(name)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Saved:
    return Saved(tmp_path_factory, build)


@pytest.mark.parametrize("name", METHODS)
def test_parts_and_rows_are_all_of_the_pruning(name: str, saved: Saved, tmp_path: Path) -> None:
    model, make, chosen = METHODS[name]
    record = prune(saved(model), make(), windows(), tmp_path / "out")
    parts = record["seconds_by_part"]
    assert chosen <= parts.keys()
    assert all(parts[part] > 0 for part in chosen)
    rows = sum(row["seconds"]["all"] for row in record["blocks"])
    assert parts["all"] == pytest.approx(rows + sum(parts[part] for part in chosen), abs=1e-3)
    assert record["seconds_pruning"] == pytest.approx(parts["all"], abs=1e-3)
    assert record["seconds_pruning"] <= record["seconds"]


def test_merging_and_writing_are_parts_of_their_own(saved: Saved, tmp_path: Path) -> None:
    plain = prune(saved("mixtral"), methods.reap(sparsity=0.25), windows(), tmp_path / "plain")
    merged = prune(saved("mixtral"), merging(), windows(), tmp_path / "merged")
    stages = {"load", "calibrate", "prune", "propagate"}
    assert plain["seconds_by_part"].keys() == stages | {"all"}
    assert merged["seconds_by_part"].keys() == stages | {"merge", "write", "all"}
    for row in (*plain["blocks"], *merged["blocks"]):
        spent = dict(row["seconds"])
        assert spent.pop("all") == pytest.approx(sum(spent.values()), abs=1e-3)


@pytest.mark.parametrize(
    ("name", "owner", "called", "part"),
    [
        ("layers", block_trials.StreamedTrials, "losses", "rank"),
        ("hidden", dimension_ranking, "sizes", "rank"),
        ("depth and width", weighing.Weighing, "_judged", "weigh"),
    ],
)
def test_time_before_a_stop_counts(
    name: str,
    owner: Any,
    called: str,
    part: str,
    saved: Saved,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """What was counted when the run was killed is the least that is counted in the end."""
    model, make, _ = METHODS[name]
    more = {"sparsity": 0.75} if name == "layers" else {}
    method = methods.depth(**more) if more else make()
    folder, out = saved("gpt-neo" if more else model), tmp_path / "out"
    plain, calls = getattr(owner, called), list[None]()

    def killed(*args: Any, **options: Any) -> Any:
        calls.append(None)
        if len(calls) == 2:
            # as after hours; nothing is kept of what is done now
            path = out / "checkpoints" / "job.json"
            held = json.loads(path.read_text())
            assert held["parts"][part] > 0
            path.write_text(json.dumps(held | {"parts": {part: 1000.0}}))
            raise KeyboardInterrupt
        return plain(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(owner, called, killed)
        with pytest.raises(KeyboardInterrupt):
            prune(folder, method, windows(), out)
    record = prune(folder, method, windows(), out)
    assert record["seconds_by_part"][part] > 1000.0
    assert record["seconds_pruning"] > 1000.0
