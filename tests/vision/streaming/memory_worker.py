"""Most bytes that an epoch of a folder needs: ``memory_worker.py FOLDER STREAM``; prints a number.

It is the sum of the peaks of this process and of the worker that decodes.
"""

import json
import multiprocessing
import os
import sys
from pathlib import Path

from steppe.vision.data import load
from steppe.vision.loader import Loader


def peak(process: int) -> int:
    """Most bytes of memory that a process ever had, of Linux."""
    lines = Path(f"/proc/{process}/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith("VmHWM"))


if __name__ == "__main__":
    folder, stream = sys.argv[1], json.loads(sys.argv[2])
    options = {"augment": ["flip", "random_erasing"], "stream": stream, "say": lambda note: None}
    data = load(folder, size=128, **options)
    loader = Loader.of(data, "train", 8, workers=1)
    seen = sum(len(labels) for epoch in range(2) for _, labels in loader.epoch(epoch))
    assert seen == 2 * len(data.train) // 8 * 8
    workers = [child.pid for child in multiprocessing.active_children()]
    assert len(workers) == 1
    print(sum(map(peak, [os.getpid(), *workers])))
