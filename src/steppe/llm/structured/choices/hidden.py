"""Dimensions of the residual stream that go: ranked in one walk, gone and made up for in another."""

from __future__ import annotations

import contextlib
import copy
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.coupling.reread import Reread
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import unit_budget
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.states import HiddenStates
from steppe.engine.host_memory import reused
from steppe.llm import memory
from steppe.llm.checkpoint import INDEX
from steppe.llm.model import StreamedModel
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.choice import CHECKS, CHOOSERS, Choice
from steppe.llm.structured.choices.units import MASKED
from steppe.llm.structured.cut import Cut, configured, stream_of
from steppe.llm.structured.fresh_record import FreshRecord
from steppe.llm.structured.narrow import narrow, narrowed_norm, scaled
from steppe.llm.structured.norm_outputs import Moments, given_by, readers_of, sizes
from steppe.llm.structured.residual import ResidualStream
from steppe.structure.hidden import Hidden

JOURNAL = "hidden.json"


@CHOOSERS.register("hidden")
def narrowed(prepared: PreparedPruning, report: Report) -> Choice:
    """Rank the dimensions in the dense model, then write it with zeros where some are gone.

    Each walk goes on where it was.

    Raises:
        SteppeError: a weight is no number, and all that measuring raises.
    """
    measured = FreshRecord(prepared, prepared.texts())
    walk = _Walk(prepared, report, measured)
    rows = walk.run()
    prepared.model.free_rest()
    kept, stream = walk.kept, walk.stream
    cut = Cut({}, tuple(prepared.model.names), hidden=kept)
    record = measured.of(rows, walk.notes, **walk.said)

    def without(source: StreamedModel) -> contextlib.AbstractContextManager[None]:
        return narrow(source.model, stream.norms, kept, stream.scales)

    return Choice(cut=cut, source=walk.folder, record=record, without=without)


