"""Levels of sparsity of a model's layers, found by trying mixtures of solved layers out."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.protocols import LevelBudget, Levels
from steppe.core.selection import count
from steppe.engine import ranks
from steppe.engine.blockwise.allocation import sizes_of
from steppe.engine.blockwise.context import Run
from steppe.engine.blockwise.journal import Journal
from steppe.engine.blockwise.level_database import LevelDatabase
from steppe.engine.host_memory import reused
from steppe.engine.progress import advanced

_ROWS = 1024  # whose logits are in memory together
_Path = tuple[tuple[int, ...], ...]  # the levels of the blocks so far


def searched(run: Run, budget: LevelBudget, folder: Path) -> dict[str, int]:
    """Units that each layer loses, as a search with this budget finds them.

    Started again, it goes on after the last round that it finished.

    Args:
        run: the walk; its model is dense, and stays so.
        budget: asks for candidates.
        folder: where the solved layers and the state of the search are.

    Raises:
        SteppeError: there are too few windows, or blocks cannot be called by themselves.
    """
    if not run.blocks.chained:
        raise SteppeError(
            f"budget {budget.name} tries candidates out block after block",
            got="a model that is called whole",
            way_out="budget owl, progression or uniform",
        )
    windows = len(run.inputs.tokens)
    judged = judged_windows(budget, windows)
    layers, sizes = {x.name: x for x in run.layers}, sizes_of(run.method, run.layers)
    offers = budget.offers(layers, sizes, count(run.method.sparsity, sum(sizes.values())))
    database = LevelDatabase(run, offers, windows - judged, folder)
    database.build()
    journal = Journal(folder / "search.json")
    best: Levels = journal.get("levels", dict.fromkeys(sizes, 0))
    divergence = Divergence(run, database, run.inputs.tokens[windows - judged :])
    for number in range(journal.get("rounds", 0), budget.rounds):
        advanced("search of levels", number, budget.rounds, "generations")
        best = budget.better(best, number, offers, sizes, divergence)
        journal.put(rounds=number + 1, levels=best)
    advanced("search of levels", budget.rounds, budget.rounds, "generations")
    return {name: offers[name][level] for name, level in best.items()}


def forget_layers(folder: Path) -> None:
    """Delete the layers that a search was made over, several times the model; its end is kept."""
    for path in folder.glob("block-*.safetensors"):
        path.unlink()


def judged_windows(budget: LevelBudget, windows: int) -> int:
    """How many calibration windows are for comparing mixtures alone, at least one.

    Raises:
        SteppeError: there is no other to solve layers on.
    """
    if windows < 2:
        raise SteppeError(
            f"budget {budget.name} solves layers on some windows and compares them on others",
            got=f"{windows} calibration window",
            way_out="more calibration windows (--samples 128)",
        )
    return min(max(round(budget.judged_share * windows), 1), windows - 1)


class Divergence:
    """Mean over tokens of KL(dense || candidate) of the next token, for mixtures of solved layers.

    A block is loaded once for all candidates of a call. Those that agree in all layers so far
    share their hidden states.

    Args:
        run: the walk.
        database: of the solved layers.
        tokens: windows ``[windows, tokens]``.
    """

    def __init__(self, run: Run, database: LevelDatabase, tokens: Tensor) -> None:
        self._run, self._database, self._tokens = run, database, tokens
        self._places = [[x.name for x in run.layers if x.block == b] for b in run.blocks.names]
        self._dense = self._outputs([{}], tokens)[0]

    def __call__(self, candidates: Sequence[Levels], tokens: int, draw: int) -> list[float]:
        wanted = min(-(-tokens // self._tokens.shape[1]), len(self._tokens))
        order = torch.Generator().manual_seed(draw)
        chosen = torch.randperm(len(self._tokens), generator=order)[:wanted].sort().values
        mine = chosen[ranks.rank() :: ranks.world()]
        sums = torch.zeros(len(candidates) + 1, dtype=torch.float64)
        if len(mine):
            wanted_rows = self._dense[mine].flatten(0, 1)
            for i, states in enumerate(self._outputs(candidates, self._tokens[mine])):
                sums[i] = self._far(wanted_rows, states.flatten(0, 1))
            sums[-1] = len(wanted_rows)
        ranks.add_up([sums])
        return [float(s / sums[-1]) for s in sums[:-1]]

    @torch.no_grad()
    def _outputs(self, candidates: Sequence[Levels], tokens: Tensor) -> list[Tensor]:
        """The last block's outputs ``[windows, tokens, width]`` of each candidate."""
        blocks = self._run.blocks
        paths: dict[_Path, Tensor] = {(): blocks.inputs(0, tokens).float()}
        reached: list[_Path] = [() for _ in candidates]
        for index, names in enumerate(self._places):
            module, placed = blocks.load(index), None
            own = [tuple(c[n] for n in names if n in c) for c in candidates]
            reached = [(*path, levels) for path, levels in zip(reached, own, strict=True)]
            longer: dict[_Path, Tensor] = {}
            with reused():
                for i in sorted(range(len(candidates)), key=lambda i: own[i]):
                    if own[i] != placed:
                        given = {n: candidates[i][n] for n in names if n in candidates[i]}
                        self._database.place(index, module, given)
                        placed = own[i]
                    if reached[i] not in longer:
                        longer[reached[i]] = self._called(index, paths[reached[i][:-1]])
            blocks.free(index)
            paths = longer
        return [paths[path] for path in reached]

    def _called(self, index: int, states: Tensor) -> Tensor:
        blocks = self._run.blocks
        parts = states.split(self._run.config.micro_batch)
        outputs = (blocks.call(index, part.to(blocks.device)) for part in parts)
        return torch.cat([x.float().cpu() for x in outputs])

    @torch.no_grad()
    def _far(self, dense: Tensor, sparse: Tensor) -> float:
        """Sum over rows of KL(dense || sparse)."""
        total = 0.0
        head, device = self._run.blocks.head, self._run.blocks.device
        for one, other in zip(dense.split(_ROWS), sparse.split(_ROWS), strict=True):
            wanted, got = (head(x.to(device)).float().log_softmax(-1) for x in (one, other))
            total += float((wanted.exp() * (wanted - got)).sum(-1).double().sum())
        return total
