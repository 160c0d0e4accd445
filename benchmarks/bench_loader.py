"""Images streamed from a folder, beside torch's DataLoader with the same decoding.

    python benchmarks/bench_loader.py                          # imagenet_like.py draws its images
    python benchmarks/bench_loader.py FOLDER                   # with train/<class> and val/<class>
    python benchmarks/bench_loader.py --passes 0 --memory 10   # memory alone

Both decode the same boxes of the same JPEGs with Pillow, in draft mode where the box allows it,
mirror and normalise them. torch's does so as its users write it: a dataset of one image an item,
normalised in the worker, its items collated; steppe's workers give levels, and the process that
reads normalises a batch. Passes of the two take turns, each starts with warm workers, and the
medians over the turns are compared, as are the ratios within each.

With ``--memory N`` the peak of a process that streams a whole epoch is recorded, of the folder and
of one that holds each of its images N times (hard links): its own, and its largest worker's.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from bench_selection import processor
from imagenet_like import drawn
from PIL import Image
from PIL import __version__ as pillow
from record_file import add_record, write_record
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from steppe.vision.augment.flip import Flip
from steppe.vision.augment.random_resized_crop import RandomResizedCrop
from steppe.vision.data import load
from steppe.vision.data.base import StreamedSplit
from steppe.vision.loader import Loader
from steppe.vision.streaming.worker import seed_of

SIZE = 224


class Peer(Dataset[tuple[Tensor, int]]):
    """One image an item, ready for the network."""

    def __init__(self, split: StreamedSplit, mean: tuple[float, ...], std: tuple[float, ...]):
        self.split = split
        self.crop, self.flip = RandomResizedCrop(), Flip()
        self.mean = torch.tensor(mean).view(3, 1, 1)
        self.std = torch.tensor(std).view(3, 1, 1)

    def __len__(self) -> int:
        return len(self.split)

    def __getitem__(self, i: int) -> tuple[Tensor, int]:
        random = Random(seed_of(0, 0, i))
        blob: Any = self.split.pictures.blobs.blob(int(self.split.rows[i]))
        with Image.open(blob) as image:
            width, height = image.size
            frame = self.crop.frame(width, height, SIZE, random)
            image.draft("RGB", frame.least(width, height))
            shrunk = image.size[0] / width
            framed = frame.of(image.convert("RGB"), shrunk)
        pixels = torch.from_numpy(np.array(self.flip(framed, random))).permute(2, 0, 1)
        scaled = pixels.contiguous().to(torch.float32).div_(255)
        return scaled.sub_(self.mean).div_(self.std), int(self.split.labels[i])


def opened(folder: Path, workers: int) -> Any:
    """The folder as steppe streams it."""
    return load(
        str(folder), size=SIZE, resize=256, augment="imagenet", stream=True, workers=workers,
        say=lambda note: None,
    )  # fmt: skip


def timed(batches: Any) -> float:
    """Images a second, of all batches but the first, which the workers have begun before."""
    seen, begun = 0, 0.0
    for i, (x, _) in enumerate(batches):
        if i == 0:
            begun = time.perf_counter()
        else:
            seen += len(x)
    return seen / (time.perf_counter() - begun)


def speeds(folder: Path, batch: int, workers: int, passes: int) -> dict[str, Any]:
    """Images a second of both, in turns."""
    data = opened(folder, workers)
    own = Loader.of(data, "train", batch, seed=0)
    several: dict[str, Any] = {"persistent_workers": True, "prefetch_factor": 2} if workers else {}
    peer: DataLoader[Any] = DataLoader(
        Peer(data.train, data.mean, data.std), batch, shuffle=True, drop_last=True,
        num_workers=workers, generator=torch.Generator().manual_seed(0), **several,
    )  # fmt: skip
    found: dict[str, list[float]] = {"steppe": [], "torch": []}
    for turn in range(passes):
        arms = [("steppe", lambda: own.epoch(turn)), ("torch", lambda: iter(peer))]  # noqa: B023
        for name, epoch in arms if turn % 2 else arms[::-1]:
            found[name].append(timed(epoch()))  # type: ignore[no-untyped-call]
            print(f"{workers} workers, {name}: {found[name][-1]:.1f} images/s", file=sys.stderr)
    medians = {name: statistics.median(rates) for name, rates in found.items()}
    ratios = [a / b for a, b in zip(found["steppe"], found["torch"], strict=True)]
    return {
        "workers": workers,
        "batch": batch,
        "images_per_second": medians,
        "passes": found,
        "ratio": medians["steppe"] / medians["torch"],
        "ratio_in_a_turn": statistics.median(ratios),
    }


def peak(folder: Path, workers: int) -> dict[str, int]:
    """Bytes that a process of its own, and the largest of its workers, held at most."""
    code = (
        "import sys; from pathlib import Path; from bench_loader import read; "
        "read(Path(sys.argv[1]), int(sys.argv[2]))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(folder), str(workers)],
        cwd=Path(__file__).parent, capture_output=True, text=True, check=True,
    )  # fmt: skip
    held: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
    print(f"peak: {held}", file=sys.stderr)
    return held


def read(folder: Path, workers: int) -> None:
    """Read an epoch in batches of 32 and print the peaks."""
    loader = Loader.of(opened(folder, workers), "train", 32, seed=0)
    for _ in loader.epoch(0):
        pass
    count = len(loader.split)
    del loader  # its workers end, so that their peak is known
    # not ru_maxrss of this process, which begins with that of the one that started it
    status = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    own = next(1024 * int(line.split()[1]) for line in status if line.startswith("VmHWM"))
    children = 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    print(json.dumps({"images": count, "process": own, "largest_worker": children}))


def often(folder: Path, times: int, out: Path) -> Path:
    """A folder in which each training image has so many names."""
    for path in folder.rglob("*.JPEG"):
        place = out / path.relative_to(folder).parent
        place.mkdir(parents=True, exist_ok=True)
        for i in range(times if path.is_relative_to(folder / "train") else 1):
            os.link(path, place / f"{path.stem}-{i:04}{path.suffix}")
    return out


def peaks(folder: Path, times: int, workers: int) -> list[dict[str, int]]:
    """Of the folder, and of one with so many times its images."""
    with tempfile.TemporaryDirectory(dir=folder.parent) as beside:
        return [peak(folder, workers), peak(often(folder, times, Path(beside)), workers)]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", help="drawn where none is given")
    parser.add_argument("--workers", type=int, nargs="+", default=[1])
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--passes", type=int, default=5)
    parser.add_argument("--memory", type=int, help="times the images")
    add_record(parser, "loader")
    args = parser.parse_args()
    torch.set_num_threads(1)
    folder = (args.folder or drawn(Path("runs/imagenet-like"))).resolve()
    record: dict[str, Any] = {}
    if args.record.exists():
        record = json.loads(args.record.read_text(encoding="utf-8"))
    record |= {"date": date.today().isoformat(), "processor": processor()}
    record |= {"torch": torch.__version__, "pillow": pillow}
    if args.passes:
        record["speed"] = [speeds(folder, args.batch, n, args.passes) for n in args.workers]
    if args.memory is not None:
        record["memory"] = peaks(folder, args.memory, args.workers[0])
    print(json.dumps(record, indent=1))
    write_record(args.record, record)


if __name__ == "__main__":
    main()
