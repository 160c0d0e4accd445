"""Records as the demo makes them, with made-up numbers."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

METHODS = {"magnitude": 0.55, "gmp": 0.02, "admm": 0.035, "safe": 0.012}
LEVELS = (0.9, 0.95, 0.98, 0.99)


def record(method: str, level: float | None, seed: int, names: list[str]) -> dict[str, Any]:
    random = np.random.default_rng([seed, len(method), round(100 * (level or 0))])
    lost = 0.0 if level is None else METHODS[method] * ((level - 0.85) / 0.14) ** 2
    accuracy = float(np.clip(0.97 - lost + random.normal(0, 0.004), 0, 1))
    top = {"dense": 40.0, "safe": 12.0, "admm": 55.0}.get(method, 90.0) * random.uniform(0.8, 1.2)
    loss = [2.3 * 0.9**e + 0.05 for e in range(30)]
    made = {
        "method": method,
        "seed": seed,
        "sparsity_asked": level or 0.0,
        "sparsity_reached": level or 0.0,
        "dense": {"latency_ms": 0.4, "parameters": 266610, "bytes": 1066440},
        "sparse": {
            "accuracy": accuracy,
            "loss": 4 * (1 - accuracy),
            "bytes": 1066440,
            "bytes_packed": 1066440 * (1.03 - (level or 0.03)),
            "latency_ms": 0.4 + 0.01 * seed,
        },
        "flatness": {"hessian_top": top, "sharpness": top / 300, "rho": 0.2},
        "noise": {s: accuracy * (1 - float(s)) ** 2 for s in ("0.1", "0.2", "0.3")},
        "projection_distance": 0.1 * lost,
        "layers": [
            {"name": n, "total": 1000, "zeros": int(1000 * (level or 0) * (0.8 + 0.2 * i / 20))}
            for i, n in enumerate(names)
        ],
        "curve": [
            {"epoch": e + 1, "loss": v, "accuracy": accuracy * (1 - 0.9 ** (e + 1))}
            for e, v in enumerate(loss)
        ],
        "seconds": 12.5 + random.uniform(),
        "recipe": {"method": {"name": method, "sparsity": level}, "seed": seed, "lr": 0.1},
        "versions": {"steppe": "0.1.0", "torch": "2.13.0"},
        "fallbacks": [],
        "evaluations": evaluations(accuracy, top, seed),
        "commands": [f"steppe evaluate runs/{method}-{seed} --on corruptions"],
    }
    return made


KINDS = (
    *(f"{kind}_noise" for kind in ("gaussian", "impulse", "shot")),
    *(f"{kind}_blur" for kind in ("defocus", "glass", "motion", "zoom")),
    *("brightness", "contrast", "elastic_transform", "fog", "frost", "jpeg_compression"),
    *("pixelate", "snow", "gaussian_blur", "saturate", "spatter", "speckle_noise"),
)
PIXEL = (
    "data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAAAAAA6fptVAAAACklEQVR4nGNgAAAAAgABSK+k"
    "cQAAAABJRU5ErkJggg=="
)


def evaluations(accuracy: float, top: float, seed: int) -> dict[str, Any]:
    """What steppe evaluate would have measured."""
    places = np.linspace(-1, 1, 5)
    cells = {
        kind: {s: accuracy * (0.95 - 0.005 * i * int(s)) for s in ("3", "5")}
        for i, kind in enumerate(KINDS)
    }
    bowl = [[0.1 + top * (x * x + 2 * y * y) for x in places.tolist()] for y in places.tolist()]
    return {
        "clean": {
            "accuracy": accuracy,
            "calibration_error": 0.1 * (1 - accuracy),
            "beside": {
                "disagree": 0.05,
                "worst_drop": -0.01,
                "examples": [{"index": 7, "label": 3, "run": 5, "sure": 0.9, "image": PIXEL}],
            },
        },
        "corruptions": {
            "accuracy": cells,
            "extra": list(KINDS[15:]),
            "clean": accuracy,
        },
        "attacks": {
            "clean": accuracy,
            "accuracy": {
                "linf": {repr(k / 255): accuracy * 0.9**k for k in (1, 4)},
                "l2": {"0.25": 0.5 * accuracy},
            },
        },
        "sharpness": {
            "radius": 0.1,
            "ball": top / 200,
            "top_eigenvalue": top,
            "average": {"mean": top / 900},
            "adaptive": top / 100,
            "trace": {"mean": 9 * top},
        },
        "landscape": {
            "places": places.tolist(),
            "line": [None, *bowl[2][1:]],
            "sides": places.tolist(),
            "plane": bowl,
        },
    }


def made_up(layers: int = 20, seeds: int = 3) -> list[dict[str, Any]]:
    names = ["conv1", *(f"layer{1 + i // 6}.{i % 6 // 2}.conv{1 + i % 2}" for i in range(layers))]
    runs = [("dense", None), *((m, level) for level in LEVELS for m in METHODS)]
    return [record(m, level, seed, names[:layers]) for seed in range(seeds) for m, level in runs]


@pytest.fixture(scope="session")
def study() -> Any:
    """Makes records of so many layers and seeds."""
    return made_up


@pytest.fixture
def records() -> list[dict[str, Any]]:
    return made_up()
