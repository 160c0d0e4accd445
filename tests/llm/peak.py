"""Prunes a model in a process of its own and prints how its private memory grew.

    python peak.py model method tokens out [live]

With ``live`` every allocation that is not tiny is a mapping of its own, so that what is counted is
what is alive, without the pieces that the C library keeps.
"""

import ctypes
import json
import sys
import threading
import time
from pathlib import Path

import torch

from steppe.cli.job import job
from steppe.engine import host_memory
from steppe.llm.memory import estimate
from steppe.llm.prune import run


def anonymous():
    """Bytes that only this process holds; pages of files are not among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith("RssAnon:"))


def main(model, method, tokens, out, live=""):
    torch.set_num_threads(1)
    if live:
        host_memory._set = lambda mapping, trim: None
        ctypes.CDLL(None).mallopt(-3, 1 << 15)  # M_MMAP_THRESHOLD
    asked = job(
        model, method, sparsity=0.5, calibration=tokens, out=Path(out), device="cpu", measure=2
    )
    needed = {which: sum(parts.values()) for which, parts in estimate(asked).items()}
    peak, ended = [0], threading.Event()
    before = anonymous()

    def watch():
        while not ended.is_set():
            peak[0] = max(peak[0], anonymous())
            time.sleep(0.002)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run(asked)
    finally:
        ended.set()
        watcher.join()
    # two files of hidden states, gone by now, took turns
    windows, window = asked.tokens.shape
    disk = sum(p.stat().st_size for p in Path(out).glob("*.safetensors"))
    disk += 2 * 4 * windows * window * asked.model.hidden_size
    print(json.dumps({"grown": peak[0] - before, "disk": disk, "estimate": needed}))


if __name__ == "__main__":
    main(*sys.argv[1:])
