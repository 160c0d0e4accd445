"""docs/zeros.md: packed matrices beside dense ones."""

from __future__ import annotations

from typing import Any

from ..cells import Cell, Table, cell
from ..registry import table
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


@table("sparse-model")
def model() -> Table:
    rows: Rows = []
    for sparsity, own in record("sparse-model")["models"].items():
        speed = own["speed"]["1"]["generation"]
        arms = [own["arms"][speed[kind]] for kind in ("dense", "sparse")]
        rates = [arm["batches"]["1"]["tokens_per_second"] for arm in arms]
        memory = [arm["resident_bytes"] / 1e6 for arm in arms]
        rows.append(
            [
                f"{100 * float(sparsity):g} %",
                cell("{:.1f}", rates[0]),
                cell("{:.1f}", rates[1]),
                cell("{:.2f} ({:.2f} to {:.2f})", *(speed[k] for k in ("ratio", "low", "high"))),
                cell("{:.0f}", memory[0]),
                cell("{:.0f}", memory[1]),
            ]
        )
    head = ["zeros", "dense, tokens/s", "packed, tokens/s", "times as fast"]
    return Table([*head, "dense, MB in memory", "packed, MB"], rows)
