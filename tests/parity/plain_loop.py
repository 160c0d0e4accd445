"""A plain training loop and the same one with a sparsifier that does nothing, side by side.

Run as a program it is one of two ranks of test_plain_loop.py.
"""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist
from torch import nn
from torch.nn import functional as F
from torch.nn.parallel import DistributedDataParallel

import steppe
from steppe.engine import ranks

STEPS = 5
NEEDS_CLOSURE = {"LBFGS"}
OPTIONS = {
    "SGD": {"lr": 0.1, "momentum": 0.9, "weight_decay": 0.01},
    "RMSprop": {"lr": 0.01, "momentum": 0.9, "weight_decay": 0.01},
    "AdamW": {"lr": 0.01, "weight_decay": 0.1, "amsgrad": True},
}
MATRICES_ONLY, SPARSE_ONLY = {"Muon"}, {"SparseAdam"}
OPTIMIZERS = sorted(
    name
    for name, kind in vars(torch.optim).items()
    if isinstance(kind, type)
    and issubclass(kind, torch.optim.Optimizer)
    and kind is not torch.optim.Optimizer
    and name not in NEEDS_CLOSURE
)
PAIR = "SGD and AdamW"
SCENARIOS = ("frozen", "unused", "added", "unfrozen", "accumulated", "clipped", "scaled")