class _Walk:
    """Twice over the blocks, one in memory at a time; two while what reads norms is fitted.

    Args:
        prepared: what to prune and how.
        report: called with each block's row of the record.
        measured: keeps the time.
    """

    def __init__(self, prepared: PreparedPruning, report: Report, measured: FreshRecord) -> None:
        self._prepared, self._report, self._measured = prepared, report, measured
        self._model, self._coupling = prepared.model, _coupling(prepared)
        self.folder = prepared.out / MASKED
        checkpoints = prepared.out / "checkpoints"
        self._journal = Journal(checkpoints / JOURNAL)
        self.stream, self._lost = _asked(prepared)
        self._dense = self._states = None
        if prepared.tokens is not None and prepared.needs_text:
            given = (self._model, prepared.tokens, checkpoints, prepared.config.micro_batch)
            self._dense = HiddenStates(*given, name="dense")
            self._states = HiddenStates(*given)
        self.rows: list[dict[str, Any]] = list(self._journal.get("blocks", []))
        self.notes: list[str] = list(self._journal.get("notes", []))

    @property
    def kept(self) -> Tensor:
        """``[hidden size]`` booleans, once they are chosen."""
        alive = torch.zeros(self.stream.group.units, dtype=torch.bool)
        alive[self._journal.get("kept")] = True
        return alive

    @property
    def said(self) -> dict[str, Any]:
        """What the record says of the dimensions."""
        kept, journal = self.kept, self._journal
        parameters, places = 0, {s.name: s.dim for s in self.stream.group.slices}
        named = dict(self._model.model.named_parameters(remove_duplicate=False))
        for name in self._model.stored_names(named):
            size = named[name].numel()
            parameters += size * int(kept.sum()) // kept.numel() if name in places else size
        whole = self._model.parameters()
        return {
            "sparsity_reached": 1 - float(kept.double().mean()),
            "sparsity_of_all": 1 - parameters / whole,
            "hidden": {
                "kept": journal.get("kept"),
                "scores": journal.get("scores"),
                "last_norm": journal.get("last_norm"),
            },
        }

    def run(self) -> list[dict[str, Any]]:
        """What is left to do; the rows of all blocks."""
        with reused():
            if self._journal.get("kept") is None:
                self._choose()
            for row in self.rows:
                self._report(row)
            if not (self.folder / INDEX).is_file():
                self._rewrite()
        if ranks.first():
            for path in self._journal.path.parent.glob("*.bin"):
                path.unlink()
        ranks.barrier()
        return self.rows

    # which dimensions

    def _choose(self) -> None:
        """Rank the dimensions and put into the journal which stay."""
        method, model = self._prepared.method, self._model
        weight = model.model.get_input_embeddings().weight
        known: dict[str, Tensor] = {}
        if method.score.needs:
            known["norm_output"] = self._sizes().float()
        model.load_rest(head=False)
        weight = model.model.get_input_embeddings().weight.detach().float().norm(dim=0)[None]
        name = self.stream.group.name
        layer = Layer(name, tuple(weight.shape))
        saliency = method.score.score(weight, known, name)
        units = method.score.reduce(method.structure.groups(saliency, layer)).abs()
        alive = unit_budget(method).within(units, prune=self._lost)
        self._journal.put(
            kept=alive.flatten().nonzero().flatten().tolist(),
            scores=[float(f"{u:.6g}") for u in units.flatten().tolist()],
        )

    @torch.no_grad()
    def _sizes(self) -> Tensor:
        """The mean of |n_j| over tokens and norms of the dense model, ``[hidden size]``."""
        model, states, norms = self._model, self._dense, self.stream.norms
        assert states is not None, "a score that needs text, which was checked"
        done = int(self._journal.get("ranked", 0))
        total = torch.zeros(self.stream.group.units, dtype=torch.float64, device=model.device)
        if done:
            total += torch.tensor(self._journal.get("sizes"), dtype=torch.float64).to(total)
        self._begin(states, done)
        for index in range(done, len(model)):
            block, here = model.load(index), torch.zeros_like(total)
            own = [block.get_submodule(n) for n in self._inside(index, norms)]
            for windows in states.slices():
                hidden = states.of(index).tensor[windows].to(model.device)
                given: list[Tensor] = []
                here += sizes(own, lambda h=hidden, i=index: given.append(model.call(i, h)))
                states.of(index + 1).tensor[windows] = given[0].float().cpu()
            states.of(index + 1).flush()
            ranks.add_up([here])
            total += here
            model.free(index)
            self._journal.put(ranked=index + 1, sizes=total.tolist())
            self._measured.keep_time()
        last, here = self._last_norm(), torch.zeros_like(total)
        for windows in states.slices():
            hidden = states.of(len(model)).tensor[windows].to(model.device)
            here += last(hidden).flatten(0, -2).abs().double().sum(0)
        ranks.add_up([here])
        return (total + here) / (states.tokens.numel() * len(norms))

    # the model without them

    @torch.no_grad()
    def _rewrite(self) -> None:
        model, kept = self._model, self.kept
        states = (self._dense, self._states) if self._coupling.looks else ()
        for each in states:
            assert each is not None, "norms are looked at, which needs text"
            self._begin(each, len(self.rows), kept if each is self._states else None)
        for index in range(len(self.rows), len(model)):
            self.rows.append(self._block(index, kept))
            self._journal.put(blocks=self.rows, notes=self.notes)
            self._measured.keep_time()
            self._report(self.rows[-1])
        self._rest(kept)

    def _begin(self, states: HiddenStates, done: int, kept: Tensor | None = None) -> None:
        """The inputs of the first block that is left, or of the first one."""
        self._model.inputs(0, states.tokens[:1])  # so that it knows how blocks are called
        if done:
            states.resume(done)
            return
        states.embed(0)
        if kept is not None:
            for windows in states.slices():
                states.of(0).tensor[windows] *= kept
            states.of(0).flush()
            ranks.barrier()

    def _inside(self, index: int, names: Any) -> list[str]:
        """Those of some names that are in a block, as it has them."""
        front = f"{self._model.names[index]}."
        return [n.removeprefix(front) for n in names if n.startswith(front)]

    def _block(self, index: int, kept: Tensor) -> dict[str, Any]:
        """A block without the dimensions, written; its row of the record."""
        began, model = time.perf_counter(), self._model
        block = model.load(index)
        norms, dense = self._inside(index, self.stream.norms), None
        if self._coupling.looks:
            dense = copy.deepcopy(block)
            assert self._dense is not None, "norms are looked at, which needs text"
            self._dense.propagate(index)
            self._dense.of(index + 1).flush()
        loaded = time.perf_counter()
        own = dict(block.named_parameters())
        front = f"{model.names[index]}."
        for s in self.stream.group.slices:
            if s.name.startswith(front):
                s.fill(own[s.name.removeprefix(front)], ~kept, 0.0)
        factors: dict[str, float] = {}
        with narrow(block, norms, kept):
            if dense is not None:
                factors = self._made_up(index, dense, kept)
            fitted = time.perf_counter()
            model.round(index)
            if self._states is not None and self._coupling.looks:
                self._states.propagate(index)
                self._states.of(index + 1).flush()
                ranks.barrier()
        nonzero = sum(int(torch.count_nonzero(p)) for p in own.values())
        if ranks.first():
            self.folder.mkdir(parents=True, exist_ok=True)
            model.write(index, self.folder)
        ranks.barrier()
        model.free(index)
        ended = time.perf_counter()
        seconds = {"load": loaded - began, "prune": fitted - loaded, "propagate": ended - fitted}
        lies_in = {s.name for s in self.stream.group.slices}
        lost = 1 - float(kept.double().mean())
        return {
            "block": index,
            "layers": [
                _row(x, lost)
                for x in model.layers()
                if x.block == model.names[index] and x.name in lies_in
            ],
            "norms": factors,
            "nonzero": nonzero,
            "seconds": {n: round(s, 4) for n, s in (seconds | {"all": ended - began}).items()},
        }

    def _made_up(self, index: int, dense: nn.Module, kept: Tensor) -> dict[str, float]:
        """Scale a block's norms and fit what reads them, one after the other; the factors."""
        model, states, beside = self._model, self._states, self._dense
        assert states is not None and beside is not None, "norms are looked at"
        block, places = model.blocks[index], kept.nonzero().flatten()
        own, whole = dict(block.named_parameters()), dict(dense.named_parameters())
        reads = self._inside(index, self.stream.names("input"))
        dims = {s.name: s.dim for s in self.stream.group.slices}
        norms = {n: dense.get_submodule(n) for n in self._inside(index, self.stream.norms)}
        first = beside.of(index).tensor[:1].to(model.device)
        found = readers_of(
            norms,
            {n: dense.get_submodule(n.rpartition(".")[0]) for n in reads},
            partial(model.call, index, first, dense),
        )
        alone = sorted(set(reads) - {reader for some in found.values() for reader in some})
        if alone and self._coupling.fit:
            self.notes.append(
                f"{model.names[index]}: {len(alone)} layers read something else than what a norm "
                f"of the block gives ({alone[0]}) and were not fitted"
            )
        factors = {}
        for name, readers in found.items():
            norm, fit = block.get_submodule(name), bool(readers) and self._coupling.fit
            if not (fit or self._coupling.scale):
                continue
            moments = Moments(norm, places, fit)
            for windows in states.slices():
                before, now = (
                    each.of(index).tensor[windows].to(model.device) for each in (beside, states)
                )
                moments.add(
                    given_by(norms[name], partial(model.call, index, before, dense)),
                    given_by(norm, partial(model.call, index, now)),
                )
            moments.finish()
            factor = moments.factor if self._coupling.scale else 1.0
            if fit:
                matrix = moments.matrix(self._coupling, factor)
                for reader in readers:
                    dim = dims[f"{model.names[index]}.{reader}"]
                    _reread(own[reader], whole[reader], dim, matrix, places)
            else:
                scaled(norm, factor)
            factors[f"{model.names[index]}.{name}"] = factor
        return factors

    def _last_norm(self) -> nn.Module:
        self._model.load_rest(head=True)
        return self._model.model.get_submodule(self.stream.last_norm)

    def _rest(self, kept: Tensor) -> None:
        """What lies outside of the blocks, written: embeddings, last norm, head."""
        model, stream, places = self._model, self.stream, kept.nonzero().flatten()
        norm, count = self._last_norm(), len(self._model)
        named = dict(model.model.named_parameters(remove_duplicate=False))
        table, head = named[stream.group.name], model.model.get_output_embeddings()
        tied = head is None or head.weight is table
        factor, new = 1.0, {}
        if self._coupling.looks:
            assert self._states is not None and self._dense is not None, "norms are looked at"
            fit = self._coupling.fit and not tied
            moments = Moments(norm, places, fit)
            for windows in self._states.slices():
                before, now = (
                    each.of(count).tensor[windows].to(model.device).flatten(0, -2)
                    for each in (self._dense, self._states)
                )
                own = torch.zeros_like(now)
                own[:, places] = narrowed_norm(norm, places)(now[:, places])
                moments.add(norm(before), own)
            moments.finish()
            factor = moments.factor if self._coupling.scale else 1.0
            if fit:
                name = next(n for n, p in named.items() if p is head.weight)
                new[name] = torch.zeros_like(named[name])
                matrix = moments.matrix(self._coupling, factor)
                _reread(new[name], named[name], 1, matrix, places)
                factor = 1.0
        self._journal.put(last_norm=factor)
        for place, (old, now) in stream.scales.items():
            weight = named[f"{place}.weight"]
            weight.mul_(old / now)
            if head is not None and head.weight is weight:
                factor *= now / old
        scaled(norm, factor)
        for s in stream.group.slices:
            if s.name in named and not s.name.startswith(tuple(f"{n}." for n in model.names)):
                if s.name not in new:
                    s.fill(named[s.name], ~kept, 0.0)
                    new[s.name] = named[s.name]
        if ranks.first():
            model.write_rest(self.folder, new)
        ranks.barrier()
        model.free_rest()


