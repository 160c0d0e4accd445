"""Experts that go: ranked by what text makes of them, mixture by mixture, in the model so far."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import ExpertMerger
from steppe.core.text import counted
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import unit_budget
from steppe.engine.blockwise.journal import DONE_BEFORE, Journal
from steppe.engine.blockwise.states import HiddenStates
from steppe.engine.lap_times import LapTimes
from steppe.llm import memory
from steppe.llm.checkpoint import INDEX
from steppe.llm.model import StreamedModel
from steppe.llm.plan_trial import called_block, evaluation
from steppe.llm.prepare import PreparedPruning, Report
from steppe.llm.structured.choice import CHECKS, CHOOSERS, DONE, EXPECTATIONS, Choice, Expected
from steppe.llm.structured.choices.units import MASKED
from steppe.llm.structured.cut import Cut, configured
from steppe.llm.structured.expert_numbers import chosen_of, groups_of, numbers_of_experts
from steppe.llm.structured.fresh_record import FreshRecord
from steppe.llm.structured.merging import merge
from steppe.llm.structured.routing import RoutedTokens, rerouted
from steppe.removal.mixtures import GROUPS, Mixture, mixtures_of

Pair = tuple[Layer, Mixture]
JOURNAL = "journal.json"


@CHOOSERS.register("experts")
def ranked(prepared: PreparedPruning, report: Report) -> Choice:
    """Walk over the blocks of the dense model; each mixture is ranked once those before are cut.

    Raises:
        SteppeError: a weight is no number, and all that a walk over blocks raises.
    """
    measured, model = FreshRecord(prepared, prepared.texts()), prepared.model
    walk = _Walk(prepared, _pairs(prepared), report, measured.keep_time)
    rows = walk.run()
    model.free_rest()
    record = measured.of(rows, walk.notes)
    kept = walk.kept

    def without(source: StreamedModel) -> contextlib.AbstractContextManager[None]:
        return rerouted(source.model, kept)

    cut = Cut({}, tuple(model.names), kept)
    return Choice(cut=cut, source=walk.source, record=record, without=without)


class _Walk:
    """The blocks one after the other; goes on where it was.

    Args:
        prepared: what to prune and how.
        pairs: each mixture, and the layer of it that is ranked.
        report: called with each block's row of the record.
        keep_time: called after each block.
    """

    def __init__(
        self,
        prepared: PreparedPruning,
        pairs: list[Pair],
        report: Report,
        keep_time: Callable[[], None],
    ) -> None:
        folder = prepared.out / "checkpoints"
        self._model, self._method = prepared.model, prepared.method
        self._pairs, self._report, self._keep_time = pairs, report, keep_time
        self._journal = Journal(folder / JOURNAL)
        solver, self._merged = self._method.solver, prepared.out / MASKED
        self._merger = solver if isinstance(solver, ExpertMerger) else None
        self._states = None
        if prepared.tokens is not None and prepared.needs_text:
            size = prepared.config.micro_batch
            self._states = HiddenStates(self._model, prepared.tokens, folder, size)
        self.rows: list[dict[str, Any]] = list(self._journal.get("blocks", []))
        self.notes: list[str] = list(self._journal.get("notes", []))

    @property
    def source(self) -> Path:
        """Where the model lies that is cut: the dense one, or the one whose experts are merged."""
        return self._model.folder if self._merger is None else self._merged

    @property
    def kept(self) -> dict[str, Tensor]:
        """Weight of a router -> ``[experts]`` booleans, of the blocks that are done."""
        said = {n: e for row in self.rows for n, e in row["experts"].items()}
        of = {mixture.name: mixture.count for _, mixture in self._pairs}
        return {n: _booleans(e["kept"], of[n]) for n, e in said.items()}

    def run(self) -> list[dict[str, Any]]:
        """Rank what is left to rank; the rows of all blocks."""
        model, done = self._model, len(self.rows)
        for row in self.rows:
            self._report(row | {DONE_BEFORE: True})
        if done < len(model):
            self._walk(done)
        if ranks.first():
            if self._merger is not None and not (self._merged / INDEX).is_file():
                model.write_rest(self._merged)
            for path in self._journal.path.parent.glob("*.bin"):
                path.unlink()
        ranks.barrier()
        return self.rows

    def _walk(self, done: int) -> None:
        """Rank and, where they are merged, write the blocks that are left."""
        model, states = self._model, self._states
        with contextlib.ExitStack() as entered:
            entered.enter_context(rerouted(model.model, self.kept))
            if self._merger is not None:
                model.restore(done, self._merged)
            if states is not None:
                model.inputs(done, states.tokens[:1])  # so that it knows how blocks are called
                states.resume(done) if done else states.embed(0)
            for index in range(done, len(model)):
                self.rows.append(self._block(index, entered))
                self._journal.put(blocks=self.rows, notes=self.notes)
                self._keep_time()
                self._report(self.rows[-1])

    def _block(self, index: int, entered: contextlib.ExitStack) -> dict[str, Any]:
        """One block ranked, and from now on computing without what goes; its row."""
        laps, model, states = LapTimes(), self._model, self._states
        block = model.load(index)
        laps.end("load")
        pairs = [(x, mixture) for x, mixture in self._pairs if x.block == model.names[index]]
        routed = self._routed(index, pairs) if states is not None else {}
        laps.end("calibrate")
        own = dict(block.named_parameters())
        said: dict[str, dict[str, Any]] = {}
        for layer, mixture in pairs:
            tally = routed.get(mixture.name)
            weight = own[layer.name.removeprefix(f"{layer.block}.")].detach()
            said[mixture.name] = self._said(layer, mixture, weight, tally)
        laps.end("prune")
        if self._merger is not None:
            self._merge(index, [mixture for _, mixture in pairs], said, routed)
            laps.end("merge")
            if ranks.first():
                model.write(index, self._merged)
            ranks.barrier()
            laps.end("write")
        nonzero = sum(int(torch.count_nonzero(p)) for p in own.values())
        for _, mixture in pairs:
            alive = _booleans(said[mixture.name]["kept"], mixture.count)
            for name in mixture.tensors:
                tensor = own.get(name.removeprefix(f"{layer.block}."))
                if tensor is not None:
                    nonzero -= int(torch.count_nonzero(tensor[~alive.to(tensor.device)]))
            entered.enter_context(rerouted(model.model, {mixture.name: alive}))
        if states is not None and index + 1 < len(model):
            states.propagate(index)
            states.of(index + 1).flush()
            ranks.barrier()
        model.free(index)
        laps.end("propagate")
        return {
            "block": index,
            "layers": [_row(x, said[mixture.name], mixture.count) for x, mixture in pairs],
            "experts": said,
            "nonzero": nonzero,
            "seconds": laps.row(),
        }

    def _merge(
        self,
        index: int,
        mixtures: list[Mixture],
        said: dict[str, dict[str, Any]],
        routed: Mapping[str, RoutedTokens],
    ) -> None:
        """The experts of a block that go merged into those that stay, in the stored dtype."""
        assert self._merger is not None, "nothing is merged"
        for mixture in mixtures:
            own, tally = said[mixture.name], routed[mixture.name]
            into = self._merger.merged_into(_booleans(own["kept"], mixture.count), tally.products)
            tokens = torch.tensor(tally.tokens, dtype=torch.float64)
            merge(mixture, self._merger, into, tokens)
            own["into"] = into.tolist()
        self._model.round(index)

    @torch.no_grad()
    def _routed(self, index: int, pairs: list[Pair]) -> dict[str, RoutedTokens]:
        """What the routers of a block, whole still, give to their experts."""
        states, device = self._states, self._model.device
        assert states is not None
        tallies = {mixture.name: RoutedTokens(mixture, device) for _, mixture in pairs}
        if not tallies:
            return {}
        with contextlib.ExitStack() as looking:
            for tally in tallies.values():
                looking.enter_context(tally.seen())
            for windows in states.slices():
                self._model.call(index, states.of(index).tensor[windows].to(device))
        for tally in tallies.values():
            tally.finish()
        return tallies

    def _said(
        self, layer: Layer, mixture: Mixture, weight: Tensor, tally: RoutedTokens | None
    ) -> dict[str, Any]:
        """Which experts of a mixture stay, and why."""
        method = self._method
        known = {} if tally is None else tally.statistics
        needed = {n: known[n] for n in method.score.needs}
        saliency = method.score.score(weight.float(), needed, layer.name)
        units = method.score.reduce(method.structure.groups(saliency, layer))
        groups = mixture.size(GROUPS) or 1
        lost = method.structure.count(layer, method.sparsity)
        assert lost is not None, "the shape decides how many"
        within = partial(unit_budget(method).within, prune=lost // groups)
        alive = torch.cat([within(some)[:, 0] for some in units.chunk(groups)])
        said: dict[str, Any] = {
            "kept": alive.nonzero().flatten().tolist(),
            "scores": [float(f"{u:.6g}") for u in units.abs().flatten().tolist()],
        }
        if tally is None:
            return said
        never = [i for i, n in enumerate(tally.tokens) if not n]
        if never:
            self.notes.append(
                f"{mixture.inside}: no calibration token reached {len(never)} of its "
                f"{mixture.count} experts ({', '.join(map(str, never[:8]))}"
                f"{', ...' * (len(never) > 8)}), whose score is 0. Way out: more samples"
            )
        return said | {"tokens": tally.tokens}


def _booleans(places: list[int], of: int) -> Tensor:
    alive = torch.zeros(of, dtype=torch.bool)
    alive[places] = True
    return alive


def _row(layer: Layer, said: Mapping[str, Any], count: int) -> dict[str, Any]:
    """The row of the record of the layer that was ranked."""
    lost = 1 - len(said["kept"]) / count
    return {
        "name": layer.name,
        "shape": list(layer.shape),
        "sparsity_asked": lost,
        "sparsity_before": 0.0,
        "sparsity_reached": lost,
    }


@DONE.register("experts")
def done_before(out: Path) -> str:
    """How many blocks were walked over in a folder."""
    blocks = len(Journal(out / "checkpoints" / JOURNAL).get("blocks", []))
    return f"done before: {counted(blocks, 'block')}" if blocks else ""


@CHECKS.register("experts")
def check(prepared: PreparedPruning) -> None:
    """Whether routers and config can do with as many experts as would stay; nothing was done yet.

    Raises:
        SteppeError: they cannot, or it does not fit in memory.
    """
    config, model = prepared.config, prepared.model
    pairs = _pairs(prepared)
    for layer, mixture in pairs:
        lost = prepared.method.structure.count(layer, prepared.method.sparsity)
        assert lost is not None, "the shape decides how many"
        _check_router(mixture, model.config.get_text_config(), lost)
        if isinstance(prepared.method.solver, ExpertMerger) and mixture.neurons() is None:
            raise SteppeError(
                "experts are merged where it is known how their neurons lie",
                got=mixture.inside,
                way_out="coupling reroute, which leaves those that stay as they are",
            )
    cut = Cut({}, tuple(model.names), _as_many(prepared, pairs))
    configured(model, cut, config.family)
    memory.decide(prepared, prepared.texts())


def _pairs(prepared: PreparedPruning) -> list[Pair]:
    """Each mixture that loses experts, and the layer of it that is ranked.

    Raises:
        SteppeError: a router is not known.
    """
    config, model = prepared.config, prepared.model
    found = {mixture.inside: mixture for mixture in mixtures_of(model.model)}
    pairs = []
    for layer in prepared.method.structure.among(model.layers(config.include, config.exclude)):
        mixture = found.get(layer.name.rpartition(".")[0])
        if mixture is None:
            raise SteppeError(
                "experts are removed where a router lies beside them",
                got=f"{layer.name} with none that is known",
                way_out="structure neurons",
            )
        pairs.append((layer, mixture))
    return pairs


@EXPECTATIONS.register("experts")
def expected(
    prepared: PreparedPruning, texts: Mapping[str, Tensor], dry_run: bool = True
) -> Expected:
    """The first block with a mixture is called on trial, while its routers are looked at."""
    model, pairs, solver = prepared.model, _pairs(prepared), prepared.method.solver
    kept = _as_many(prepared, pairs)
    blocks = len({x.block for x, _ in pairs})
    windows = len(prepared.tokens) if prepared.tokens is not None and prepared.needs_text else 0
    steps = [f"found in one walk over {len(model)} blocks with {windows} windows, then cut out"]
    seconds = dict[str, float]()
    if dry_run:
        layer, mixture = pairs[0]

        def looking() -> contextlib.AbstractContextManager[None]:
            return RoutedTokens(mixture, model.device).seen()

        taken = called_block(prepared, model.names.index(layer.block), looking)
        seconds = {"load": taken["load"] * len(model)}
        if windows:
            seconds["calibrate"] = taken["look"] * windows * blocks
            seconds["propagate"] = taken["pass"] * windows * (len(model) - 1)
        seconds["cut"] = (taken["load"] + taken["write"]) * len(model)
        seconds |= evaluation(prepared, texts, taken.get("pass", 0.0), taken["load"])
    if isinstance(solver, ExpertMerger):
        gone = sum(int((~alive).sum()) for alive in kept.values())
        steps.append(f"each of the {gone} experts that go is merged into one that stays")
        if dry_run:
            seconds["merge"] = gone * _aligning(solver, pairs[0][1])
    cut = Cut({}, tuple(model.names), kept)
    return Expected(cut=cut, seconds=seconds, steps=steps)


def _aligning(merger: ExpertMerger, mixture: Mixture) -> float:
    """Seconds of putting the neurons of one expert in the order of another's; of random ones."""
    draw = torch.Generator().manual_seed(0)
    of_each = sum(t[0].numel() for t in mixture.tensors.values() if t.ndim == 3) // mixture.width
    stays, goes = (torch.randn(mixture.width, of_each, generator=draw) for _ in range(2))
    began = time.perf_counter()
    merger.aligned(stays, goes)
    return time.perf_counter() - began


