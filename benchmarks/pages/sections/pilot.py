"""PILoT, STR, spred, LASSO and rewinding; the diagonal linear network."""

from __future__ import annotations

from ..cells import Cell, Table, cell, standard_error
from ..registry import table
from ..sources import record
from .cifar10_small import by_level

CURVES = {
    "constant": "constant",
    "harmonic": "harmonic, 1/k",
    "quadratic": "quadratic, 1/k²",
    "geometric": "geometric, 0.95^k",
}
ARMS = {
    "pilot": "m * w, b = 1, L2 on both (PILoT)",
    "l1_m": "m * w, b = 1, L1 on m",
    "l1_x": "x, L1 on x",
    "spred": "m * w, b = 0, L2 on both (spred)",
}


@table("pilot-digits")
def digits() -> Table:
    runs = {(row["arm"], row["sparsity"]): row for row in record("pilot-digits")}
    rows: list[list[str | Cell]] = []
    for arm in dict.fromkeys(name for name, _ in runs):
        row: list[str | Cell] = [arm]
        for level in (0.95, 0.99):
            own = runs[arm, level]
            row.append(standard_error(own["accuracies"], 2, 100))
            row.append(Cell(own["strength"], (float(own["strength"] or 0),)))
        rows.append(row)
    return Table(["method", "95 %", "strength", "99 %", "strength"], rows)


@table("pilot-small")
def pilot_small() -> Table:
    names = {"magnitude": "magnitude", "pilot": "PILoT", "pilot-constant": "PILoT, constant"}
    names |= {"pilot-balanced": "PILoT, balanced", "spred": "spred", "soft_threshold": "STR"}
    names |= {"lasso": "LASSO", "lrr": "LRR", "pilot-lrr": "PILoT + LRR"}
    return by_level(record("pilot-small"), names)


@table("diagonal")
def diagonal() -> Table:
    ends = {(end["arm"], end["curve"]): end for end in record("diagonal")["ends"]}
    rows: list[list[str | Cell]] = []
    for arm, label in ARMS.items():
        cells = []
        for curve in CURVES:
            own = (ends[arm, curve]["distance"], ends[arm, curve]["error"])
            cells.append(cell("{:.4f} ± {:.4f}", *own) if own[0] >= 5e-5 else Cell("< 0.0001", own))
        rows.append([label, *cells])
    return Table(["", *CURVES.values()], rows)
