"""Trains language models as a whole in a process of its own; prints how its memory grew.

    python peak.py RECIPE.json...

Each recipe is run for what it says; beside what was measured stands what was planned.
"""

import gc
import json
import sys
import tempfile
import threading
import time
from pathlib import Path

import torch

from steppe.engine import host_memory
from steppe.experiment.causal_lm.experiment import LanguageExperiment
from steppe.experiment.causal_lm.recipe import parse
from steppe.llm.whole_training.memory import peak


def private():
    """Bytes that only this process holds; pages of files are not among them."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(x.split()[1]) for x in lines if x.startswith("RssAnon:"))


def grown(run):
    """By how much this process grew at most while something ran."""
    highest, ended = [0], threading.Event()

    def watch():
        while not ended.is_set():
            highest[0] = max(highest[0], private())
            time.sleep(0.002)

    before, watcher = private(), threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        ended.set()
        watcher.join()
    return highest[0] - before


def main(recipes):
    torch.set_num_threads(1)
    found = []
    for path in recipes:
        recipe = parse(json.loads(Path(path).read_text()))
        with tempfile.TemporaryDirectory() as folder:
            experiment = LanguageExperiment(recipe, Path(folder) / "run", quiet=True)
            setting, _ = experiment.plan()
            planned = peak(experiment.needed(setting), setting) - setting.held
            found.append({"measured": grown(experiment.train), "planned": planned})
        del experiment
        gc.collect()
        with host_memory.reused():  # what is left over goes back at its end
            pass
    print(json.dumps(found))


if __name__ == "__main__":
    main(sys.argv[1:])
