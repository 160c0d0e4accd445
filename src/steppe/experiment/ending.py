"""What a finished run's record gets once the run is saved: sizes, times, notes, the gain."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from steppe.core.courtesy import Decoration
from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.core.speed import Speed
from steppe.core.text import counted
from steppe.engine.model_latency import compare
from steppe.engine.ranks import add_up
from steppe.engine.step.finished import advice, gentler
from steppe.engine.trainer import Outcome, Trainer
from steppe.experiment.channels import Channels, gains, slim
from steppe.experiment.recipe import Recipe
from steppe.method import Method
from steppe.robustness.surface import evaluating
from steppe.vision.data import ImageData
from steppe.vision.loader import Loader
from steppe.vision.models import logits


@dataclass
class Ending:
    """What is known when a run is saved, and what can be computed from it.

    Args:
        recipe: of the run.
        data: its images.
        outcome: of the training.
        trainer: with the network as it ended.
        original: the network as it began.
        example: one input.
        channels: of the network, where the method prunes channels.
    """

    recipe: Recipe
    data: ImageData
    outcome: Outcome
    trainer: Trainer
    original: nn.Module
    example: Tensor
    channels: Channels | None

    def all(self) -> dict[str, Decoration]:
        """What each computes -> how; for the reader, none of it for the network."""
        steps: dict[str, Decoration] = {}
        if not self.outcome.after:
            steps["the accuracy"] = lambda record: record["sparse"].update(self.trainer.evaluate())
        steps |= {"the sizes": self._sizes, "the latencies": self._latencies}
        if self.channels is not None:
            steps["what removal gains"] = self._removed
        steps |= self.of_data()
        return steps | {"the notes": self._notes, "the gain": self._gain}

    def of_data(self) -> dict[str, Decoration]:
        """What is computed of the data of this task."""
        return {} if self.data.clean_labels is None else {"what wrong labels did": self._believed}

    def doubts(self) -> list[str]:
        """What to say of a run that failed, or of one whose last cut cost much."""
        method = self.recipe.build_method()
        classes = self.data.num_classes
        failed = diverged_notes(self.outcome, method, classes)
        failed = failed or guessing_notes(self.outcome, method, classes)
        # one advice at a time: of a network that only guesses, the cut says nothing
        return failed or projection_notes(self.outcome, method)

    @property
    def _bare(self) -> nn.Module:
        bare: nn.Module = self.trainer.accelerator.unwrap_model(self.trainer.model)
        return bare

    def _sizes(self, record: dict[str, Any]) -> None:
        record["dense"] |= size(self.original)
        record["sparse"] |= size(self.trainer.plain, self.outcome.finished.masks)

    def _latencies(self, record: dict[str, Any]) -> None:
        # zeros in dense tensors are no reason to be faster
        one = compare(self.original, self._bare, self.example)
        record["dense"]["latency_ms"], record["sparse"]["latency_ms"] = one.dense_ms, one.sparse_ms
        record["speed"] = {"one": one.record()}

    def _removed(self, record: dict[str, Any]) -> None:
        """What is left when the channels are sliced out; sizes and times are of that network."""
        channels, dense, sparse = self.channels, record["dense"], record["sparse"]
        assert channels is not None
        removed = slim(self._bare, self.example, channels)
        gained = gains(self._bare, removed, self.example, channels, self.recipe.times_many)
        sparse |= size(removed.model)
        for key in (k for k in ("latency_ms", "flops", "latency_ms_64") if k in gained):
            dense[key], sparse[key] = gained[key]
        record["speed"] = gained["speed"]
        cost = channels.cost
        gained |= {"round_to": channels.round_to, "target": cost.unit}
        gained["cost"] = [cost.total({}), cost.total(gained["widths"])]
        record |= {"removed": gained, "left_out": channels.left_out}

    def _believed(self, record: dict[str, Any]) -> None:
        wrong = believed(self._bare, self.data, self.example.device)
        record |= {"label_noise": wrong} if wrong else {}

    def _notes(self, record: dict[str, Any]) -> None:
        record["doubts"] = self.doubts()
        record["notes"] += record["doubts"]
        record["notes"] += self.channels.notes() if self.channels is not None else []

    def _gain(self, record: dict[str, Any]) -> None:
        gained = record.get("removed")
        plain = gain(record["dense"], record["sparse"], record["speed"])
        record["gain"] = masked(gained) if gained else plain


def believed(model: nn.Module, data: ImageData, device: torch.device | str) -> dict[str, Any]:
    """What a network trained on wrong labels makes of its training images.

    Returns:
        ``changed`` labels, and of these images the shares that get the label ``given`` and the
        ``clean`` one; empty when no label was changed.
    """
    if data.clean_labels is None:
        return {}
    where = data.train.labels != data.clean_labels
    changed = data.train.take(where)
    parts = {"given": changed, "clean": changed.labelled(data.clean_labels[where])}
    shares: dict[str, Any] = {"changed": int(where.sum())}
    if not shares["changed"]:
        return shares
    with evaluating(model):
        for name, split in parts.items():
            loader = Loader.of(replace(data, test=split), "test", 500, device=device)
            shares[name] = clean(model, loader)["accuracy"]
    return shares


@torch.no_grad()
def clean(model: nn.Module, loader: Loader) -> dict[str, float]:
    """Accuracy (fraction) and mean cross entropy over a loader, each image once.

    Args:
        model: in eval mode.
        loader: of all images; or of this process's share, then all processes call this.

    Raises:
        SteppeError: it failed in another process.
    """
    found: Exception | None = None
    right, loss, seen = 0, 0.0, 0
    try:
        for x, y in loader.epoch(0):
            out = logits(model, x).float()
            right += int((out.argmax(-1) == y).sum())
            loss += float(F.cross_entropy(out, y, reduction="sum"))
            seen += len(y)
    except Exception as error:  # told to the others first, who would wait for this one
        found = error
    if loader.world > 1:
        sums = torch.tensor([right, loss, seen, found is not None], dtype=torch.float64)
        add_up([sums])
        right, loss, seen, failed = sums.tolist()
        if failed and found is None:
            raise SteppeError(
                "all processes measure their share",
                got="one that failed",
                way_out="it says why; mend that, and give the same command again",
            )
    if found is not None:
        raise found
    return {"accuracy": right / seen, "loss": loss / seen}


def size(model: nn.Module, masks: dict[str, Tensor] | None = None) -> dict[str, int]:
    """Parameters, how many are not zero, bytes as stored, bytes if zeros were a bit mask."""
    values = list(dict(unwrap(model).named_parameters()).items())
    parameters = sum(p.numel() for _, p in values)
    nonzero = sum(int(torch.count_nonzero(p)) for _, p in values)
    stored = sum(p.numel() * p.element_size() for _, p in values)
    packed = stored
    for name, mask in (masks or {}).items():
        element = dict(values)[name].element_size()
        packed -= int((~mask).sum()) * element - (mask.numel() + 7) // 8
    return {
        "parameters": parameters,
        "nonzero": nonzero,
        "bytes": stored,
        "bytes_packed": min(packed, stored),
    }


def projection_notes(outcome: Outcome, method: Method) -> list[str]:
    """What to say when the last projection cost accuracy: x and z had not met.

    Args:
        outcome: of the training.
        method: of the run.
    """
    if not (outcome.before and outcome.after):
        return []
    lost = outcome.before["accuracy"] - outcome.after["accuracy"]
    if lost < 0.02 or outcome.finished.distance == 0.0:
        return []
    said = (
        f"the last projection cost {100 * lost:.1f} points of accuracy and moved the weights by "
        f"{outcome.finished.distance:.1%}"
    )
    return [f"{said}; way out: {advice(method)}"]


def diverged_notes(outcome: Outcome, method: Method, classes: int) -> list[str]:
    """What to say where the loss ended far above that of guessing, and of the epochs before.

    Args:
        outcome: of the training.
        method: of the run.
        classes: of the images; guessing has a loss of log(classes).
    """
    losses = [float(row["train_loss"]) for row in outcome.metrics]
    guessing = math.log(classes)
    if not losses or losses[-1] <= 2 * max(guessing, min(losses[:-1], default=5 * guessing)):
        return []
    return [
        f"the loss of the last epoch is {losses[-1]:.3g}, where guessing has {guessing:.3g}: the "
        f"training diverged; way out: {gentler(method)}, in another folder"
    ]


def guessing_notes(outcome: Outcome, method: Method, classes: int) -> list[str]:
    """What to say of a network that answers hardly better than by chance.

    Hardly better: by half of what guessing gets right, or where that is much, as among few
    classes, by a twentieth of what it gets wrong.
    """
    accuracy, chance = outcome.after.get("accuracy", math.inf), 1 / classes
    if accuracy > chance + min(chance / 2, (1 - chance) / 20):
        return []
    sparse = "a lower sparsity, " if method.sparsity else ""
    return [
        f"{accuracy:.1%} is hardly better than guessing among {classes} classes ({chance:.1%}): "
        f"the run has failed; try {sparse}{gentler(method)}, or train longer"
    ]


def gain(dense: dict[str, Any], sparse: dict[str, Any], speed: dict[str, Any]) -> str:
    """One plain sentence: what was gained here, or that nothing was, and why.

    Args:
        dense: sizes of the network before pruning.
        sparse: after.
        speed: ``one`` and ``many`` -> `steppe.core.speed.Speed` as a record; see `times_of`.
    """
    smaller = dense["bytes"] / sparse["bytes_packed"]
    zeros = 1 - sparse["nonzero"] / sparse["parameters"]
    if zeros < 0.01:
        return "Nothing was pruned."
    return (
        f"{zeros:.1%} of all parameters are zero; with a bit mask they store {smaller:.1f}x "
        f"smaller; {times_of(speed)}."
    )


def masked(gained: dict[str, Any]) -> str:
    """Of a network whose channels are zero and still there: what it is once they are out.

    Args:
        gained: see `steppe.experiment.channels.gains`.

    Example:
        >>> masked({"channels": 0})
        'Nothing was pruned.'
    """
    count = gained["channels"]
    if not count:
        return "Nothing was pruned."
    are, them = ("are", "them") if count > 1 else ("is", "it")
    return (
        f"{counted(count, 'channel')} {are} zero; once steppe remove takes {them} out, "
        f"{cut(gained)}"
    )


def cut(gained: dict[str, Any]) -> str:
    """Of a network whose zero channels are out: what is gone with them.

    Args:
        gained: see `steppe.experiment.channels.gains`.
    """
    parameters, flops = (1 - gained[k][1] / gained[k][0] for k in ("parameters", "flops"))
    return (
        f"{parameters:.1%} of the parameters and {flops:.1%} of the multiply-adds are gone; "
        f"{times_of(gained['speed'])}."
    )


def times_of(speed: dict[str, Any]) -> str:
    """What is claimed of the time of one image and of 64, or why nothing is."""
    named = {"one": "one image", "many": "a batch of 64"}
    read = {name: Speed.read(speed.get(name)) for name in named}
    return "; ".join(s.sentence(named[name]) for name, s in read.items() if s is not None)
