"""Pruned models of one dense one as points: what they predict, how large and how fast they are."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from steppe.core.pareto import dominators

DENSE = "dense"


@dataclass(frozen=True)
class TradeOff:
    """A model.

    Args:
        kind: dense, unstructured, N:M, structured, or two of them.
        perplexity: lower is better.
        disk_bytes: of its weights' files.
        packed_bytes: with each matrix as bits and values where that is smaller.
        rate: tokens that it writes in a second.
        speed: beside the dense one, as `compare_speeds` has it; empty for the dense one.
    """

    kind: str
    perplexity: float
    disk_bytes: float
    packed_bytes: float
    rate: float
    speed: Mapping[str, Any]


AXES: dict[str, Callable[[TradeOff], float]] = {
    "disk": lambda point: point.disk_bytes,
    "packed": lambda point: point.packed_bytes,
    "speed": lambda point: -point.rate,
}
"""What a model may be better in than another of the same perplexity; lower is better."""


def trade_offs(results: Mapping[str, Mapping[str, Any]]) -> dict[str, TradeOff]:
    """The dense model and each run, in the first batch.

    Args:
        results: folder -> what was measured of it, with a text, in the same turns.

    Returns:
        Name -> point; folders by the last part of their path, where that tells them apart.
    """
    paths = {run: Path(run).resolve() for run in results}
    short = [path.name for path in paths.values()]
    points: dict[str, TradeOff] = {}
    for run, result in results.items():
        batch, speeds = next(iter(result["speed"].items()))
        own = speeds["generation"]
        name = paths[run].name
        name = run if short.count(name) > 1 or name == DENSE else name
        for key, kind in ((DENSE, "dense"), (name, "sparse")):
            if key in points:
                continue
            point = result["points"][kind]
            rate = result["arms"][own[kind]]["batches"][batch]["tokens_per_second"]
            sizes = (point["disk_bytes"], point["packed_bytes"])
            speed = own if kind == "sparse" else {}
            points[key] = TradeOff(point["kind"], point["perplexity"], *sizes, rate, speed)
    return points


def dominated(points: Mapping[str, TradeOff]) -> dict[str, dict[str, str]]:
    """Axis -> point -> one that predicts no worse and is no larger or slower, and better in one.

    Args:
        points: by name.

    Example:
        >>> points = {
        ...     "dense": TradeOff("dense", 30.0, 100, 100, 50.0, {}),
        ...     "wanda": TradeOff("unstructured", 35.0, 100, 60, 50.0, {}),
        ...     "slim": TradeOff("structured", 33.0, 70, 70, 70.0, {}),
        ... }
        >>> dominated(points)
        {'disk': {'wanda': 'dense'}, 'packed': {}, 'speed': {'wanda': 'dense'}}
    """
    return {
        axis: dominators({n: (p.perplexity, value(p)) for n, p in points.items()})
        for axis, value in AXES.items()
    }
