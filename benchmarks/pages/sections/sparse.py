"""docs/zeros.md: packed matrices beside dense ones."""

from __future__ import annotations

import itertools
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


@table("sparse-prompt")
def prompt() -> Table:
    rows: Rows = []
    for dtype, sparsity in itertools.product(("float32", "bfloat16"), (0.5, 0.7, 0.9)):
        row: list[str | Cell] = [f"{100 * sparsity:g} %", dtype]
        for tokens in (4, 16, 17, 64, 512):
            own = [
                row
                for row in rows_of(2, tokens)
                if (row["dtype"], row["sparsity"]) == (dtype, sparsity)
            ]
            row.append(cell("{:.2f}", own[0]["same dense"]["ratio"]))
        rows.append(row)
    return Table(["zeros", "values", *(f"{n} tokens" for n in (4, 16, 17, 64, 512))], rows)


def models() -> Iterator[tuple[str, dict[str, Any]]]:
    """Share of zeros as text, and what was measured."""
    for sparsity, own in sorted(record("sparse-model")["models"].items()):
        yield f"{100 * float(sparsity):g} %", own


@table("sparse-model")
def model() -> Table:
    rows: Rows = []
    for sparsity, own in models():
        speed = own["bench"]["speed"]["1"]["generation"]
        arms = [own["bench"]["arms"][speed[kind]] for kind in ("dense", "sparse")]
        rates = [arm["batches"]["1"]["tokens_per_second"] for arm in arms]
        sizes = [
            arms[0]["written_bytes"],
            *(arms[1][key] for key in ("written_bytes", "resident_bytes", "matrices_bytes")),
            arms[1]["peak_bytes"],
        ]
        rows.append(
            [
                sparsity,
                *(cell("{:.1f}", rate) for rate in rates),
                cell("{:.2f} ({:.2f} to {:.2f})", *(speed[k] for k in ("ratio", "low", "high"))),
                *(cell("{:.0f}", size / 1e6) for size in sizes),
            ]
        )
    head = ["zeros", "dense, tokens/s", "packed, tokens/s", "times as fast"]
    memory = ["dense, MB", "packed, MB", "loaded, MB", "its matrices, MB", "most while loading, MB"]
    return Table([*head, *memory], rows)


@table("sparse-llamacpp")
def llamacpp() -> Table:
    rows: Rows = []
    for sparsity, own in models():
        arms = own["llamacpp"]
        row: list[str | Cell] = [sparsity]
        row += [cell("{:.1f}", arms[arm]["tokens_per_second"]) for arm in ("packed", "bf16", "f16")]
        for arm in ("bf16", "f16"):
            speed = [arms[arm]["packed"][key] for key in ("ratio", "low", "high")]
            row.append(cell("{:.2f} ({:.2f} to {:.2f})", *speed))
        rows.append(row)
    head = ["zeros", "packed, tokens/s", "llama.cpp bf16, tokens/s", "llama.cpp f16, tokens/s"]
    return Table([*head, "packed beside bf16", "packed beside f16"], rows)


@claims(PAGE, "One layer, measured", ["benchmarks/bench_sparse.py"])
def set_up() -> Iterator[Claim]:
    yield "A matrix of {} x {} normal weights", *SHAPE


@claims(PAGE, "Formats")
def rounded() -> Iterator[Claim]:
    yield (
        "sparsity to 2.5 %",
        Rule("src/steppe/sparse/choose.py", "share of zeros, a multiple of 2.5 %"),
    )


@claims(PAGE, "A whole model, measured", ["benchmarks/bench_sparse_model.py"])
def bounds() -> Iterator[Claim]:
    yield "{} % sure", Rule("src/steppe/core/speed.py", "lower bound of that median, 99.5 % sure")
