"""A model pruned block by block, of which one block is in memory at a time."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.mask import pack
from steppe.core.protocols import Score
from steppe.core.serialization import write_tensors
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import counts_of, for_block, sizes_of
from steppe.engine.blockwise.calibrate import CalibrationCollector, InputRecorder
from steppe.engine.blockwise.compatibility import check as check
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.reconstruct import FitConfig, fit
from steppe.engine.blockwise.solve import solve_block
from steppe.engine.blockwise.states import Activations
from steppe.engine.host_memory import reused
from steppe.method import Method


class Blocks(Protocol):
    """A model as a row of blocks; `steppe.llm.model.StreamedModel` is one."""

    device: torch.device

    @property
    def hidden_size(self) -> int: ...
    def __len__(self) -> int: ...
    def layers(self, include: tuple[str, ...], exclude: tuple[str, ...]) -> list[Layer]: ...
    def load(self, index: int) -> nn.Module: ...
    def free(self, index: int) -> None: ...
    def round(self, index: int) -> None: ...
    def write(self, index: int, out: Path) -> None: ...
    def embed(self, tokens: Tensor) -> Tensor: ...
    def arguments(self, index: int, batch: int, window: int) -> tuple[tuple[Any, ...], Any]: ...
    def call(self, index: int, hidden: Tensor, block: nn.Module | None = None) -> Tensor: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class BlockwiseConfig:
    """How the blocks are walked; what is done to a block is the method's.

    Args:
        seed: of the order of windows and of random scores.
        micro_batch: windows that go through a block together; bounds its working memory.
        measure: windows on which the layers' output errors are measured; 0 for none.
        fit: how a block is optimised, for methods that do.
    """

    seed: int = 0
    micro_batch: int = 8
    measure: int = 8
    fit: FitConfig = dataclasses.field(default_factory=FitConfig)

    def __post_init__(self) -> None:
        if self.micro_batch < 1 or self.measure < 0:
            raise SteppeError(
                "a micro-batch has at least one window, and what is measured none or more",
                got=f"--micro-batch {self.micro_batch} --measure {self.measure}",
                way_out="--micro-batch 8 --measure 8",
            )


class Blockwise:
    """Prunes a model's decoder blocks one after the other; goes on where it was.

    For each block: calibrate on the inputs that the already pruned blocks produce, prune, round
    to the stored dtype, measure, compute the next block's inputs, write, note it in the journal.

    Args:
        blocks: the model.
        method: with a layer or block reconstruction objective.
        config: how to walk.
        tokens: calibration windows ``[windows, tokens]``; None when nothing needs them.
        out: where shards, masks and the state to resume from go.
        include: shell patterns of the layers to prune.
        exclude: shell patterns of what stays dense.
        report: called with each block's row of the record.

    Raises:
        SteppeError: the method does not work block by block, a layer cannot have the structure.
    """

    def __init__(
        self,
        blocks: Blocks,
        method: Method,
        config: BlockwiseConfig,
        tokens: Tensor | None,
        out: Path,
        *,
        include: tuple[str, ...] = (),
        exclude: tuple[str, ...] = (),
        report: Callable[[dict[str, Any]], None] = lambda row: None,
    ) -> None:
        self.blocks, self.method, self.config = blocks, method, config
        self.tokens, self.out, self.report = tokens, out, report
        self.layers = blocks.layers(include, exclude)
        check(method, self.layers, tokens)
        self.journal = Journal(out / "checkpoints" / "journal.json")
        self.notes: list[str] = list(self.journal.get("notes", []))
        self._held: dict[int, Activations] = {}

    def run(self) -> list[dict[str, Any]]:
        """Prune what is left to prune; the rows of all blocks.

        Raises:
            SteppeError: the hidden states to go on from are gone.
        """
        device = self.blocks.device
        with torch.random.fork_rng([device] if device.type == "cuda" else []):
            return self._run()

    def _run(self) -> list[dict[str, Any]]:
        rows: list[dict[str, Any]] = list(self.journal.get("blocks", []))
        for row in rows:
            self.report(row)
        if len(rows) == len(self.blocks):
            return rows
        if self.tokens is not None:
            self.blocks.embed(self.tokens[:1])  # so that it knows how blocks are called
        counts = self._counts()
        if self.tokens is not None:
            self._go_on(len(rows)) if rows else self._embed()
        for index in range(len(rows), len(self.blocks)):
            rows.append(self._block(index, counts))
            self.journal.put(blocks=rows, notes=self.notes)
            self.report(rows[-1])
        return rows

    # hidden states

    def _place(self, index: int) -> tuple[Path, tuple[int, int, int]]:
        assert self.tokens is not None
        windows, window = self.tokens.shape
        # two files take turns: a block's inputs stay until the journal says that it is done
        path = self.out / "checkpoints" / f"inputs-{index % 2}.bin"
        return path, (windows, window, self.blocks.hidden_size)

    def _states(self, index: int) -> Activations:
        if index % 2 not in self._held:  # mapped once: a new mapping faults page by page again
            self._held[index % 2] = Activations(*self._place(index))
        return self._held[index % 2]

    def _go_on(self, index: int) -> None:
        """The inputs of the first block that is not done must be as they were left."""
        path, shape = self._place(index)
        if not Activations.there(path, shape):
            raise SteppeError(
                "a run goes on from the hidden states of its last finished block",
                got=f"no whole {path}, though {index} blocks are done",
                consequence="what comes after them cannot be computed",
                way_out=f"delete {self.out} and start again",
            )

    def _slices(self) -> list[slice]:
        """This process's windows, a micro-batch at a time."""
        assert self.tokens is not None
        mine, size = ranks.share(len(self.tokens)), self.config.micro_batch
        return [slice(i, min(i + size, mine.stop)) for i in range(mine.start, mine.stop, size)]

    def _embed(self) -> None:
        assert self.tokens is not None
        states = self._states(0)
        for part in self._slices():
            states.tensor[part] = self.blocks.embed(self.tokens[part]).float().cpu()
        states.flush()
        ranks.barrier()

    def _forward(
        self,
        index: int,
        states: Activations,
        into: Activations | None,
        watch: InputRecorder | None = None,
    ) -> None:
        with torch.no_grad():
            for part in self._slices():
                hidden = states.tensor[part].to(self.blocks.device)
                call = partial(self.blocks.call, index, hidden)
                if watch is not None:
                    watch.through(call)
                elif into is not None:
                    into.tensor[part] = call().float().cpu()

    # budget

    def _counts(self) -> dict[str, int]:
        held = self.journal.get("counts")
        if held is not None:
            return {str(k): int(v) for k, v in held.items()}
        profile = self._profile() if self.method.budget.profiled_by else {}
        counts = counts_of(self.method, self.layers, profile)
        self.journal.put(counts=counts)
        return counts

    def _profile(self) -> dict[str, float]:
        """What the budget wants to know of the dense model: one pass through all of it."""
        score = Score.make(str(self.method.budget.profiled_by))
        found = {}
        self._embed()
        for index in range(len(self.blocks)):
            block = self.blocks.load(index)
            pieces = self._pieces(index, block)
            collector = self._calibrate(index, pieces, list(score.needs), keep=True)
            for name, (layer, weight) in pieces.items():
                saliency = score.score(layer.flat(weight).float(), collector.of(name), name)
                found[name] = self.method.budget.profile(saliency)
            self.blocks.free(index)
        for layer in self.layers:
            parts = [found[p.name] for p in layer.split()]
            found[layer.name] = sum(parts) / len(parts)
        return found

    # one block

    def _pieces(self, index: int, block: nn.Module) -> dict[str, tuple[Layer, Tensor]]:
        """Layer name -> layer and weight of one block; the experts of a mixture apart."""
        parameters = dict(block.named_parameters())
        found = {}
        for layer in self._layers_of(index):
            weight = parameters[layer.name.removeprefix(f"{layer.block}.")].detach()
            parts = list(weight) if layer.stacked else [weight]
            found.update({p.name: (p, w) for p, w in zip(layer.split(), parts, strict=True)})
        return found

    def _layers_of(self, index: int) -> list[Layer]:
        return [x for x in self.layers if x.block.endswith(f".{index}")]

    def _calibrate(
        self,
        index: int,
        pieces: Mapping[str, tuple[Layer, Tensor]],
        needs: list[str],
        keep: bool = False,
    ) -> CalibrationCollector:
        """One pass through a block; ``keep`` stores its outputs as the next block's inputs."""
        layers = {name: layer for name, (layer, _) in pieces.items()}
        collector = CalibrationCollector(layers, needs, self.blocks.device)
        states = self._states(index)
        into = self._states(index + 1) if keep and index + 1 < len(self.blocks) else None
        with InputRecorder({name: w for name, (_, w) in pieces.items()}, collector.see) as watch:
            self._forward(index, states, into, None if into else watch)
        collector.finish()
        return collector

    def _needs(self) -> list[str]:
        start = getattr(self.method.objective, "start_needs", ())
        return sorted(self.method.calibration_needs | set(start))

    def _block(self, index: int, counts: Mapping[str, int]) -> dict[str, Any]:
        began = time.perf_counter()
        torch.manual_seed(self.config.seed * 1_000_003 + index)
        block = self.blocks.load(index)
        pieces = self._pieces(index, block)
        seconds: dict[str, float] = {"load": time.perf_counter() - began}
        layers = self._layers_of(index)
        measured = self.tokens is not None and self.config.measure > 0
        dense = {n: w.clone() for n, (_, w) in pieces.items()} if measured else {}
        with reused():
            masks, solved, errors = self._work(index, block, pieces, counts, seconds, dense)
        mark = time.perf_counter()
        if ranks.first():
            self._write(index, masks)
        ranks.barrier()
        row = {
            "block": index,
            "layers": [
                self._layer_row(x, masks[x.name], counts[x.name], errors, solved) for x in layers
            ],
        }
        self.blocks.free(index)
        seconds["write"] = time.perf_counter() - mark
        seconds["all"] = time.perf_counter() - began
        return row | {"seconds": {k: round(v, 4) for k, v in seconds.items()}}

    def _work(
        self,
        index: int,
        block: nn.Module,
        pieces: Mapping[str, tuple[Layer, Tensor]],
        counts: Mapping[str, int],
        seconds: dict[str, float],
        dense: Mapping[str, Tensor],
    ) -> tuple[dict[str, Tensor], dict[str, float], dict[str, float]]:
        """Masks, seconds and output errors by layer; the next block's inputs are written."""
        layers = self._layers_of(index)
        masks: dict[str, Tensor] = {}
        solved: dict[str, float] = {}
        if layers:
            masks, solved = self._prune(index, block, pieces, counts, seconds)
        mark = time.perf_counter()
        self.blocks.round(index)
        errors = self._errors(index, pieces, dense) if dense and layers else {}
        if self.tokens is not None and index + 1 < len(self.blocks):
            after = self._states(index + 1)
            self._forward(index, self._states(index), after)
            after.flush()
        seconds["propagate"] = time.perf_counter() - mark
        return masks, solved, errors

    def _prune(
        self,
        index: int,
        block: nn.Module,
        pieces: Mapping[str, tuple[Layer, Tensor]],
        counts: Mapping[str, int],
        seconds: dict[str, float],
    ) -> tuple[dict[str, Tensor], dict[str, float]]:
        mark = time.perf_counter()
        method, layers = self.method, self._layers_of(index)
        mine = for_block(method, counts, layers)
        needs = self._needs()
        collector = self._calibrate(index, pieces, needs) if needs else None
        if collector is not None:
            self._note_unused(collector)
        seconds["calibrate"] = time.perf_counter() - mark
        mark = time.perf_counter()
        if method.objective.scope == "layer":
            masks, solved = solve_block(mine, layers, pieces, counts, collector, self.note)
        else:
            masks, solved = fit(self, index, block, mine, layers, pieces, counts, collector), {}
        seconds["prune"] = time.perf_counter() - mark
        return masks, solved

    def _note_unused(self, collector: CalibrationCollector) -> None:
        for name in collector.unused():
            self.note(f"{name}: no calibration token reached it; its weights alone decided")

    def note(self, text: str) -> None:
        """Keep a sentence for the record: a fallback, a layer that was never used."""
        self.notes.append(text)

    def _errors(
        self,
        index: int,
        pieces: Mapping[str, tuple[Layer, Tensor]],
        dense: Mapping[str, Tensor],
    ) -> dict[str, float]:
        """||x W' - x W0'||^2 / ||x W0'||^2 of each layer, x its inputs in the pruned model.

        Of the layers that these inputs reach.
        """
        sums = {n: torch.zeros(2, dtype=torch.float64, device=self.blocks.device) for n in pieces}

        def see(name: str, x: Tensor) -> None:
            layer, weight = pieces[name]
            old = layer.flat(dense[name])
            flat = x.detach().reshape(-1, x.shape[-1]).to(old.dtype)
            both = (torch.mm(flat, (layer.flat(weight) - old).t()), torch.mm(flat, old.t()))
            # the squares of a row in float32, those of all rows in float64
            lengths = [torch.linalg.vector_norm(x, dim=1, dtype=torch.float32) for x in both]
            sums[name] += torch.stack([x.double().square().sum() for x in lengths])

        states, size = self._states(index), self.config.micro_batch
        mine = ranks.share(min(self.config.measure, len(states)))
        with InputRecorder({n: w for n, (_, w) in pieces.items()}, see) as watch, torch.no_grad():
            for i in range(mine.start, mine.stop, size):
                hidden = states.tensor[i : min(i + size, mine.stop)].to(self.blocks.device)
                watch.through(partial(self.blocks.call, index, hidden))
        ranks.add_up(sums.values())
        return {n: float(s[0] / s[1]) for n, s in sums.items() if float(s[1]) > 0}

    def _layer_row(
        self,
        layer: Layer,
        mask: Tensor,
        count: int,
        errors: Mapping[str, float],
        solved: Mapping[str, float],
    ) -> dict[str, Any]:
        parts = [p.name for p in layer.split()]
        units = sizes_of(self.method, [layer])[layer.name]
        kept = int(self.method.structure.groups(mask, layer).any(-1).sum())
        assert units - kept == count, f"{layer.name}: {units - kept} units zeroed, not {count}"
        row: dict[str, Any] = {
            "name": layer.name,
            "shape": list(layer.shape),
            "sparsity_asked": count / units,
            "sparsity_reached": int((~mask).sum()) / mask.numel(),
        }
        known = [errors[p] for p in parts if p in errors]
        if known:
            row["output_error"] = sum(known) / len(known)
        if solved:
            row["seconds"] = round(sum(solved[p] for p in parts), 4)
        return row

    def _write(self, index: int, masks: Mapping[str, Tensor]) -> None:
        self.blocks.write(index, self.out)
        name = f"masks-{index + 1:05d}-of-{len(self.blocks):05d}.safetensors"
        write_tensors(self.out / name, pack(dict(masks)), {"packing": "numpy.packbits"})
