from __future__ import annotations

from typing import Any

from steppe.llm.tradeoff import dominated, trade_offs


def result(perplexity: float, megabytes: float, rate: float) -> dict[str, Any]:
    def point(value: float, size: float) -> dict[str, Any]:
        sizes = {"disk_bytes": 1e6 * size, "packed_bytes": 1e6 * size}
        return {"kind": "structured", "perplexity": value} | sizes

    arms = {
        name: {"batches": {"1": {"tokens_per_second": value}}}
        for name, value in (("dense a", 50.0), ("sparse b", rate), ("sparse a", 1e9))
    }
    own = {"dense": "dense a", "sparse": "sparse b", "ratio": rate / 50}
    points = {"dense": point(30.0, 100.0), "sparse": point(perplexity, megabytes)}
    return {"arms": arms, "speed": {"1": {"generation": own}}, "points": points}


def test_dense_is_there_once_and_the_arm_that_was_compared_counts() -> None:
    points = trade_offs({"runs/a": result(33.0, 70.0, 70.0), "runs/b": result(35.0, 80.0, 60.0)})
    assert list(points) == ["dense", "a", "b"]
    assert [point.rate for point in points.values()] == [50.0, 70.0, 60.0]
    assert not points["dense"].speed
    b = {"b": "a"}
    assert dominated(points) == {"disk": b, "packed": b, "speed": b}


def test_folders_of_one_name_keep_their_paths() -> None:
    runs = {"x/run": result(33.0, 70.0, 70.0), "y/run": result(32.0, 80.0, 60.0)}
    assert list(trade_offs(runs)) == ["dense", "x/run", "y/run"]
    assert list(trade_offs({"x/dense": result(33.0, 70.0, 70.0)})) == ["dense", "x/dense"]
