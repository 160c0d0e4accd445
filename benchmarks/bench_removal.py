"""What removal gains and costs here, beside torch-pruning's own pruner in the same run.

    python benchmarks/bench_removal.py --threads 2

- ResNet-56 at 60 % fewer multiply-adds: dense and removed network timed in turns at batch 64, and
  what the latency table predicted;
- surgery on ResNet-50: groups, cutting, checking;
- AdaSAP's perturbed step beside plain ASAM's;
- torch-pruning's pruner at equal parameters: accuracy straight after removal, time, what breaks.
"""

from __future__ import annotations

import argparse
import copy
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from datetime import date
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch
from record_file import add_record, write_record
from torch import Tensor, nn

import steppe
from steppe.budget.latency_knapsack import LatencyKnapsack
from steppe.core.cost_target import meet_cost
from steppe.core.group import masks_of
from steppe.core.speed import Speed
from steppe.engine.step.batchnorm import reestimate
from steppe.perturb.adasap import AdaSap
from steppe.perturb.asam import Asam
from steppe.removal.cost import COSTS
from steppe.removal.forward_timing import settle
from steppe.removal.latency_table import LatencyTable, measure_table
from steppe.vision.data import load
from steppe.vision.loader import Loader
from steppe.vision.models import build, load_weights, logits

SHARED = Path(__file__).parents[2] / "shared"


def times(arms: dict[str, Callable[[], Any]], repeats: int) -> dict[str, list[float]]:
    """Seconds of each arm, taking turns in changing order."""
    found: dict[str, list[float]] = {name: [] for name in arms}
    for work in arms.values():
        work()
        work()
    for repeat in range(repeats):
        names = list(arms)[repeat % len(arms) :] + list(arms)[: repeat % len(arms)]
        for name in names:
            begun = time.perf_counter()
            arms[name]()
            found[name].append(time.perf_counter() - begun)
    return found


def paired(held: dict[str, list[float]], first: str, second: str) -> Speed:
    pairs = [(1000 * a, 1000 * b) for a, b in zip(held[first], held[second], strict=True)]
    return Speed.of(pairs, "channels are removed")


def pretrained(name: str) -> nn.Module:
    model = build(name, 10)
    weights = SHARED / "models" / "cifar10-resnets" / f"{name}.safetensors"
    if weights.exists():
        load_weights(model, str(weights))
    return model.eval()


def chosen(model: nn.Module, example: Tensor, target: str, sparsity: float, round_to: int) -> Any:
    """Masks by the L2 norm, over all layers, at a share of a cost; and the widths."""
    groups = steppe.channel_groups(model, example, round_to=round_to)
    cost = COSTS[target].of(model, example, groups)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    units = {g.name: g.members(tensors).norm(dim=1) for g in groups}
    kept = meet_cost(units, groups, cost, (1 - sparsity) * cost.total({}))
    widths = {name: int(mask.sum()) for name, mask in kept.items()}
    return groups, masks_of(groups, kept, tensors), widths, cost


def measured_layers(path: Path, threads: int) -> None:
    """The table of ResNet-56's layers at batch 64."""
    torch.set_num_threads(threads)
    model, example = pretrained("resnet56"), torch.randn(1, 3, 32, 32)
    groups = steppe.channel_groups(model, example, round_to=8)
    measure_table(model, example, groups, (64,), path=path, round_to=8)


