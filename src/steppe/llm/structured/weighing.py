"""Depth against width of a language model: what each costs, measured once, and what is best."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from functools import partial
from math import lcm
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import STACKED
from steppe.core.protocols import ShapeSearch, Structure
from steppe.engine import ranks
from steppe.engine.blockwise.held_out import windows_apart
from steppe.engine.blockwise.journal import Journal
from steppe.engine.progress import advanced
from steppe.llm import pruning_run
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning
from steppe.llm.streamed import streamed_perplexity
from steppe.llm.structured.agreement import compared
from steppe.llm.structured.block_trials import StreamedTrials
from steppe.llm.structured.choice import Choice
from steppe.llm.structured.choices.blocks import with_a_config
from steppe.llm.structured.cut import Cut, cut
from steppe.llm.structured.damage import Damage, levels, most_promising
from steppe.llm.structured.depth import passing_by
from steppe.llm.structured.shape import Shape
from steppe.llm.structured.target import Target, accepted_heads, shapes

JOURNAL = "weighing.json"
KINDS = ("blocks", "neurons", "heads")
TRIAL = "trial"
_ASIDE = ".gone-"


def structure_of(prepared: PreparedPruning) -> ShapeSearch:
    """The structure, which says what is looked at."""
    structure = prepared.method.structure
    assert isinstance(structure, ShapeSearch), "no other one removes depth and width"
    return structure


def offers(prepared: PreparedPruning) -> list[Shape]:
    """The shapes of which one is taken; no weights are read.

    Raises:
        SteppeError: there are none, or the model's blocks are not alike.
    """
    structure, whole = structure_of(prepared), Shape.of(prepared.model.config)
    if given := [dict(zip(KINDS, s, strict=True)) for s in structure.shapes]:
        _check_given(given, whole, structure)
        return list(dict.fromkeys(whole.resized(**counts) for counts in given))
    inside = whole.blocks * whole.block
    left = whole.outside + int((1 - prepared.method.sparsity) * inside)
    widths = _widths(prepared, whole)
    multiple = lcm(structure.round_to, STACKED if whole.experts else 1)
    kinds = (*structure.of, "blocks")
    target = Target("parameters", left, "")
    return shapes(target, whole, kinds, heads=widths.get("heads"), multiple=multiple)


def _check_given(given: list[dict[str, int]], whole: Shape, structure: ShapeSearch) -> None:
    """Whether shapes are of what the structure removes.

    Raises:
        SteppeError: one is not.
    """
    multiple = STACKED if whole.experts else 1
    for counts in given:
        most = {kind: int(getattr(whole, kind)) for kind in counts}
        got = f"{whole.resized(**counts).said()}, of {whole.said()}"
        if any(not min(1, most[kind]) <= n <= most[kind] for kind, n in counts.items()):
            raise SteppeError("no more stays than there is", got=got, way_out="other shapes")
        fewer = [kind for kind, n in counts.items() if n < most[kind]]
        if not fewer:
            raise SteppeError("of each shape something goes", got=got, way_out="leave this one out")
        if others := [kind for kind in fewer if kind not in (*structure.of, "blocks")]:
            raise SteppeError(
                "shapes have fewer of what the structure removes only",
                got=f"{got}, with structure {'+'.join((*structure.of, 'layers'))}",
                way_out=f"structure {'+'.join((*structure.of, *others, 'layers'))}, or shapes with "
                f"all {' and '.join(others)}",
            )
        if "neurons" in fewer and counts["neurons"] % multiple:
            raise SteppeError(
                f"neurons of stacked experts are a multiple of {multiple}",
                got=got,
                way_out="other shapes",
            )


def _widths(prepared: PreparedPruning, whole: Shape) -> dict[str, list[int]]:
    """Kind of units -> the numbers there may be of it, ascending."""
    structure, model = structure_of(prepared), prepared.model
    multiple = lcm(structure.round_to, STACKED if whole.experts else 1)
    found = {"neurons": [*range(multiple, whole.neurons, multiple), whole.neurons]}
    if "heads" in structure.of:
        stored = json.loads((model.folder / "config.json").read_text(encoding="utf-8"))
        found["heads"] = accepted_heads(stored, whole, prepared.config.family)
    return {kind: found[kind] for kind in structure.of}


def widths_tried(
    prepared: PreparedPruning, whole: Shape, offers: Sequence[Shape]
) -> dict[str, list[int]]:
    """Kind of units -> the numbers of it with which the model is tried, all else being whole."""
    structure, found = structure_of(prepared), dict[str, list[int]]()
    for kind, numbers in _widths(prepared, whole).items():
        least = min(getattr(shape, kind) for shape in offers)
        found[kind] = levels(numbers, least, structure.levels)
    return found


def windows_of(prepared: PreparedPruning) -> tuple[Tensor, Tensor, Tensor]:
    """Calibration windows that are fitted to, those that judge, and those that blocks are tried on.

    The last ones are some of the first.
    """
    structure, tokens = structure_of(prepared), prepared.tokens
    assert tokens is not None, "it was checked"
    judged = min(max(1, round(structure.held_out * len(tokens))), len(tokens) - 1)
    fit, held_out = windows_apart(len(tokens), judged)
    few = -(-structure.tokens // tokens.shape[1])
    return tokens[fit], tokens[held_out], tokens[fit][:few]


def masks_of(prepared: PreparedPruning, shape: Shape) -> dict[str, Tensor]:
    """Weight that reads units -> which stay, in a model of a shape; the first ones."""
    units = _units(structure_of(prepared), shape)
    kept = {}
    for layer in units.among(prepared.model.layers()):
        experts, count = units.units(layer)
        lost = units.count(layer, 0.0) or 0
        kept[layer.name] = (torch.arange(count) >= lost // experts).repeat(experts)
    return kept


def _units(structure: ShapeSearch, shape: Shape) -> Structure:
    keep = tuple((kind, int(getattr(shape, kind))) for kind in structure.of)
    return structure.within(keep)


def pruning_to(
    prepared: PreparedPruning, shape: Shape, model: Path, tokens: Tensor, out: Path
) -> PreparedPruning:
    """What makes units zero in a model that has as many blocks as a shape.

    Args:
        prepared: of depth and width.
        shape: says how many units stay.
        model: the folder of the model.
        tokens: calibration windows.
        out: the folder of the masked model.
    """
    changed = {"calibration": tokens, "evaluate": (), "recover": False, "family": None}
    changed |= {"measure": 0, "out": out}
    units = _units(structure_of(prepared), shape)
    method = prepared.method.replace(structure=units)
    return PreparedPruning(model, method, prepared.config.model_copy(update=changed))


class Weighing:
    """Measures what goes on windows that are held out, and finds the best shape; goes on.

    Everything that was measured is in a journal. Of the trial at work the blocks are.

    Args:
        prepared: the pruning.
        keep: called after each measurement.
    """

    def __init__(self, prepared: PreparedPruning, keep: Callable[[], None]) -> None:
        self._prepared, self._keep = prepared, keep
        self._structure = structure_of(prepared)
        self._folder = prepared.out / "checkpoints"
        self._journal = Journal(self._folder / JOURNAL)
        self._fit, self._held_out, self._few = windows_of(prepared)
        self.whole = Shape.of(prepared.model.config)
        self.offers = offers(prepared)

    # what is measured

    def best(self) -> Shape:
        """The shape with the least loss of those that are tried."""
        damage, tried = self._damage(), dict[Shape, float]()
        while len(tried) < min(self._structure.tried, len(self.offers)):
            shape = most_promising(self.offers, damage, tried)
            assert shape is not None, "some are left"
            title = f"shape {len(tried) + 1} of {self._structure.tried}"
            tried[shape] = self._loss(shape, title)
        rows = [
            {**_counts(shape), "foretold": damage.foretold(shape), "loss": loss}
            for shape, loss in tried.items()
        ]
        self._journal.put(tried=rows)
        return min(tried, key=lambda shape: tried[shape])

    def said(self, best: Shape) -> dict[str, Any]:
        """What the record says of it: losses of the next token on held-out windows."""
        keys = ("whole", "depth", "alone", "tried")
        known = {key: self._journal.get(key) for key in keys}
        return known | {
            "windows": len(self._held_out),
            "offers": len(self.offers),
            "best": _counts(best),
            "said": best.key,
        }

    def _damage(self) -> Damage:
        if self._journal.get("whole") is None:
            self._journal.put(whole=self._judged(self._prepared.model))
        whole = float(self._journal.get("whole"))
        rounds = self._depth()
        self._keep_sayable(rounds)
        alone = {"blocks": {self.whole.blocks: whole}}
        alone["blocks"] |= {self.whole.blocks - i: r["loss"] for i, r in enumerate(rounds, 1)}
        for kind, tried in widths_tried(self._prepared, self.whole, self.offers).items():
            alone[kind] = {getattr(self.whole, kind): whole}
            for place, number in enumerate(tried, 1):
                title = f"{number} {kind}, {place} of {len(tried)}"
                alone[kind][number] = self._loss(self.whole.resized(**{kind: number}), title)
        self._journal.put(alone=alone)
        return Damage(whole, alone)

    def _depth(self) -> list[dict[str, Any]]:
        """The blocks in the order in which they go, and what the model loses without them."""
        model, rounds = self._prepared.model, list(self._journal.get("depth", []))
        offered = {self.whole.blocks - shape.blocks for shape in self.offers}
        most = max(offered)
        while len(rounds) < most:
            began = time.perf_counter()
            title = f"blocks tried out, round {len(rounds) + 1} of {most}"
            gone = [row["block"] for row in rounds]
            rated = self._trials(self._few, gone, model.names, title).losses()
            lowest = sorted(rated, key=lambda name: rated[name])  # of equals the first
            going, passed_over = lowest[:1], list[str]()
            if len(gone) + 1 in offered:  # fewer are on the way only, and no model is written
                going, passed_over = with_a_config(self._prepared, gone, lowest, 1)
            block = going[0] if going else lowest[0]
            loss = self._trials(self._held_out, gone, [*gone, block], title).losses()[block]
            seconds = round(time.perf_counter() - began, 4)
            row = {"block": block, "rated": rated, "loss": loss, "seconds": seconds}
            row |= {"passed_over": passed_over} if passed_over else {}
            rounds.append(row | ({} if going else {"without_config": True}))
            self._journal.put(depth=rounds)
            self._keep()
        return rounds

    def _keep_sayable(self, rounds: list[dict[str, Any]]) -> None:
        """Leave out the shapes of which no config says the blocks, whichever goes last.

        Raises:
            SteppeError: none is left.
        """
        lost = {i for i, row in enumerate(rounds, 1) if row.get("without_config")}
        left = [s for s in self.offers if self.whole.blocks - s.blocks not in lost]
        if not left:
            raise SteppeError(
                "a model is loadable by plain from_pretrained when its config says all its shapes",
                got=rounds[min(lost) - 1]["passed_over"][0],
                way_out=f"shapes of other than {self.whole.blocks - min(lost)} blocks; or "
                f"--structure {'+'.join(self._structure.of)}",
            )
        self.offers = left

    @property
    def notes(self) -> list[str]:
        """What was passed over since no config says what would be left, in sentences."""
        said = list[str]()
        for lost, row in enumerate(self._journal.get("depth", []), 1):
            if row.get("without_config"):
                stay = self.whole.blocks - lost
                said.append(f"no shape of {stay} blocks was tried: {row['passed_over'][0]}")
            else:
                said += row.get("passed_over", [])
        return said

    def _trials(
        self, tokens: Tensor, gone: Sequence[str], may_go: Sequence[str], title: str
    ) -> StreamedTrials:
        watch = partial(advanced, title)
        size = self._prepared.config.micro_batch
        model = self._prepared.model
        trials = StreamedTrials(
            model, tokens, self._folder, size, may_go, lambda i, n: watch(i, n, "blocks")
        )
        for name in gone:
            trials.remove(name)
        return trials

    def _loss(self, shape: Shape, title: str) -> float:
        """Of a model of a shape, repaired; measured once."""
        known = dict(self._journal.get("losses", {}))
        if shape.key not in known:
            known[shape.key] = self._tried(shape, title)
            self._journal.put(losses=known)
            self._keep()
        return float(known[shape.key])

    def _tried(self, shape: Shape, title: str) -> float:
        rounds = self._journal.get("depth", [])
        if shape == self.whole.resized(blocks=shape.blocks):  # nothing to repair
            return float(rounds[self.whole.blocks - shape.blocks - 1]["loss"])
        folder = self._folder / TRIAL
        inner = self.pruning(shape, self._fit, folder)

        def watch(row: dict[str, Any]) -> None:
            advanced(title, row["block"] + 1, shape.blocks, "blocks")

        pruning_run.run(inner, watch)
        loss = self._judged(StreamedModel(str(folder), self._prepared.device))
        if ranks.first():
            _delete(folder)
        ranks.barrier()
        return loss

    def _judged(self, model: StreamedModel) -> float:
        size = self._prepared.config.micro_batch
        title = "perplexity on windows that are held out"
        measured = streamed_perplexity(model, self._held_out, self._folder, size, title=title)
        model.free_rest()
        return float(measured["loss"])

    # what is made

    def gone(self, shape: Shape) -> list[str]:
        """The blocks that a model of a shape lacks."""
        rounds = self._journal.get("depth", [])
        return [row["block"] for row in rounds[: self.whole.blocks - shape.blocks]]

    def pruning(self, shape: Shape, tokens: Tensor, out: Path) -> PreparedPruning:
        """What makes the units zero of a model of a shape, its blocks gone already.

        Args:
            shape: of the model.
            tokens: calibration windows.
            out: the folder of the masked model.
        """
        return pruning_to(self._prepared, shape, self._shorter(shape), tokens, out)

    def _shorter(self, shape: Shape) -> Path:
        """The folder of the dense model without the blocks that are gone."""
        model = self._prepared.model
        gone = self.gone(shape)
        if not gone:
            return model.folder
        folder = self._folder / f"blocks-{shape.blocks}"
        there = (folder / "removal.json").is_file()  # which is written last
        ranks.barrier()
        if there:
            return folder.resolve()
        what = Cut({}, tuple(name for name in model.names if name not in gone))
        device = self._prepared.device
        if ranks.first():
            self.clear()
            cut(StreamedModel(str(model.folder), device), what, folder)
        ranks.barrier()
        without = partial(passing_by, names=gone)
        compared(Choice(cut=what, source=model.folder, record={}, without=without), folder, device)
        return folder.resolve()

    def clear(self) -> None:
        """Delete the shorter models that were on the way."""
        if ranks.first():
            for folder in self._folder.glob("blocks-*"):
                _delete(folder)
            for folder in self._folder.glob(f"{_ASIDE}*"):  # of a run that was killed meanwhile
                shutil.rmtree(folder)


def _delete(folder: Path) -> None:
    """Delete a folder in a way that leaves no part of it under its name."""
    aside = folder.with_name(f"{_ASIDE}{folder.name}")
    shutil.rmtree(aside, ignore_errors=True)
    folder.rename(aside)
    shutil.rmtree(aside)


def _counts(shape: Shape) -> dict[str, int]:
    plain = asdict(shape)
    return {kind: plain[kind] for kind in KINDS}
