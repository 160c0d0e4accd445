"""All corruptions of 10,000 images of 32 x 32, beside imagecorruptions.

    python benchmarks/bench_corruptions.py --peer-python ENV/bin/python [--images 10000]

ENV is an environment of its own with ``imagecorruptions`` in it. Each corruption at each severity:
ours on all images with two threads; the peer on ``--peer-images`` of the same images, one by one as
its interface has it, by one process for each core, so that both use the whole machine; its seconds
are scaled to the number of images.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import tempfile
import time
from datetime import date
from pathlib import Path

import numpy as np
import torch
from record_file import add_record, write_record

from steppe.robustness.corruptions import CORRUPTIONS, SEVERITIES, corrupt

PEER = """
import collections, collections.abc, json, sys, time, warnings
import numpy as np
warnings.filterwarnings("ignore")
from imagecorruptions import corrupt, corruptions
plain = corruptions.gaussian
# scikit-image has renamed this argument; nothing else is changed
corruptions.gaussian = lambda image, sigma=1, multichannel=False, **given: plain(
    image, sigma, channel_axis=-1 if multichannel else None, **given
)
path, part, parts, names = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4].split(",")
images, found = np.load(path)[part::parts], {}
for name in names:
    for severity in range(1, 6):
        try:
            corrupt(images[0], corruption_name=name, severity=severity)
            start = time.perf_counter()
            for image in images:
                corrupt(image, corruption_name=name, severity=severity)
        except Exception as error:
            found[f"{name}/{severity}"] = f"{type(error).__name__}: {error}"
            continue
        found[f"{name}/{severity}"] = time.perf_counter() - start
print(json.dumps(found))
"""


def images(count: int, seed: int = 0) -> np.ndarray:
    """Smooth random images ``[count, 32, 32, 3]`` of eight bits."""
    rng = np.random.default_rng(seed)
    coarse = torch.from_numpy(rng.random((count, 3, 8, 8), dtype=np.float32))
    smooth = torch.nn.functional.interpolate(coarse, size=32, mode="bicubic").clamp(0, 1)
    return (smooth * 255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()


def ours(held: np.ndarray) -> dict[str, float]:
    """Seconds for all images, by corruption and severity."""
    x = torch.from_numpy(held).permute(0, 3, 1, 2).float().div_(255).contiguous()
    found = {}
    for name in CORRUPTIONS:
        corrupt(x[:16], name, 1)
        for severity in SEVERITIES:
            start = time.perf_counter()
            corrupt(x, name, severity)
            found[f"{name}/{severity}"] = time.perf_counter() - start
    return found


def theirs(python: str, held: np.ndarray) -> dict[str, float | str]:
    """Seconds for these images when each core has a share, by corruption and severity."""
    cores = os.cpu_count() or 1
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "images.npy"
        np.save(path, held)
        limits = {"OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"}
        running = [
            subprocess.Popen(
                [python, "-c", PEER, str(path), str(i), str(cores), ",".join(CORRUPTIONS)],
                stdout=subprocess.PIPE,
                text=True,
                env=os.environ | limits,
            )
            for i in range(cores)
        ]
        parts = [json.loads(process.communicate()[0]) for process in running]
    found: dict[str, float | str] = {}
    for key, value in parts[0].items():
        values = [part[key] for part in parts]
        found[key] = value if isinstance(value, str) else max(values)
    return found


def main() -> None:
    """Measure, print a table and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--images", type=int, default=10000)
    parser.add_argument("--peer-python", help="of an environment with imagecorruptions")
    parser.add_argument("--peer-images", type=int, default=200)
    add_record(parser, "corruptions")
    args = parser.parse_args()
    held = images(args.images)
    mine = ours(held)
    scale = args.images / args.peer_images
    other = theirs(args.peer_python, held[: args.peer_images]) if args.peer_python else {}
    rows, failed = {}, {}
    for key, seconds in mine.items():
        rows[key] = {"seconds": round(seconds, 4)}
        peer = other.get(key)
        if isinstance(peer, float):
            rows[key]["peer_seconds"] = round(peer * scale, 2)
        elif peer is not None:
            failed[key] = peer
    both = [row for row in rows.values() if "peer_seconds" in row]
    record = {
        "date": date.today().isoformat(),
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, {torch.get_num_threads()} threads",
        "images": args.images,
        "peer_images": args.peer_images,
        "seconds": round(sum(mine.values()), 2),
        "peer_failed": failed,
        "rows": rows,
    }
    if both:
        record["peer_seconds"] = round(sum(row["peer_seconds"] for row in both), 1)
        record["seconds_of_the_same"] = round(sum(row["seconds"] for row in both), 2)
        record["times_faster"] = round(record["peer_seconds"] / record["seconds_of_the_same"], 1)
    for name in CORRUPTIONS:
        cells = [rows[f"{name}/{severity}"] for severity in SEVERITIES]
        own, peer = (sum(c.get(k, 0.0) for c in cells) for k in ("seconds", "peer_seconds"))
        print(f"{name:20} {own:8.2f} s {peer:10.1f} s")
    print({k: v for k, v in record.items() if k != "rows"})
    write_record(args.record, record)


if __name__ == "__main__":
    main()
