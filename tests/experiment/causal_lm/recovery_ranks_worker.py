"""Two ranks that recover a pruned language model, whole and split; started by test_recovery.py.

python -m torch.distributed.run --nproc-per-node 2 recovery_ranks_worker.py OPTIONS.json FOLDER
"""

import json
import sys
from pathlib import Path

import torch

import steppe
from steppe.engine import ranks

if __name__ == "__main__":
    torch.set_num_threads(1)
    options, folder = json.loads(Path(sys.argv[1]).read_text()), Path(sys.argv[2])
    for name, shard in (("ddp", False), ("split", True)):
        steppe.recover(out=folder / name, shard=shard, **options)
    ranks.leave(0)
