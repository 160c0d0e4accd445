"""Records of detectors as steppe train, remove and evaluate leave them, with made-up numbers."""

from __future__ import annotations

from typing import Any

KINDS = ("fog", "snow", "gaussian_noise")
IMAGE = "data:image/jpeg;base64,/9j/4AAQSkZJRg=="
DENSE_FLOPS = 1e9


def detector(
    method: str, sparsity: float | None, seed: int = 0, map50: float = 0.7, left: float = 0.6
) -> dict[str, Any]:
    """A run; of its mean precision the share ``left`` is there on each corruption but snow."""
    gone = sparsity or 0.0
    cells = {kind: dict.fromkeys(("3", "5"), map50 * left) for kind in KINDS}
    cells["snow"] = {"3": map50 * left / 2, "5": map50 * left / 2}
    recipe: dict[str, Any] = {"method": {"name": method}, "seed": seed, "task": "detection"}
    if sparsity is not None:
        recipe["channels"] = {"target": "flops"}
    run = {
        "method": method,
        "seed": seed,
        "sparsity_asked": sparsity,
        "sparsity_reached": gone,
        "recipe": recipe,
        "dense": {"flops": DENSE_FLOPS, "parameters": 1000, "bytes": 4000, "latency_ms": 9.0},
        "sparse": {
            "map50": map50,
            "map": map50 / 2,
            "classes": {"red cell": {"map50": map50 - 0.1}, "v1.0": {"map50": None}},
            "loss": 1.0,
            "flops": DENSE_FLOPS * (1 - gone),
            "parameters": round(1000 * (1 - gone)),
            "bytes": 4000 * (1 - gone),
            "bytes_packed": 4000 * (1 - gone),
            "latency_ms": 9.0 * (1 - gone / 2),
        },
        "evaluations": {
            "clean": {"map50": map50, "examples": [example()]},
            "corruptions": {
                "map50": cells,
                "clean": {"map50": map50, "map": map50 / 2},
                "extra": [],
                "examples": [example(), example(corruption="gaussian_noise", severity=5)],
            },
        },
    }
    if sparsity is not None:
        run["removed"] = {
            "parameters": [1000, round(1000 * (1 - gone))],
            "target": "ms",
            "cost": [9.0, 9.0 * (1 - gone)],
        }
    return run


def example(**how: Any) -> dict[str, Any]:
    """An image with two objects, of which one was found."""
    red = [0.1, 0.2, 0.5, 0.6, "red cell"]
    objects = [red, [0.6, 0.6, 0.9, 0.9, "v1.0"]]
    return {
        "index": 0,
        "image": IMAGE,
        "least": 0.3,
        "objects": objects,
        "found": [[*red, 0.87]],
    } | how
