"""Times that were measured of a run after it was trained, where a report looks for times."""

from __future__ import annotations

from typing import Any

from steppe.core.speed import Speed


def timed(record: dict[str, Any]) -> dict[str, Any]:
    """A record with the times that ``steppe evaluate --on latency`` measured in place of its own.

    Args:
        record: as `steppe.report.align.aligned` gives it.

    Example:
        >>> speed = Speed.of([(2.0, 1.0)] * 9, "channels are removed").record()
        >>> result = {"measured": speed, "predicted_ms": [2.1, 1.1]}
        >>> record = timed({"evaluations": {"latency": result}, "sparse": {"map50": 0.5}})
        >>> record["sparse"], record["dense"], record["removed"]["cost"]
        ({'map50': 0.5, 'latency_ms': 1.0}, {'latency_ms': 2.0}, [2.1, 1.1])
    """
    result = (record.get("evaluations") or {}).get("latency") or {}
    speed = Speed.read(result.get("measured"))
    if speed is None:
        return record
    times = {"dense": speed.dense_ms, "sparse": speed.sparse_ms}
    own: dict[str, Any] = {
        kind: {**(record.get(kind) or {}), "latency_ms": ms} for kind, ms in times.items()
    }
    own["speed"] = {**(record.get("speed") or {}), "one": result["measured"]}
    if "predicted_ms" in result:
        removed = record.get("removed") or {}
        own["removed"] = {**removed, "target": "ms", "cost": list(result["predicted_ms"])}
    return record | own
