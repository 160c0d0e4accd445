"""One of the processes of a run: ``training_worker.py RECIPE.json OUT``; see two_processes.py.

``OUT-seen-RANK.pt`` then has the batches of a classifier that it trained on.
"""

import json
import sys
from pathlib import Path

import torch

import steppe
from seen_batches import seen
from steppe.engine import ranks

if __name__ == "__main__":
    recipe, out = sys.argv[1:]
    with seen() as batches:
        steppe.train(json.loads(Path(recipe).read_text()), out)
    torch.save(batches, f"{out}-seen-{ranks.rank()}.pt")
    ranks.leave(0)