def _reread(new: Tensor, whole: Tensor, dim: int, matrix: Tensor, places: Tensor) -> None:
    """W' = W M, in the columns that stay; in place."""
    columns = whole.movedim(dim, -1).double() @ matrix
    new.movedim(dim, -1)[..., places.to(new.device)] = columns.to(new.dtype)


def _row(layer: Layer, lost: float) -> dict[str, Any]:
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "sparsity_asked": lost,
        "sparsity_before": 0.0,
        "sparsity_reached": lost,
    }


def _coupling(prepared: PreparedPruning) -> Reread:
    coupling = prepared.method.coupling
    assert isinstance(coupling, Reread), "structure hidden takes no other"
    return coupling


def _asked(prepared: PreparedPruning) -> tuple[ResidualStream, int]:
    """The stream as it will be, and how many dimensions go.

    Raises:
        SteppeError: none goes, or no config says the new width.
    """
    method, model = prepared.method, prepared.model
    assert isinstance(method.structure, Hidden), "it removes hidden"
    width = model.hidden_size
    stays = method.structure.stays(width, method.sparsity)
    if stays == width:
        raise SteppeError(
            "one dimension of the residual stream at least goes",
            got=f"sparsity {method.sparsity:g} of {width} dimensions, in multiples of "
            f"{method.structure.round_to}",
            way_out=f"--sparsity {method.structure.round_to / width:g}",
        )
    kept = torch.arange(width) < stays
    return stream_of(model, kept, prepared.config.family), width - stays