class Network(nn.Module):
    """Words and numbers into one of two heads."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.words = nn.Embedding(11, 6, sparse=False)
        self.trunk, self.norm = nn.Linear(6, 5), nn.BatchNorm1d(5)
        self.a, self.b = nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, words, head):
        hidden = F.dropout(self.norm(self.trunk(self.words(words))).relu(), 0.2)
        return (self.a, self.b)[head](hidden)


def optimizers(name, model, params):
    """The optimisers of a case; one that takes only some tensors has another beside it."""
    make = getattr(torch.optim, name, None)
    params = list(params)
    if name == PAIR:
        parts = [p for p in params if p.ndim > 1], [p for p in params if p.ndim == 1]
        made = zip(("SGD", "AdamW"), parts, strict=True)
        return [getattr(torch.optim, n)(p, **OPTIONS[n]) for n, p in made]
    if name in MATRICES_ONLY | SPARSE_ONLY:
        own = [p for p in params if p.ndim == 2 and (name not in SPARSE_ONLY or len(p) == 11)]
        rest = [p for p in params if not any(p is q for q in own)]
        return [make(own, lr=0.01), torch.optim.SGD(rest, **OPTIONS["SGD"])]
    return [make(params, **OPTIONS.get(name, {"lr": 0.01}))]


def batch(step, part, rank=0):
    generator = torch.Generator().manual_seed(1000 * rank + 10 * step + part)
    return torch.randint(11, (8,), generator=generator), torch.randint(3, (8,), generator=generator)


def run(name, scenario, ours, *, rank=0, world=1, method=None):
    """The model and the optimisers after a run.

    Args:
        ours: with a sparsifier, or the plain loop.
        method: of the sparsifier; dense if None.
    """
    inner = Network()
    inner.words.sparse = name in SPARSE_ONLY
    torch.manual_seed(7 + rank)
    late = [*inner.a.parameters()] if scenario == "added" else []
    if scenario in ("frozen", "unfrozen"):
        inner.trunk.requires_grad_(False)
    start = [p for p in inner.parameters() if not any(p is q for q in late)]
    several = optimizers(name, inner, start)
    model = inner
    if world > 1:
        model = DistributedDataParallel(inner, find_unused_parameters=True)
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**6) if scenario == "scaled" else None
    clip = 0.05 if scenario == "clipped" else None
    parts = 2 if scenario == "accumulated" else 1
    sparsifier = None
    if ours:
        method = method or steppe.methods.dense()
        given = several if len(several) > 1 else several[0]
        sparsifier = steppe.sparsify(
            model, given, method, STEPS, clip_grad_norm=clip, scaler=scaler
        )
    for step in range(STEPS):
        if scenario == "added" and step == 2:
            several[-1].add_param_group({"params": late})
        if scenario == "unfrozen" and step == 2:
            inner.trunk.requires_grad_(True)
        head = int(step % 3 == 0) if scenario == "unused" else 0
        huge = float("inf") if scenario == "scaled" and step == 3 else 1.0

        def loss(part, step=step, head=head, huge=huge):
            x, y = batch(step, part, rank)
            return F.cross_entropy(model(x, head), y) * huge

        if sparsifier is not None:
            sparsifier.step(*[lambda part=part, f=loss: f(part) for part in range(parts)])
        else:
            plain_step(
                several, inner, model, [loss] * parts, scaler, clip, late if step < 2 else []
            )
    if sparsifier is not None:
        sparsifier.finish()
    return inner, several


def plain_step(several, inner, model, losses, scaler, clip, outside):
    """What every tutorial does."""
    for optimizer in several:
        optimizer.zero_grad()
    for part, loss in enumerate(losses):
        waits = part < len(losses) - 1 and hasattr(model, "no_sync")
        with model.no_sync() if waits else torch.enable_grad():
            mean = loss(part) / len(losses)
            (scaler.scale(mean) if scaler else mean).backward()
    used = [
        o for o in several if any(p.grad is not None for g in o.param_groups for p in g["params"])
    ]
    for optimizer in used if scaler else ():
        scaler.unscale_(optimizer)
    if clip is not None:
        stepped = [p for p in inner.parameters() if not any(p is q for q in outside)]
        nn.utils.clip_grad_norm_(stepped, clip)
    for optimizer in used if scaler else several:
        scaler.step(optimizer) if scaler else optimizer.step()
    if scaler:
        scaler.update()


def in_company(name, scenario):
    """Whether a case is run on two ranks too: each optimiser and each scenario, not all of both."""
    return name not in SPARSE_ONLY and (name in ("AdamW", PAIR) or scenario == "unused")


def differences(name, scenario, rank=0, world=1):
    """What differs between the plain loop and ours, by name; empty if all is equal to the bit."""
    (plain, theirs), (dense, own) = (
        run(name, scenario, ours, rank=rank, world=world) for ours in (False, True)
    )
    a, b = plain.state_dict(), dense.state_dict()
    wrong = [key for key in a if not torch.equal(a[key], b[key])]
    for one, other in zip(theirs, own, strict=True):
        states = one.state_dict()["state"], other.state_dict()["state"]
        if states[0].keys() != states[1].keys():
            wrong.append(f"state of {set(states[0]) ^ set(states[1])}")
        for index, entries in states[0].items():
            for key, value in entries.items():
                mine = states[1].get(index, {}).get(key)
                if not torch.equal(torch.as_tensor(value), torch.as_tensor(mine)):
                    wrong.append(f"{key} of {index}")
    return wrong


def flat(make, rank, rho, *, own=lambda model: model.parameters()):
    """Buffers, foreign gradients and the next draw after a step of a rank on DDP."""
    torch.manual_seed(0)
    inner = nn.Sequential(nn.Linear(8, 6), nn.BatchNorm1d(6), nn.Dropout(0.3), nn.Linear(6, 3))
    model = make(inner)
    optimizer = torch.optim.SGD(own(inner), lr=0.0)
    sparsifier = steppe.sparsify(model, optimizer, steppe.methods.dense(rho=rho), 2)
    torch.manual_seed(rank)
    for _ in range(2):
        x, (_, y) = torch.randn(8, 8), batch(0, 0, rank)
        sparsifier.step(lambda x=x, y=y: F.cross_entropy(model(x), y))
    owned = {id(p) for g in optimizer.param_groups for p in g["params"]}
    foreign = [p.grad for p in inner.parameters() if id(p) not in owned]
    return [*inner.buffers(), *foreign, torch.rand(2)]


def traces(rank):
    """What a second pass leaves behind on two ranks; empty if nothing."""
    wraps = {
        "plain": DistributedDataParallel,
        "views": lambda m: DistributedDataParallel(m, gradient_as_bucket_view=True),
    }
    wrong = []
    for name, wrap in wraps.items():
        for own in (lambda m: m.parameters(), lambda m: m[0].parameters()):
            one, two = (flat(wrap, rank, rho, own=own) for rho in (0.0, 0.5))
            wrong += [
                f"{name} {i}"
                for i, (a, b) in enumerate(zip(one, two, strict=True))
                if not torch.equal(a, b)
            ]
    return wrong


if __name__ == "__main__":
    own_rank, folder = int(sys.argv[1]), Path(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group(
        "gloo", init_method=f"file://{folder}/meet", rank=own_rank, world_size=2
    )
    seen = {
        f"{name}/{scenario}": differences(name, scenario, own_rank, 2)
        for name in [*OPTIMIZERS, PAIR]
        for scenario in SCENARIOS
        if in_company(name, scenario)
    }
    seen["traces of a second pass"] = traces(own_rank)
    (folder / f"rank{own_rank}.json").write_text(json.dumps(seen))
    ranks.leave(0)
