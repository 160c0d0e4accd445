"""A model written with zeros where dimensions of its residual stream are gone, made up for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from steppe.core.layer import Layer
from steppe.core.protocols import StreamSolver
from steppe.engine import ranks
from steppe.engine.blockwise.states import HiddenStates
from steppe.engine.lap_times import LapTimes
from steppe.llm.model import StreamedModel
from steppe.llm.structured.narrow import narrow, narrowed_norm, scaled
from steppe.llm.structured.norm_outputs import Moments, given_by, readers_of
from steppe.llm.structured.residual import ResidualStream
from steppe.llm.structured.stream_states import inside


class Removal:
    """Blocks without some dimensions, written one after the other, then what is around them.

    One block is in memory, and the dense one beside it where the coupling looks at norms.

    Args:
        model: the dense one.
        coupling: what makes up for the dimensions.
        stream: of the model.
        kept: ``[hidden size]`` booleans.
        folder: into which the model is written, in its old shapes.
        dense: hidden states of the dense model; None if nothing looks at them.
        states: those without the dimensions.
        note: is told sentences for the record.
    """

    def __init__(
        self,
        model: StreamedModel,
        coupling: StreamSolver,
        stream: ResidualStream,
        kept: Tensor,
        folder: Path,
        dense: HiddenStates | None,
        states: HiddenStates | None,
        note: Callable[[str], None],
    ) -> None:
        self._model, self._coupling, self._stream = model, coupling, stream
        self._kept, self._places = kept, kept.nonzero().flatten()
        self._folder, self._note = folder, note
        self._dims = {s.name: s.dim for s in stream.group.slices}
        self._pair = None
        if coupling.looks:
            assert dense is not None, "norms are looked at, which needs text"
            assert states is not None, "norms are looked at, which needs text"
            self._pair = dense, states

    @torch.no_grad()
    def block(self, index: int) -> dict[str, Any]:
        """Write a block without the dimensions; its row of the record."""
        laps, model = LapTimes(), self._model
        block = model.load(index)
        dense = None if self._pair is None else copy.deepcopy(block)
        laps.end("load")
        own, front = dict(block.named_parameters()), f"{model.names[index]}."
        for s in self._stream.group.slices:
            if s.name.startswith(front):
                s.fill(own[s.name.removeprefix(front)], ~self._kept, 0.0)
        factors: dict[str, float] = {}
        if self._pair is not None:
            laps.end("prune")
            self._propagate(self._pair[0], index, dense)
            laps.end("propagate")
        with narrow(block, inside(model, index, self._stream.norms), self._kept):
            if self._pair is not None:
                assert dense is not None, "it was copied"
                factors = self._made_up(index, dense, *self._pair, laps)
            model.round(index)
            laps.end("prune")
            if self._pair is not None:
                self._propagate(self._pair[1], index)
            laps.end("propagate")
        nonzero = sum(int(torch.count_nonzero(p)) for p in own.values())
        if ranks.first():
            self._folder.mkdir(parents=True, exist_ok=True)
            model.write(index, self._folder)
        ranks.barrier()
        layers = [x for x in model.layers() if x.block == model.names[index]]
        model.free(index)
        laps.end("write")
        lost = 1 - float(self._kept.double().mean())
        return {
            "block": index,
            "layers": [_row(x, lost) for x in layers if x.name in self._dims],
            "norms": factors,
            "nonzero": nonzero,
            "seconds": laps.row(),
        }

    def _propagate(self, states: HiddenStates, index: int, block: nn.Module | None = None) -> None:
        """What a block gives becomes the next one's inputs."""
        for windows in states.slices():
            hidden = states.of(index).tensor[windows].to(self._model.device)
            given = self._model.call(index, hidden, block)
            states.of(index + 1).tensor[windows] = given.float().cpu()
        states.of(index + 1).flush()
        ranks.barrier()

    def _made_up(
        self,
        index: int,
        dense: nn.Module,
        before: HiddenStates,
        states: HiddenStates,
        laps: LapTimes,
    ) -> dict[str, float]:
        """Scale a block's norms or fit what reads them, one after the other; their factors."""
        model, name = self._model, self._model.names[index]
        block, coupling = model.blocks[index], self._coupling
        own, whole = dict(block.named_parameters()), dict(dense.named_parameters())
        reads = inside(model, index, self._stream.names("input"))
        norms = {n: dense.get_submodule(n) for n in inside(model, index, self._stream.norms)}
        first = before.of(index).tensor[:1].to(model.device)
        found = readers_of(
            norms,
            {n: dense.get_submodule(n.rpartition(".")[0]) for n in reads},
            partial(model.call, index, first, dense),
        )
        alone = sorted(set(reads) - {reader for some in found.values() for reader in some})
        if alone and coupling.fit:
            self._note(
                f"{name}: {len(alone)} layers read something else than what a norm of the block "
                f"gives ({alone[0]}) and were not fitted"
            )
        factors = {}
        for place, readers in found.items():
            norm, fit = block.get_submodule(place), bool(readers) and coupling.fit
            if not (fit or coupling.scale):
                continue
            moments = Moments(norm, self._places, fit)
            for windows in states.slices():
                both = (
                    each.of(index).tensor[windows].to(model.device) for each in (before, states)
                )
                moments.add(
                    given_by(norms[place], partial(model.call, index, next(both), dense)),
                    given_by(norm, partial(model.call, index, next(both))),
                )
            moments.finish()
            laps.end("calibrate")
            factor = factors[f"{name}.{place}"] = moments.factor if coupling.scale else 1.0
            matrix = moments.matrix(coupling, factor) if fit else None
            if matrix is None:
                scaled(norm, factor)
            else:
                for reader in readers:
                    dim = self._dims[f"{name}.{reader}"]
                    reread(own[reader], whole[reader], dim, matrix, self._places)
            laps.end("prune")
        return factors

    @torch.no_grad()
    def rest(self, keep: Callable[[float], None]) -> None:
        """Write what lies outside of the blocks.

        Args:
            keep: given the factor of the last norm, before anything is written.
        """
        model, stream = self._model, self._stream
        model.load_rest(head=True)
        norm: Any = model.model.get_submodule(stream.last_norm)
        named = dict(model.model.named_parameters(remove_duplicate=False))
        head = model.model.get_output_embeddings()
        table = named[stream.group.name]
        apart = None if head is None or head.weight is table else head.weight
        fitted, factor = None, 1.0
        if self._pair is not None:
            moments = self._last(norm, apart is not None and self._coupling.fit, *self._pair)
            factor = moments.factor if self._coupling.scale else 1.0
            if apart is not None and self._coupling.fit:
                fitted = moments.matrix(self._coupling, factor)
        said, in_norm = factor, factor if fitted is None else 1.0
        for place, (old, new) in stream.scales.items():
            weight = named[f"{place}.weight"]
            weight.mul_(old / new)
            if apart is None and weight is table:  # what the head reads makes up for it
                in_norm *= new / old
        scaled(norm, in_norm)
        fronts = tuple(f"{name}." for name in model.names)
        outside = [s for s in stream.group.slices if not s.name.startswith(fronts)]
        whole = None if fitted is None or apart is None else apart.clone()
        for s in outside:
            s.fill(named[s.name], ~self._kept, 0.0)
        if whole is not None and fitted is not None and apart is not None:
            reread(apart, whole, 1, fitted, self._places)
        keep(said)
        if ranks.first():
            model.write_rest(self._folder, {s.name: named[s.name] for s in outside})
        ranks.barrier()
        model.free_rest()

    def _last(self, norm: Any, fit: bool, before: HiddenStates, states: HiddenStates) -> Moments:
        """What the last norm gives in both models."""
        moments, count = Moments(norm, self._places, fit), len(self._model)
        for windows in states.slices():
            whole, now = (
                each.of(count).tensor[windows].to(self._model.device).flatten(0, -2)
                for each in (before, states)
            )
            own, places = torch.zeros_like(now), self._places.to(now.device)
            own[:, places] = narrowed_norm(norm, places)(now[:, places])
            moments.add(norm(whole), own)
        moments.finish()
        return moments


def reread(new: Tensor, whole: Tensor, dim: int, matrix: Tensor, places: Tensor) -> None:
    """W' = W M in the columns that stay, in place.

    Args:
        new: W', zero elsewhere.
        whole: W.
        dim: in which they read the stream.
        matrix: M, ``[dimensions, dimensions that stay]``.
        places: of those that stay.
    """
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
