"""One of two processes of test_ranks: what they agree on, and that an error ends both."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from steppe import SteppeError, methods, sparsify
from steppe.core.layer import Layer
from steppe.engine import ranks
from steppe.engine.blockwise.calibration_collector import CalibrationCollector
from steppe.engine.blockwise.config import BlockwiseConfig, ReconstructionConfig
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.walk import Blockwise
from steppe.engine.step.channel_selector import ChannelSelector, coupled
from steppe.engine.step.epochs import Epochs


def load_toy() -> Any:
    spec = importlib.util.spec_from_file_location("toy", Path(__file__).with_name("toy.py"))
    assert spec is not None
    assert spec.loader is not None
    toy = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(toy)
    return toy


def sums(rank: int) -> dict[str, Any]:
    """Sums and least values over both."""
    added, low = torch.tensor([1.0, float(rank)]), torch.tensor([5, 3 + rank])
    ranks.add_up([added])
    ranks.least(low)
    return {"added": added.tolist(), "least": low.tolist()}


def collected(rank: int) -> dict[str, Any]:
    """w1 and w3 have one input, which only the first process sees; d is seen by nobody."""
    layers = {n: Layer(n, (3, 4)) for n in ("w1", "w3", "d", "both")}
    collector = CalibrationCollector(layers, ["gram", "activation_square"], torch.device("cpu"))
    x = torch.arange(12.0).reshape(3, 4)
    if rank == 0:
        collector.see("w1", x)
        collector.see("w3", x)
    collector.see("both", x[: rank + 1])
    collector.finish()
    return {
        "shared": collector.of("w1")["gram"] is collector.of("w3")["gram"],
        "w3": collector.of("w3")["gram"].tolist(),
        "both": collector.of("both")["activation_square"].tolist(),
        "unused": collector.unused(),
    }


def factors(rank: int, world: int) -> dict[str, Any]:
    """K-FAC's statistics after two steps, and the masks, where each process has its images."""
    torch.manual_seed(0)
    model: Any = nn.Sequential(nn.Conv2d(2, 3, 3), nn.ReLU(), nn.Flatten(), nn.Linear(12, 4))
    x, y = torch.randn(8, 2, 4, 4), torch.randint(4, (8,))
    x, y = x[rank::world], y[rank::world]
    if world > 1:
        model = nn.parallel.DistributedDataParallel(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    sparsifier = sparsify(model, optimizer, methods.mlprune(sparsity=0.5, at=1.0), 2)
    for _ in range(2):
        sparsifier.step(lambda: nn.functional.cross_entropy(model(x), y))
    held = sparsifier.state_dict()["statistics"]
    found = {f"{s} {n}": v.tolist() for s, values in held.items() for n, v in values.items()}
    return {"statistics": found, "mask": sparsifier.finish().masks["0.weight"].tolist()}


def searched(rank: int, name: str) -> dict[str, Any]:
    """The channels that a search keeps where the second process likes what the first does not."""
    import grouped

    torch.manual_seed(0)
    net = grouped.Net()

    def liked(kept: Any) -> float:
        return float(kept["stem.weight"].sum()) * (-1) ** rank

    short = {"eagleeye": {"candidates": 5}, "abcpruner": {"food": 3, "cycles": 2}}[name]
    layers, weights = coupled(net, grouped.groups())
    method = methods.make(name, sparsity=0.5, **short)
    select = ChannelSelector(method, layers, {}, grouped.groups(), evaluate_candidate=liked)
    kept = select.alive(select({n: w.detach() for n, w in weights.items()}, 0.5))
    return {group: units.tolist() for group, units in kept.items()}


def counted(rank: int) -> dict[str, Any]:
    """What is held of an epoch in its midst, and what comes of it: each sees another accuracy."""
    epochs = Epochs(2, 8, methods.pilot(sparsity=0.5))
    epochs.see(torch.tensor(0.25 + 0.5 * rank))
    assert epochs.end((1, 6)) is None
    held = epochs.seen.tolist()
    epochs.see(torch.tensor(0.75))
    ended = epochs.end((2, 6))
    assert ended is not None
    return {"held": held, "accuracy": ended.accuracy}


def journal(rank: int, folder: Path) -> dict[str, Any]:
    """What one puts, both hold; rank 0 writes."""
    held = Journal(folder / "deep" / "journal.json")
    before = held.get("a")
    held.put(a=1, rank=rank)
    return {"before": before, "again": Journal(folder / "deep" / "journal.json").get("rank")}


def walk(toy: Any, folder: Path, name: str, at: int | None = None) -> None:
    """A toy pruned by both; the second fails at a block when told to."""
    row = toy.Row(kind="experts")
    call = row.call

    def failing(index: int, hidden: Any, block: Any = None) -> Any:
        if index == at and ranks.rank() == 1:
            raise SteppeError("one process must not fail alone", got="rank 1")
        return call(index, hidden, block)

    row.call = failing
    config = BlockwiseConfig(
        micro_batch=2,
        reconstruction=ReconstructionConfig(epochs=2, warmup_epochs=0, batch_size=4, lr=1e-3),
    )
    method = methods.for_language(methods.make(name, sparsity=0.5))
    if name == "safe_plus":
        method = method.replace(objective={"name": "block_reconstruction", "start": "hard_mask"})
    Blockwise(row, method, config, toy.tokens(7), folder).run()


if __name__ == "__main__":
    place, number = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{place}/meet", rank=number, world_size=2)
    small = load_toy()
    found = {"rank": ranks.rank(), "world": ranks.world(), "first": ranks.first()}
    found |= {"share": [list(ranks.share(n)) for n in range(6)], **sums(number)}
    found |= {"collected": collected(number), "journal": journal(number, place)}
    found["factors"] = factors(number, 2)
    found["searched"] = {name: searched(number, name) for name in ("eagleeye", "abcpruner")}
    found["counted"] = counted(number)
    found["number_of_first"] = ranks.number_of_first(number + 0.1)
    for which in ("sparsegpt", "safe_plus"):
        walk(small, place / which, which)
    found["speaks"] = [ranks.speaks(), ranks.speaks()]
    (place / f"found-{number}.json").write_text(json.dumps(found))
    ranks.barrier()
    walk(small, place / "fails", "sparsegpt", at=1)