def _as_many(prepared: PreparedPruning, pairs: list[Pair]) -> dict[str, Tensor]:
    """Router's weight -> ``[experts]`` booleans: as many as will stay, the last ones."""
    structure, kept = prepared.method.structure, {}
    for layer, mixture in pairs:
        lost = structure.count(layer, prepared.method.sparsity)
        assert lost is not None, "the shape decides how many"
        kept[mixture.name] = torch.arange(mixture.count) >= lost
    return kept


def _check_router(mixture: Mixture, config: Any, lost: int) -> None:
    """Whether a router can choose as it does once so many of its experts are gone.

    Raises:
        SteppeError: it cannot; says with how many it could.
    """
    count, possible = mixture.count, numbers_of_experts(mixture, config)
    if count - lost in possible:
        return
    chosen = chosen_of(mixture, config)
    groups, from_groups = groups_of(mixture)
    rule = f"a router that sends each token to {chosen} experts chooses among as many at least"
    if groups > 1:
        rule += f", equally many in each of {groups} groups, of which it takes {from_groups} first"
    nearest = min((count - n for n in possible), key=lambda n: (abs(n - lost), n), default=0)
    raise SteppeError(
        rule,
        got=f"{count - lost} of {count} experts that would stay",
        way_out=f"--sparsity {nearest / count:g}",
    )
