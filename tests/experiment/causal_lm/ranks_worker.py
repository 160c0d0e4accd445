"""Two ranks that train a language model, whole and split; started by test_experiment.py.

python -m torch.distributed.run --nproc-per-node 2 ranks_worker.py RECIPE.json FOLDER
"""

import json
import sys
from pathlib import Path

import torch

import steppe
from steppe.engine import ranks
from steppe.llm.tokens.batches import TokenBatches


class Stop(Exception):
    pass


def stopped(recipe, out):
    """The run until it is stopped in its fourth step, in the middle of a part."""
    epoch, given = TokenBatches.epoch, []

    def stopping(self, number, start=0):
        for batch in epoch(self, number, start):
            if len(given) == 3:
                raise Stop
            given.append(batch)
            yield batch

    TokenBatches.epoch = stopping
    try:
        steppe.train(recipe, out)
    except Stop:
        return
    finally:
        TokenBatches.epoch = epoch
    raise AssertionError("it was not stopped")


if __name__ == "__main__":
    torch.set_num_threads(1)
    recipe, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    steppe.train(recipe, folder / "ddp")
    recipe["train"]["shard"] = True
    steppe.train(recipe, folder / "split")
    stopped(recipe, folder / "stopped")
    record = steppe.train(recipe, folder / "stopped")
    assert any("resumed after step 3" in note for note in record["notes"])
    recipe["method"]["objective"] = {"name": "distillation", "temperature": 1.0}
    steppe.train(recipe, folder / "distilled")
    ranks.leave(0)
