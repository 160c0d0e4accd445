"""Sparsity is switched between layers by an evolution that looks at the whole model (EvoPress)."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steppe.budget.search.level_switch import switched
from steppe.core.errors import SteppeError
from steppe.core.layer import Layer
from steppe.core.protocols import LevelBudget, LevelEvaluator, Levels
from steppe.core.seed import checked_seed

if TYPE_CHECKING:
    from steppe.method import Method

_TRIES = 20  # for each offspring: in a small model there are not so many different ones


@LevelBudget.registry.register("evopress")
@dataclass(frozen=True, kw_only=True)
class EvoPress(LevelBudget):
    """The best of many mixtures of layers, each solved before at several sparsities.

    All layers begin with the same sparsity. In each generation the parent has ``offspring``: one
    to three times (the smaller of two draws) a layer goes a level up and another of the same size
    one down, so the total stays exact. They are compared by the divergence of the model's
    predictions from those of the dense model, KL(dense || sparse): all on a few tokens, the best
    on more, the last ones, and the parent with them, on most. The best is the next parent.

    Args:
        step: of sparsity between two levels.
        levels: how many there are above and below the first.
        generations: of the evolution.
        offspring: in each.
        survivors: of each comparison; 1 of the last.
        tokens: of each comparison, at most all that are held out.
        held_out: share of the calibration windows for the comparisons; the layers are solved on
            the others. In the end all of them are used.
        seed: of mutations and windows.

    Source: Sieberling et al. 2025 (arXiv 2410.14649), algorithm 1; its scripts have 64 offspring,
    survivors 8, 2, 1 on 2,048, 16,384 and 65,536 tokens and 400 generations. Step and number of
    levels are ours, and so are fewer generations.
    """

    step: float = 0.05
    levels: int = 4
    generations: int = 100
    offspring: int = 64
    survivors: tuple[int, ...] = (8, 2, 1)
    tokens: tuple[int, ...] = (2048, 16384, 65536)
    held_out: float = 0.25
    seed: int = 0
    name = "evopress"
    uneven = True

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "survivors", tuple(self.survivors))
        object.__setattr__(self, "tokens", tuple(self.tokens))
        checked_seed(self.seed)
        if not (0 < self.step < 1 and 0 < self.held_out < 1):
            raise SteppeError(
                "evopress needs a step and a share of held-out windows above 0 and below 1",
                got=f"step {self.step}, held_out {self.held_out}",
                way_out="step 0.05, held_out 0.25",
            )
        if min(self.levels, self.generations, self.offspring) < 1:
            raise SteppeError(
                "evopress needs at least one level, one generation and one offspring",
                got=f"{self.levels}, {self.generations} and {self.offspring}",
                way_out="levels 4, generations 100, offspring 64",
            )
        if min(self.tokens, default=1) < 1:
            raise SteppeError(
                "evopress compares on at least one token",
                got=f"tokens {list(self.tokens)}",
                way_out="tokens [2048, 16384, 65536]",
            )
        falling = list(self.survivors) == sorted(self.survivors, reverse=True)
        if len(self.survivors) != len(self.tokens) or not falling or self.survivors[-1:] != (1,):
            raise SteppeError(
                "evopress compares as often as it has survivors, the last time one of them",
                got=f"survivors {list(self.survivors)}, tokens {list(self.tokens)}",
                way_out="survivors [8, 2, 1], tokens [2048, 16384, 65536]",
            )

    def fits(self, method: Method) -> None:
        if method.objective.scope == "task":
            raise SteppeError(
                "evopress mixes layers of a language model that were solved one by one",
                got=f"a training loop, with objective {method.objective.name}",
                way_out="method sparsegpt, alps or wanda; or --set 'budget={name: evopress, "
                f"sparsity: {self.sparsity:g}}}', for language models only",
            )

    @property
    def rounds(self) -> int:
        return self.generations

    @property
    def tokens_at_once(self) -> int:
        compared = (self.offspring, *(n + 1 for n in self.survivors))
        return max(n * tokens for n, tokens in zip(compared, self.tokens, strict=False))

    @property
    def judged_share(self) -> float:
        return self.held_out

    def offers(
        self, layers: Mapping[str, Layer], sizes: Mapping[str, int], prune: int
    ) -> dict[str, dict[int, int]]:
        first = self.counts(layers, sizes, prune, {})
        offered: dict[str, dict[int, int]] = {}
        for name, size in sizes.items():
            step = round(self.step * size)
            at = {k: first[name] + k * step for k in range(-self.levels, self.levels + 1)}
            offered[name] = {k: n for k, n in at.items() if k == 0 or 0 <= n < size}
        return offered

    def better(
        self,
        best: Levels,
        number: int,
        offers: Mapping[str, Mapping[int, int]],
        sizes: Mapping[str, int],
        evaluate: LevelEvaluator,
    ) -> Levels:
        draw = random.Random(f"{self.seed}-{number}")
        alike: dict[int, list[str]] = {}
        for name in sorted(sizes):
            alike.setdefault(sizes[name], []).append(name)
        candidates: list[Levels] = []
        for _ in range(_TRIES * self.offspring):
            child = switched(best, offers, list(alike.values()), draw)
            if len(candidates) < self.offspring and child not in [best, *candidates]:
                candidates.append(child)
        for survivors, tokens in zip(self.survivors, self.tokens, strict=True):
            candidates += [best] * (survivors == 1)
            far = evaluate(candidates, tokens, draw.randrange(2**31))
            order = sorted(range(len(far)), key=lambda i: far[i])
            candidates = [candidates[i] for i in order[:survivors]]
        return candidates[0]
