"""A removal plan: two small files that cut any fresh model of the same kind in the same way."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import unwrap
from steppe.core.serialization import damaged, load_tensors, write_tensors, write_text
from steppe.removal.surgery import Replaced, Stays, slice_model

FORMAT = 1
TEXT, TENSORS, WEIGHTS = "removal.json", "removal.safetensors", "model.safetensors"


@dataclass(frozen=True, eq=False)
class Plan:
    """What stays of each tensor of a model.

    Args:
        stays: name -> dimension -> positions that stay.
        meta: plain values for people: what was removed and why. ``shapes``, if there, says what
            the tensors were before, and is checked when the plan is applied.
    """

    stays: Stays
    meta: Mapping[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, model: nn.Module, stays: Stays, **meta: Any) -> Plan:
        """The plan for a model that is not cut yet, with the shapes that it has."""
        model = unwrap(model)
        tensors = dict([*model.named_parameters(), *model.named_buffers()])
        shapes = {name: list(tensors[name].shape) for name in stays if name in tensors}
        return cls(stays, {**meta, "shapes": shapes})

    def apply(self, model: nn.Module) -> Replaced:
        """Cut a fresh model of the kind that the plan was made for, in place.

        Raises:
            SteppeError: its tensors have other shapes; it is left as it was.
        """
        inner = unwrap(model)
        tensors = dict([*inner.named_parameters(), *inner.named_buffers()])
        for name, shape in self.meta.get("shapes", {}).items():
            own = list(tensors[name].shape) if name in tensors else "nothing of that name"
            if own != list(shape):
                raise SteppeError(
                    "a plan fits a fresh model of the kind that it was made of",
                    got=f"{name}: {own} where the plan has {list(shape)}",
                    consequence="nothing was changed",
                    way_out="build the model as it was before removal, then apply the plan once",
                )
        return slice_model(model, self.stays)

    def then(self, later: Plan) -> Plan:
        """One plan for two removals, of which ``later`` was made of the model after this one.

        Example:
            >>> import torch
            >>> first = Plan({"a": {0: torch.tensor([1, 2, 5])}}, {"shapes": {"a": [6]}})
            >>> second = Plan({"a": {0: torch.tensor([0, 2])}}, {"shapes": {"a": [3]}})
            >>> first.then(second).stays
            {'a': {0: tensor([1, 5])}}
        """
        stays = {name: dict(dims) for name, dims in self.stays.items()}
        for name, dims in later.stays.items():
            for dim, index in dims.items():
                kept = stays.setdefault(name, {})
                kept[dim] = kept[dim].gather(-1, index) if dim in kept else index
        removed = dict(self.meta.get("removed", {}))
        for name, count in later.meta.get("removed", {}).items():
            removed[name] = removed.get(name, 0) + count
        shapes = {**later.meta.get("shapes", {}), **self.meta.get("shapes", {})}
        return Plan(stays, {**self.meta, "removed": removed, "shapes": shapes})

    def save(self, folder: str | Path) -> None:
        """Write ``removal.json`` and ``removal.safetensors`` into a folder."""
        folder = Path(folder)
        tensors = {
            f"{name}:{dim}": index.cpu().contiguous().clone()
            for name, dims in self.stays.items()
            for dim, index in dims.items()
        }
        sizes = {
            name: {str(dim): len(index) for dim, index in dims.items()}
            for name, dims in self.stays.items()
        }
        text = {"format": FORMAT, "stays": sizes, "meta": dict(self.meta)}
        write_tensors(folder / TENSORS, tensors, {"format": str(FORMAT)})
        write_text(folder / TEXT, json.dumps(text, indent=1))

    @classmethod
    def load(cls, folder: str | Path) -> Plan:
        """Read what `save` wrote.

        Raises:
            SteppeError: the files are not there, or do not belong together.
        """
        folder = Path(folder)
        for name in (TEXT, TENSORS):
            if not (folder / name).is_file():
                raise SteppeError(
                    f"a plan is a folder with {TEXT} and {TENSORS}",
                    got=f"{folder} without {name}",
                    way_out="give the folder that was saved to",
                )
        try:
            text = dict(json.loads((folder / TEXT).read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise damaged(folder / TEXT, error) from None
        stays: dict[str, dict[int, Tensor]] = {}
        for key, kept in load_tensors(folder / TENSORS).items():
            name, _, dim = key.rpartition(":")
            stays.setdefault(name, {})[int(dim) if dim.isdecimal() else -1] = kept
        sizes = {
            name: {str(dim): len(index) for dim, index in dims.items()}
            for name, dims in stays.items()
        }
        if text.get("format") != FORMAT or sizes != text.get("stays"):
            raise SteppeError(
                f"{TEXT} and {TENSORS} must be of one plan, of format {FORMAT}",
                got=f"{folder}, where they differ",
                way_out="save the plan again",
            )
        return cls(stays, text["meta"])


def save_removed(folder: str | Path, model: nn.Module, plan: Plan) -> None:
    """Write a model's weights beside the plan; `load_removed` reads both.

    Args:
        folder: to write into; for a model of transformers its config is written too.
        model: after removal.
        plan: from the model as it was built to this one.
    """
    folder = Path(folder)
    model = unwrap(model)
    plan.save(folder)
    own = dict([*model.named_parameters(), *model.named_buffers()])  # a tied weight once
    saved = {name: tensor for name, tensor in own.items() if name in model.state_dict()}
    tensors = {name: t.detach().cpu().contiguous().clone() for name, t in saved.items()}
    write_tensors(folder / WEIGHTS, tensors, {"format": "pt"})


def load_removed(folder: str | Path, build: Callable[[], nn.Module]) -> nn.Module:
    """Load a model from which channels were removed.

    Args:
        folder: written by `save_removed`.
        build: makes the model as it was before removal, with any weights.

    Returns:
        The cut model with the weights of the folder, in evaluation mode.

    Raises:
        SteppeError: the folder or the model do not fit.
    """
    folder = Path(folder)
    model = build()
    inner = unwrap(model)
    Plan.load(folder).apply(inner)
    if not (folder / WEIGHTS).is_file():
        raise SteppeError(
            f"a folder of a removed model holds {WEIGHTS}",
            got=f"{folder} without it",
            way_out="write it with save_removed, or apply Plan.load(folder) alone",
        )
    weights = load_tensors(folder / WEIGHTS)
    own = dict([*inner.named_parameters(), *inner.named_buffers()])
    expected = {name: own[name].shape for name in own if name in inner.state_dict()}
    stored = {name: tensor.shape for name, tensor in weights.items()}
    if expected != stored:
        wrong = sorted(n for n in {*expected, *stored} if expected.get(n) != stored.get(n))
        raise SteppeError(
            "the weights of a removed model must fit its plan",
            got=f"{', '.join(wrong[:3])} in {folder}",
            way_out="build the model as it was before removal",
        )
    inner.load_state_dict(weights, strict=False)  # tied weights have one of their names here
    return model.eval()