@CHECKS.register("hidden")
def check(prepared: PreparedPruning) -> None:
    """Whether a config can say the new width, and text can go from block to block.

    Raises:
        SteppeError: it cannot.
    """
    model, config = prepared.model, prepared.config
    if config.recover:
        raise SteppeError(
            "what is recovered has zeros that are kept",
            got="--recover with structure hidden, of which no zero is left",
            way_out="leave it out; what comes out trains as any model of transformers",
        )
    if config.include or config.exclude:
        raise SteppeError(
            "dimensions of the residual stream go from all that lies in it",
            got=f"a pattern, {[*config.include, *config.exclude][0]!r}",
            way_out="no pattern; or structure neurons, of which some layers may stay whole",
        )
    if "," in model.prefix or not model.predicts:
        raise SteppeError(
            "dimensions are removed from models of one list of blocks that predict each next token",
            got=f"{type(model.model).__name__} with blocks in {model.prefix}",
            way_out="--structure neurons",
        )
    width = model.hidden_size
    _, lost = _asked(prepared)
    kept = torch.arange(width) < width - lost
    configured(model, Cut({}, tuple(model.names), hidden=kept), config.family)
    memory.decide(prepared, prepared.texts())
    if not model.chained:
        assert model.verdict is not None, "it was decided"
        raise SteppeError(
            "dimensions go from models in which only hidden states go from block to block",
            got=model.verdict.reason or "a model that is called whole",
            way_out="--structure neurons",
        )