def speed(repeats: int, threads: int) -> dict[str, Any]:
    """At 60 % fewer multiply-adds, channels chosen in two ways."""
    model, example = pretrained("resnet56"), torch.randn(1, 3, 32, 32)
    groups, masks, widths, flops = chosen(model, example, "flops", 0.6, 8)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "table.json"
        # apart: after so many layers memory lies otherwise, and networks are timed in this process
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as apart:
            apart.submit(measured_layers, path, threads).result()
        table = LatencyTable.read(path)
    latency = COSTS["latency"].of(model, example, groups, table=table, batch=64)
    tensors = {name: p.detach() for name, p in model.named_parameters()}
    units = {g.name: g.members(tensors).norm(dim=1) for g in groups}
    budget = LatencyKnapsack(sparsity=0.5)
    low, high = 0.3, 0.9  # the share of the latency at which so many multiply-adds are left
    for _ in range(8):
        share = (low + high) / 2
        kept = budget.within_cost(units, groups, latency, share * latency.total({}))
        other = {name: int(mask.sum()) for name, mask in kept.items()}
        low, high = (low, share) if flops.total(other) > 0.4 * flops.total({}) else (share, high)
    kept = budget.within_cost(units, groups, latency, low * latency.total({}))
    ways = {
        "ranked by L2": (masks, widths),
        "latency_knapsack": (
            masks_of(groups, kept, tensors),
            {name: int(mask.sum()) for name, mask in kept.items()},
        ),
    }
    x = torch.randn(64, 3, 32, 32)
    settle()
    arms: dict[str, Callable[[], Any]] = {"dense": lambda: model(x)}
    for way, (mask, _) in ways.items():
        slim = steppe.remove(model, example, groups=groups, masks=mask).model.eval()
        arms[way] = lambda slim=slim: slim(x)  # type: ignore[misc]
    with torch.no_grad():
        held = times(arms, repeats)
    found: dict[str, Any] = {
        "threads": threads,
        "repeats": repeats,
        "dense_ms": 1000 * statistics.median(held["dense"]),
        "dense_predicted_ms": latency.total({}),
    }
    for way, (_, own) in ways.items():
        quick = 1000 * statistics.quantiles(held[way], n=4)[0]
        found[way] = {
            "flops_left": flops.total(own) / flops.total({}),
            "ms": 1000 * statistics.median(held[way]),
            "lower_quartile_ms": quick,
            "predicted_ms": latency.total(own),
            "prediction_error": latency.total(own) / quick - 1,
            "speed_up": paired(held, "dense", way).record(),
            "widths": own,
        }
    return found


def surgery() -> dict[str, float]:
    from transformers import ResNetConfig, ResNetForImageClassification

    torch.manual_seed(0)
    model, x = ResNetForImageClassification(ResNetConfig()).eval(), torch.randn(1, 3, 224, 224)
    begun = time.perf_counter()
    _, masks, _, _ = chosen(model, x, "parameters", 0.5, 8)
    choosing = time.perf_counter() - begun
    begun = time.perf_counter()
    done = steppe.remove(model, x, masks=masks)
    return {
        "choosing_s": choosing,
        "removing_s": time.perf_counter() - begun,
        "error": done.report["error"],
        "parameters_left": done.report["parameters"][1] / done.report["parameters"][0],
    }


def perturbation(repeats: int) -> dict[str, float]:
    """A whole step (two passes, optimiser) with each, batch 128, ResNet-20."""
    x, y = torch.randn(128, 3, 32, 32), torch.randint(0, 10, (128,))

    def arm(perturb: Any) -> Callable[[], None]:
        torch.manual_seed(0)
        model = build("resnet20", 10)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9)
        method = steppe.methods.dense().replace(perturb=perturb)
        sparsifier = steppe.sparsify(model, optimizer, method, 10**9)
        return lambda: sparsifier.step(  # type: ignore[return-value]
            lambda: nn.functional.cross_entropy(model(x), y)
        )

    arms = {"asam": arm(Asam(rho=0.5)), "adasap": arm(AdaSap(rho_max=0.5))}
    held = times(arms, repeats)
    return {"adasap_over_asam": paired(held, "adasap", "asam").ratio} | {
        f"{name}_ms": 1000 * statistics.median(own) for name, own in held.items()
    }


