"""One rank of a distributed run; started by test_distributed.py, once per rank.

It trains every case, one after another, and writes the weights of its own replica.
"""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.optim import ZeroRedundancyOptimizer
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import steppe
from steppe import methods
from steppe.core.serialization import save_state
from steppe.engine import ranks

STEPS = 12
SHORT = {"sparsity": 0.6, "interval": 3, "penalty": 0.1}
# radii from running means of gradients; a norm with the rows that it scales
ADASAP = methods.adasap(
    sparsity=0.6,
    structure="unstructured",
    score="magnitude",
    psi="fisher",
    rho_max=0.2,
    rho=0.2,
    every=2,
    warmup=0.2,
    pruned=0.9,
)
FUNCTIONAL = {"name": "functional_sam", "rho": 0.1}
LATER = {"name": "phased", "phases": [[0.99, "none"], [1.0, "sam"]]}
# method, sync, micro-batches
CASES = {
    "safe": (methods.safe(**SHORT), "global", 1),
    "safe-accumulated": (methods.safe(**SHORT), "global", 2),
    "safe_plus-fisher": (methods.safe_plus(score="fisher", **SHORT), "global", 1),
    "safe_plus-wanda": (methods.safe_plus(**SHORT), "global", 1),
    "gmp": (methods.gmp(sparsity=0.6, every=2), "global", 1),
    "gmp-groups": (methods.gmp(sparsity=0.6, every=2), "global", 1),
    "adasap": (ADASAP, "global", 2),
    "msam": (methods.gmp(sparsity=0.6, every=2).replace(perturb="msam"), "global", 2),
    "functional_sam": (methods.safe(**SHORT).replace(perturb=FUNCTIONAL), "global", 2),
    "safe-sharded": (methods.safe(sparsity=0.6), "global", 1),
    "safe-local": (methods.safe(**SHORT), "local", 1),
    "safe_plus-local": (methods.safe_plus(score="fisher", **SHORT), "local", 1),
    "admm-local": (methods.admm(**SHORT), "local", 1),
    "msam-local": (methods.gmp(sparsity=0.6, every=2).replace(perturb="msam"), "local", 2),
    "functional_sam-local": (methods.safe(**SHORT).replace(perturb=FUNCTIONAL), "local", 1),
    "none-then-sam-local": (methods.safe(**SHORT).replace(perturb=LATER), "local", 1),
    "safe-local-overflow": (methods.safe(**SHORT), "local", 1),
}
OVERFLOW = 4


def network():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(2, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(16, 8), nn.Tanh(), nn.Linear(8, 3)
    )


def batch(step):
    generator = torch.Generator().manual_seed(step)
    x = torch.randn(16, 2, 4, 4, generator=generator)
    return x, torch.randint(3, (16,), generator=generator)


def run(case, rank=0, world=1):
    """Weights and masks after the run of one rank on its share of each batch."""
    method, sync, split = CASES[case]
    inner = network()
    model = DistributedDataParallel(inner) if world > 1 else inner
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9, weight_decay=1e-4)
    if case.endswith("sharded") and world > 1:
        options = {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
        optimizer = ZeroRedundancyOptimizer(inner.parameters(), torch.optim.SGD, **options)
    overflows = case.endswith("overflow")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8) if overflows else None
    groups = [{"kind": "bias", "lr": 0.01, "weight_decay": 0}] if case.endswith("groups") else []
    options = steppe.StepOptions(sync=sync, optimizer_groups=groups)
    sparsifier = steppe.sparsify(model, optimizer, method, STEPS, scaler=scaler, options=options)
    for step in range(STEPS):
        x, y = (t[rank::world] for t in batch(step))
        # one rank alone sees an infinite loss
        scale = float("inf") if overflows and step == OVERFLOW and rank == 0 else 1.0

        def closure(rows, x=x, y=y, scale=scale):
            outputs = model(x[rows])
            loss = sparsifier.loss(F.cross_entropy(outputs, y[rows]), outputs=outputs)
            return loss * scale

        parts = [slice(i, None, split) for i in range(split)]
        sparsifier.step(*[lambda rows=rows, c=closure: c(rows) for rows in parts])
    before = {n: p.detach().clone() for n, p in inner.named_parameters()}
    done = sparsifier.finish()
    scale = scaler.get_scale() if scaler else 1.0
    return {"before": before, "masks": done.masks, "zeros": done.zeros, "scale": scale}


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    save_state(folder / f"rank{rank}", {case: run(case, rank, world) for case in CASES})
    ranks.leave(0)
