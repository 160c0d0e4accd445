"""A masked language model written anew without the units that its masks say are gone."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.group import positions
from steppe.core.serialization import write_text
from steppe.llm.checkpoint import write_shard
from steppe.llm.model import StreamedModel
from steppe.llm.skeleton import config_of, skeleton
from steppe.llm.structured.depth import drop_blocks, misplaced
from steppe.llm.structured.family import of_family, others
from steppe.llm.structured.readers import groups_by_reader, kept_units
from steppe.llm.structured.residual import ResidualStream, residual_stream
from steppe.removal.mixtures import mixtures_of
from steppe.removal.plan import Plan
from steppe.removal.surgery import slice_model, slice_tensor
from steppe.removal.transformer_config import update_config

CONFIG = "config.json"
HIDDEN = "hidden"


@dataclass(frozen=True)
class Cut:
    """What of a model stays.

    Args:
        kept: weight that reads units -> ``[units]`` booleans.
        blocks: names of the decoder blocks that stay, in order.
        experts: weight of a router -> ``[experts]`` booleans.
        hidden: ``[hidden size]`` booleans: dimensions of the residual stream; None: all.
    """

    kept: Mapping[str, Tensor]
    blocks: tuple[str, ...]
    experts: Mapping[str, Tensor] = field(default_factory=dict)
    hidden: Tensor | None = None

    @classmethod
    def of(
        cls,
        model: StreamedModel,
        masks: Mapping[str, Tensor],
        stay: Mapping[str, int] | None = None,
    ) -> Cut:
        """What masks leave: a unit that nothing reads is gone.

        All blocks keep as many, since a config has one number for all: where more were zero before
        than had to go, some that are zero stay.

        Args:
            model: that the masks are of.
            masks: name -> booleans, True = kept.
            stay: weight that reads units -> how many of them stay, of each expert; if not given, as
                many as of any layer that reads as many of them.
        """
        alive, most = dict[str, Tensor](), dict[tuple[str, int], int]()
        readers = {x.name: x for x in model.layers() if x.reads and x.name in masks}
        for name, layer in readers.items():
            units = kept_units(layer, masks[name])
            alive[name] = units.view(layer.shape[0] if layer.stacked else 1, -1)
            alike = layer.reads, units.numel()
            most[alike] = max(most.get(alike, 1), int(alive[name].sum(1).max()))
        counts = stay or {n: most[readers[n].reads, k.numel()] for n, k in alive.items()}
        kept = {n: _as_many(k, counts[n]).flatten() for n, k in alive.items()}
        return cls(kept, tuple(model.names))

    def said(self, model: StreamedModel) -> str:
        """In words: 504 of 672 neurons."""
        readers = {x.name: x for x in model.layers() if x.reads}
        counts = {
            readers[n].reads: f"{int(k.sum())} of {k.numel()} {readers[n].reads}"
            for n, k in self.kept.items()
        }
        for kept in self.experts.values():
            counts["experts"] = f"{int(kept.sum())} of {kept.numel()} experts"
        if self.hidden is not None:
            counts["hidden"] = f"{int(self.hidden.sum())} of {self.hidden.numel()} dimensions"
        if len(self.blocks) < len(model):
            counts["blocks"] = f"{len(self.blocks)} of {len(model)} blocks"
        return ", ".join(counts.values())

    def plan(self, model: nn.Module, stream: ResidualStream | None = None) -> Plan:
        """The cut of a model's tensors; whole blocks apart.

        Args:
            model: with the shapes before.
            stream: its residual stream, where dimensions of it go.
        """
        every = groups_by_reader(model)
        groups = {name: every[name] for name in self.kept}
        groups |= {m.name: m.group() for m in mixtures_of(model) if m.name in self.experts}
        parameters = model.named_parameters(remove_duplicate=False)
        shapes = {n: tuple(t.shape) for n, t in (*parameters, *model.named_buffers())}
        kept = {**self.kept, **self.experts}
        named: dict[str, Tensor] = {groups[n].name: k for n, k in kept.items()}
        if stream is not None and self.hidden is not None:
            groups[HIDDEN], named[stream.group.name] = stream.group, self.hidden
        stays = positions(list(groups.values()), named, shapes)
        first = {n for n, _ in (*model.named_parameters(), *model.named_buffers())}
        stays = {n: dims for n, dims in stays.items() if n in first}  # what is tied has one name
        return Plan.of(model, stays, removed={n: int((~k).sum()) for n, k in named.items()})


def _as_many(alive: Tensor, stay: int) -> Tensor:
    """So many kept in each row: the first of those that are gone come back where some lack.

    Example:
        >>> import torch
        >>> _as_many(torch.tensor([[True, False, True, False]]), 3).tolist()
        [[True, True, True, False]]
    """
    assert not (alive.sum(1) > stay).any(), "more units stayed than were asked for"
    order = (~alive).int().argsort(dim=1, stable=True)
    return torch.zeros_like(alive).scatter_(1, order[:, :stay], True)


def cut(source: StreamedModel, what: Cut, out: Path, family: str | None = None) -> Plan:
    """Write the model without what is gone; one block is in memory at a time.

    Args:
        source: the masked model; its shapes are those of the cut one afterwards.
        what: stays.
        out: the new folder.
        family: as which it is written, see `steppe.llm.structured.family`.

    Returns:
        What was cut.

    Raises:
        SteppeError: no config says the new shapes.
    """
    config, plan = configured(source, what, family)
    total = len(what.blocks) + (source.shards - len(source))
    inside = _by_block(plan, source.names)
    for index, name in enumerate(source.names):
        if name not in what.blocks:
            continue
        number = what.blocks.index(name)
        source.read(index)
        slice_model(source.blocks[index], inside[name])
        tensors = _renumbered(source.stored(index), name, number)
        write_shard(out, number + 1, total, tensors)
        source.free(index)
    source.write_rest(out, _outside(source, what, family), blocks=len(what.blocks))
    write_text(out / CONFIG, json.dumps(config, indent=2) + "\n")
    plan.save(out)
    return plan


def stream_of(source: StreamedModel, hidden: Tensor, family: str | None = None) -> ResidualStream:
    """Where the residual stream lies of which some dimensions stay.

    Args:
        source: the model.
        hidden: ``[hidden size]`` booleans.
        family: as which it is written.

    Raises:
        SteppeError: no config says the new width.
    """
    stored = json.loads((source.folder / CONFIG).read_text(encoding="utf-8"))
    return residual_stream(of_family(stored, family), int(hidden.sum()), source.dtype)


def _outside(source: StreamedModel, what: Cut, family: str | None) -> dict[str, Tensor]:
    """What lies outside of the blocks, cut, where dimensions of the residual stream go."""
    if what.hidden is None:
        return {}
    stream, places = stream_of(source, what.hidden, family), what.hidden.nonzero().flatten()
    source.load_rest(head=True)
    named = dict(source.model.named_parameters(remove_duplicate=False))
    inside = tuple(f"{name}." for name in source.names)
    slices = [s for s in stream.group.slices if not s.name.startswith(inside)]
    cut_out = {s.name: slice_tensor(named[s.name], {s.dim: places}) for s in slices}
    source.free_rest()
    return cut_out


def configured(
    source: StreamedModel,
    what: Cut,
    family: str | None = None,
    flags: Mapping[str, Any] | None = None,
) -> tuple[dict[str, Any], Plan]:
    """The config of the cut model as its file will say it, and the cut.

    Args:
        source: the masked model, or the dense one.
        what: stays.
        family: as which the model is written, see `steppe.llm.structured.family`.
        flags: what the config will say besides, see `steppe.llm.structured.biases`.

    Raises:
        SteppeError: no config says the new shapes.
    """
    stored = json.loads((source.folder / CONFIG).read_text(encoding="utf-8"))
    written = of_family(stored | dict(flags or {}), family)
    model = skeleton(config_of(written), source.dtype)
    before = model.config.to_dict()
    stream = None
    if what.hidden is not None:
        stream = stream_of(source, what.hidden, family)
        model.tie_weights()
    plan = what.plan(model, stream)
    said = {} if stream is None else dict(stream.config)
    model.config.update(said)
    plan.apply(model)
    gone = [name for name in source.names if name not in what.blocks]
    drop_blocks(model, gone)
    # blocks alone leave all sizes as they were
    reason = update_config(model) if plan.stays or not gone else ""
    if not reason and gone:
        reason = misplaced(written, gone, source.dtype)
    if reason:
        ways = [f"--family {name}" for name in others(written)]
        if any(x.reads == "heads" for x in source.layers() if x.name in what.kept):
            ways.append("--structure neurons")
        raise SteppeError(
            "a model is loadable by plain from_pretrained when its config says all its shapes",
            got=f"{type(model).__name__} with {what.said(source)}: {reason}",
            way_out=", or ".join([*ways, "another --sparsity"]),
        )
    now = model.config.to_dict()
    written = {k: v for k, v in written.items() if k in now or k not in before}
    new = written | said | {k: v for k, v in now.items() if before.get(k) != v}
    aliases: dict[str, str] = getattr(type(model.config), "attribute_map", {})
    return new | {k: new[real] for k, real in aliases.items() if {k, real} <= new.keys()}, plan


def _by_block(plan: Plan, names: list[str]) -> dict[str, dict[str, Any]]:
    """Block -> what stays of its tensors, by their names in it."""
    inside: dict[str, dict[str, Any]] = {name: {} for name in names}
    for tensor, dims in plan.stays.items():
        name = next((n for n in names if tensor.startswith(f"{n}.")), None)
        if name is not None:  # else it lies outside of them
            inside[name][tensor.removeprefix(f"{name}.")] = dims
    return inside


def _renumbered(tensors: dict[str, Tensor], name: str, new: int) -> dict[str, Tensor]:
    """Keys of a block of the checkpoint with its new number.

    A checkpoint may lack what stands before the list (``h.3.``), or call the list otherwise; the
    block's number is the first one in any case.

    Args:
        tensors: of the block, under the checkpoint's keys.
        name: of the block in the model.
        new: its number.
    """
    *_, place, old = name.split(".")
    keys = {}
    for key in tensors:
        keys[key], found = re.subn(rf"((?:^|\.){place}\.){old}\.", rf"\g<1>{new}.", key, count=1)
        if not found:
            keys[key], found = re.subn(rf"^(\D*\.){old}\.", rf"\g<1>{new}.", key)
        assert found, f"{key} is of {name} and says no number"
    assert len(set(keys.values())) == len(keys), f"two tensors of {name} would have one name"
    return {keys[key]: tensor for key, tensor in tensors.items()}
