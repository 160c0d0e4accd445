"""docs/zeros.md: packed matrices beside dense ones."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from ..cells import Cell, Table, cell
from ..registry import Claim, Rule, claims, table
from ..sources import record

PAGE = "docs/zeros.md"
SHAPE = [4096, 11008]
Rows = list[list["str | Cell"]]


def rows_of(threads: int, tokens: int) -> list[dict[str, Any]]:
    """Of the one shape that the page shows."""
    own = record("sparse")["rows"]
    return [
        row
        for row in own
        if (row["shape"], row["threads"], row["tokens"]) == (SHAPE, threads, tokens)
    ]


@table("sparse-layer")
def layer() -> Table:
    rows: Rows = []
    for row in rows_of(2, 1):
        times = row["ms"]
        fastest = row["fastest dense"]
        rows.append(
            [
                f"{100 * row['sparsity']:g} %",
                row["dtype"],
                *(
                    cell("{:.2f}", times[name])
                    for name in ("torch dense float32", "torch dense bfloat16", "torch CSR")
                ),
                cell("{:.2f}", times["scipy CSR"]),
                cell("{:.2f}", times["bits"]),
                cell("{:.2f}", times["index"]),
                cell("{:.2f} ({:.2f} to {:.2f})", *(fastest[k] for k in ("ratio", "low", "high"))),
                cell("{:.2f}", row["same dense"]["ratio"]),
            ]
        )
    dense = ["zeros", "values", "dense float32, ms", "dense bfloat16, ms", "torch CSR, ms"]
    ours = ["scipy CSR, ms", "bits, ms", "index, ms"]
    return Table(
        [*dense, *ours, "times as fast as the faster dense", "as dense in this dtype"], rows
    )


@claims(PAGE, "One layer, measured", ["benchmarks/bench_sparse.py"])
def set_up() -> Iterator[Claim]:
    yield "A matrix of {} x {} normal weights", *SHAPE


@claims(PAGE, "Formats")
def rounded() -> Iterator[Claim]:
    yield (
        "sparsity to 2.5 %",
        Rule("src/steppe/sparse/choose.py", "share of zeros, a multiple of 2.5 %"),
    )
