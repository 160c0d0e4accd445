"""Streamed batches with pages of their own, beside batches from the heap: time by their size.

    python benchmarks/bench_batch_pages.py

Both turn uint8 images of 32 x 32 into normalised float32, as a loader of streamed images does, and
let the batch before go; they take turns, and the ratios of the pairs count. What memory does
meanwhile is `bench_loader.py --memory`.
"""

from __future__ import annotations

import argparse
import statistics
import time
from datetime import date
from unittest.mock import patch

import torch
from bench_selection import processor
from record_file import add_record, write_record
from torch import Tensor

from steppe.vision import batch_loader
from steppe.vision.batch_loader import LARGE, BatchLoader

IMAGE = (3, 32, 32)


def lasting(images: Tensor, least: int, repeats: int) -> float:
    """Seconds of a batch that has pages of its own from ``least`` bytes on."""
    half = [0.5] * IMAGE[0]
    loader = BatchLoader(len(images), len(images), mean=half, std=half, channels=IMAGE[0])
    with patch.object(batch_loader, "LARGE", least):
        begun = time.perf_counter()
        for _ in range(repeats):
            loader._normalised(images)
        return (time.perf_counter() - begun) / repeats


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--counts", type=int, nargs="+", default=[2, 5, 11, 22, 43, 86, 341])
    parser.add_argument("--turns", type=int, default=15)
    parser.add_argument("--repeats", type=int, default=50)
    add_record(parser, "batch-pages")
    options = parser.parse_args()
    torch.set_num_threads(1)
    rows = []
    for count in options.counts:
        images = torch.randint(0, 256, (count, *IMAGE), dtype=torch.uint8)
        size = 4 * images.numel()
        pairs = [
            (lasting(images, 0, options.repeats), lasting(images, size + 1, options.repeats))
            for _ in range(options.turns)
        ]
        row = {
            "bytes": size,
            "own_pages": size >= LARGE,
            "pages_us": 1e6 * statistics.median(own for own, _ in pairs),
            "heap_us": 1e6 * statistics.median(heap for _, heap in pairs),
            "ratio": statistics.median(own / heap for own, heap in pairs),
        }
        rows.append(row)
        print(
            f"{size / 2**10:8.0f} KiB: pages {row['pages_us']:.1f} us, heap {row['heap_us']:.1f} "
            f"us, ratio {row['ratio']:.3f}{', so in steppe' * row['own_pages']}",
            flush=True,
        )
    conditions = {"processor": processor(), "torch": torch.__version__, "threads": 1}
    record = {"date": str(date.today()), **conditions, "large": LARGE, "rows": rows}
    write_record(options.record, record)


if __name__ == "__main__":
    main()
