"""One rank of a run whose weights are split; started by test_split_selector.py, once per rank."""

import copy
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn

import steppe
from steppe import methods
from steppe.core.serialization import save_state
from steppe.core.split import load_parts, parts_in, whole_state
from steppe.engine import ranks
from steppe.engine.sharding import shard

STEPS, BREAK = 8, 5
SHORT = {"sparsity": 0.6, "interval": 3, "penalty": 0.1}
CASES = {
    "safe-uniform": methods.safe(budget="uniform", rho=0.2, **SHORT),
    "safe-pooled": methods.safe(rho=0.2, **SHORT),
    "admm-auto": methods.admm(sparsity=0.6),
    "elsa": methods.elsa(penalty_schedule="linear", objective="task", **SHORT),
    "elsa-second-moment": methods.elsa(score="adam_second_moment", objective="task", **SHORT),
    "gmp-fisher": methods.gmp(sparsity=0.6, every=2, score="fisher", budget="uniform"),
    "gmp-asam": methods.gmp(sparsity=0.6, every=2).replace(perturb="asam"),
    "iht-nm": methods.iht(structure="2:4"),
    "soft-mask-erk": methods.gmp(sparsity=0.6, every=2, budget="erk").replace(coupling="soft_mask"),
    "msam": methods.gmp(sparsity=0.6, every=2).replace(perturb="msam"),
    "elsa-aware": methods.elsa(
        0.6, interval=3, penalty=0.1, penalty_schedule="cosine", score="adam_second_moment"
    ),
    "functional-sam": methods.safe(budget="uniform", **SHORT).replace(
        perturb={"name": "functional_sam", "rho": 0.2}
    ),
    "dense": methods.dense(),
}


def network():
    torch.manual_seed(0)
    # rows that two processes cannot share evenly, and one that only the first one holds
    return nn.Sequential(nn.Linear(8, 13), nn.Tanh(), nn.Linear(13, 8), nn.Tanh(), nn.Linear(8, 1))


def batch(step):
    draw = torch.Generator().manual_seed(step)
    x = torch.randn(16, 8, generator=draw)
    return x, x.sin().sum(1, keepdim=True)


class Run:
    def __init__(self, case, rank, world):
        self.rank, self.world = rank, world
        exclude = ("2", "4") if case == "iht-nm" else ()
        self.model = network()
        if world > 1:
            shard(self.model, ["0", "2"], torch.device("cpu"))
        optimizer = torch.optim.Adam(self.model.parameters(), lr=0.02)
        self.sparsifier = steppe.sparsify(
            self.model, optimizer, CASES[case], STEPS, exclude=exclude, clip_grad_norm=1.0
        )

    def steps(self, start, end):
        for step in range(start, end):
            x, y = (t[self.rank :: self.world] for t in batch(step))

            def closure(rows, x=x, y=y):
                out = self.model(x[rows])
                return self.sparsifier.loss((out - y[rows]).square().mean(), outputs=out)

            halves = [slice(0, None, 2), slice(1, None, 2)]
            self.sparsifier.step(*[lambda r=r, c=closure: c(r) for r in halves])

    def state(self):
        """As a run's checkpoint has it."""
        return parts_in(
            {"model": self.model.state_dict(), "sparsifier": self.sparsifier.state_dict()}
        )

    def load(self, state):
        load_parts(self.model, state["model"])
        self.sparsifier.load_state_dict(state["sparsifier"])

    def end(self):
        before = {n: t.clone() for n, t in whole_state(self.model, True).items()}
        done = self.sparsifier.finish()
        return {
            "before": before,
            "after": whole_state(self.model, True),
            "masks": done.masks,
            "numbers": [done.zeros, done.total, done.units_zeroed, done.reached, done.distance],
        }


def run(case, rank=0, world=1):
    """A run, and another one that goes on from its state in the middle."""
    first = Run(case, rank, world)
    first.steps(0, BREAK)
    state = copy.deepcopy(first.state())  # as a file would hold it
    first.steps(BREAK, STEPS)
    again = Run(case, rank, world)
    again.load(state)
    again.steps(BREAK, STEPS)
    return {"whole": first.end(), "resumed": again.end()}


if __name__ == "__main__":
    rank, world, folder = int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=world
    )
    save_state(folder / f"rank{rank}", {case: run(case, rank, world) for case in CASES})
    ranks.leave(0)
