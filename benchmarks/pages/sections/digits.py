"""Digits: the demo's table, and why GMP is level with SAFE."""

from __future__ import annotations

from ..cells import Table, cell, standard_error, two_digits
from ..registry import table
from ..sources import grouped, record

PAGE, SECTION = "docs/results.md", "Digits: the demo"
METHODS = {"magnitude": "magnitude", "gmp": "GMP", "admm": "ADMM", "safe": "SAFE"}
LEVELS = {0.95: "95 %", 0.98: "98 %", 0.99: "99 %"}
SHARES = {"10 %": "kept_at_0.1", "25 %": "kept_at_0.25", "50 %": "kept_at_0.5"}


@table("demo")
def demo() -> Table:
    networks = grouped(record("demo")["networks"], "method", "sparsity")
    rows = []
    names = [("dense", "0", "dense", 0.0)]
    for level, zeros in LEVELS.items():
        names += [(text, zeros, name, level) for name, text in METHODS.items()]
    for text, zeros, name, sparsity in names:
        own = networks[name, sparsity]
        rows.append(
            [
                text,
                zeros,
                standard_error((n["accuracy"] for n in own), 2, 100),
                two_digits((n["hessian_top"] for n in own), 3),
                two_digits(n["sharpness"] for n in own),
                standard_error((n["noise"]["0.3"] for n in own), 2, 100),
            ]
        )
    head = ["method", "zeros", "accuracy, %", "top Hessian eigenvalue", "sharpness, rho 0.2"]
    return Table([*head, "accuracy at noise 0.3, %"], rows)


def why(sparsity: float) -> Table:
    rows = []
    for arm in record("why_digits"):
        if arm["sparsity"] == sparsity:
            error = 100 * arm["standard_error"]
            accuracy = cell("{:.2f} ± {:.2f}", 100 * arm["accuracy"], error)
            own = [accuracy, cell("{:.2f}", 100 * arm["lost"]), cell("{:.4f}", arm["moved"])]
            kept = [cell("{:.2f}", arm[key]) for key in SHARES.values()]
            rows.append([arm["arm"], *own, *kept])
    return Table([f"at {sparsity:.0%}", "accuracy, %", "lost", "moved", *SHARES], rows)


@table("why-digits-95")
def why_95() -> Table:
    return why(0.95)


@table("why-digits-99")
def why_99() -> Table:
    return why(0.99)
