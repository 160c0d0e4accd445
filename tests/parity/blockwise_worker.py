"""One rank of several that prune language models, started by test_blockwise_distributed.

    torchrun --nproc-per-node 2 blockwise_worker.py FOLDER

FOLDER holds ``llama``, ``mixture`` and ``words.txt``; each case is one ``steppe prune`` into
FOLDER/two/CASE.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from steppe.cli.main import main
from steppe.engine import ranks

COMMON = "--device cpu --precision float32 --samples 8 --window 16 --micro-batch 2 --seed 1 --quiet"
FIT = "--epochs 2 --batch-size 4 --warmup-epochs 0"
# A start that is sparse: from a dense one the first gradients are 0 but for rounding, which SAM
# and Adam bring to full length. Large steps, so that a wrong gradient is seen.
PAPER = f"{FIT} --set method.start=null"
STARTED = f"{PAPER} --lr 0.005 --rho 0.02 --penalty 0.1 --set objective.start=hard_mask"
# name -> model, flags
CASES = {
    "sparsegpt": ("llama", "--method sparsegpt --sparsity 0.5"),
    "sparsegpt-nm": ("llama", "--method sparsegpt --structure 2:4"),
    "wanda": ("llama", "--method wanda --sparsity 0.5"),
    "wanda-owl": ("llama", "--method wanda --sparsity 0.5 --budget owl"),
    "alps": ("llama", "--method alps --sparsity 0.5"),
    "safe": ("llama", f"--method safe --sparsity 0.5 {PAPER}"),
    "safe_plus": ("llama", f"--method safe_plus --sparsity 0.5 {FIT}"),
    "safe-started": ("llama", f"--method safe --sparsity 0.5 {STARTED}"),
    "seven-windows": ("llama", "--method sparsegpt --sparsity 0.5 --samples 7"),
    "one-window": ("llama", "--method wanda --sparsity 0.5 --samples 1"),
    # batches of 3, 3 and 1 windows: of the last, one rank has none
    "safe-seven-windows": (
        "llama",
        f"--method safe --sparsity 0.5 --samples 7 {STARTED} --batch-size 3"
        " --set objective.held_out=0",
    ),
    "safe-apart": (
        "llama",
        f"--method safe_plus --sparsity 0.5 {STARTED} --set objective.apart=true",
    ),
    "mixture": ("mixture", "--method sparsegpt --sparsity 0.5"),
    "mixture-one-window": ("mixture", "--method wanda --sparsity 0.5 --samples 1"),
    "mixture-safe": ("mixture", f"--method safe_plus --sparsity 0.5 {STARTED}"),
}


def run(case: str, folder: Path, out: Path) -> None:
    """One ``steppe prune``; under torchrun a part of it."""
    model, flags = CASES[case]
    words = str(folder / "words.txt")
    texts = ["--calibration", words, "--evaluate", words, "--evaluate-window", "32"]
    arguments = [str(folder / model), *texts, *COMMON.split(), *flags.split()]
    with pytest.raises(SystemExit) as ended:
        main(["prune", *arguments, "--out", str(out)])
    assert ended.value.code == 0, case


if __name__ == "__main__":
    place = Path(sys.argv[1])
    for name in CASES:
        run(name, place, place / "two" / name)
    ranks.leave(0)