def beside_torch_pruning(sparsity: float) -> dict[str, Any]:
    """Accuracy straight after removal, batch norm as it was and re-estimated, and time."""
    import torch_pruning as tp

    name = str(SHARED / "data" / "cifar10-jpeg")
    data = load(name, train_size=2560, test_size=5000, cache="runs/.cache")
    tester, trainer = (Loader.of(data, part, 500) for part in ("test", "train"))
    example = torch.randn(1, 3, 32, 32)

    def accuracy(model: nn.Module) -> float:
        right = seen = 0
        model.eval()
        with torch.no_grad():
            for x, y in tester.epoch(0):
                right, seen = right + int((logits(model, x).argmax(1) == y).sum()), seen + len(y)
        return right / seen

    def both(model: nn.Module) -> list[float]:
        first = accuracy(model)
        again = copy.deepcopy(model)
        reestimate(again, (x for x, _ in trainer.epoch(0)), logits)
        return [first, accuracy(again)]

    found: dict[str, Any] = {}
    for network in ("resnet20", "vgg11-bn"):
        model = pretrained(network) if network == "resnet20" else _taught(network, data)
        whole = sum(p.numel() for p in model.parameters())
        own: dict[str, Any] = {}
        begun = time.perf_counter()
        groups, masks, _, _ = chosen(model, example, "parameters", sparsity, 1)
        slim = steppe.remove(model, example, groups=groups, masks=masks).model
        own["steppe_s"] = time.perf_counter() - begun
        left = sum(p.numel() for p in slim.parameters())
        own["steppe"] = {"parameters_left": left / whole, "accuracy": both(slim)}
        begun = time.perf_counter()
        try:
            other, tried = _pruned_by_peer(tp, model, example, left)
            own["torch_pruning_s"] = time.perf_counter() - begun
            count = sum(p.numel() for p in other.parameters())
            own["torch_pruning"] = {
                "parameters_left": count / whole,
                "tries": tried,
                "accuracy": both(other),
            }
        except Exception as error:  # what breaks is what is measured
            own["torch_pruning"] = f"{type(error).__name__}: {str(error).splitlines()[0]}"
        found[network] = own
    return found


def _taught(network: str, data: Any) -> nn.Module:
    """Four epochs, as no trained weights of it are at hand."""
    torch.manual_seed(0)
    model = build(network, 10)
    loader = Loader.of(data, "train", 64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.02, momentum=0.9, weight_decay=5e-4)
    for epoch in range(4):
        for x, y in loader.epoch(epoch):
            optimizer.zero_grad()
            nn.functional.cross_entropy(logits(model, x), y).backward()
            optimizer.step()
    return model.eval()


def _pruned_by_peer(
    tp: Any, model: nn.Module, example: Tensor, wanted: int
) -> tuple[nn.Module, int]:
    """Its ratio is of channels; bisected until the parameters are those wanted."""
    low, high, tries = 0.0, 1.0, 0
    best: nn.Module | None = None
    while tries < 14:
        tries += 1
        ratio = (low + high) / 2
        copied = copy.deepcopy(model)
        head = [m for m in copied.modules() if isinstance(m, nn.Linear)][-1]
        pruner = tp.pruner.BasePruner(
            copied,
            example,
            importance=tp.importance.GroupMagnitudeImportance(p=2),
            global_pruning=True,
            pruning_ratio=ratio,
            ignored_layers=[head],
        )
        pruner.step()
        copied(example)
        left = sum(p.numel() for p in copied.parameters())
        if left > wanted:
            low = ratio
        else:
            high, best = ratio, copied
            if left > 0.99 * wanted:
                break
    assert best is not None, "no ratio leaves as few parameters"
    return best, tries


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=31)
    add_record(parser, "removal")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    found = {
        "date": str(date.today()),
        "machine": platform.machine(),
        "torch": torch.__version__,
        "threads": arguments.threads,
        "speed": speed(arguments.repeats, arguments.threads),
        "surgery": surgery(),
        "perturbation": perturbation(arguments.repeats),
        "torch_pruning": beside_torch_pruning(0.4),
    }
    write_record(arguments.record, found)
    print(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
