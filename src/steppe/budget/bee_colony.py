"""Bees look for the widths of all groups (ABCPruner)."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from steppe.budget.search.candidates import Tried, into_band, most_of
from steppe.core.cost import Cost
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.protocols import CandidateEvaluator, SearchBudget, Tensors

Code = tuple[int, ...]


@SearchBudget.registry.register("bee_colony")
@dataclass(frozen=True, kw_only=True)
class BeeColony(SearchBudget):
    """An artificial bee colony over codes: for each group how many tenths of it stay.

    ``food`` codes are drawn. In each cycle every code c gets a neighbour, which takes its place if
    it is no worse: in ``change`` groups c_j <- round(c_j + U(-1, 1) (c_j - d_j)), d another code.
    Then as many more neighbours are drawn, a code's turn coming with probability
    0.9 fitness / best + 0.1; last, codes that did not improve more than ``limit`` times are drawn
    anew. The best ever seen wins. A code's shares are shifted alike to cost what is allowed, so all
    compete at the same cost; channels within a group stay by saliency.

    The authors' fitness is the accuracy on the test data after two epochs of training; here it is
    that of the candidate: held-out training data, batch norm re-estimated, no training.

    Args:
        food: codes at a time.
        cycles: how often all take their turn.
        limit: failures until a code is given up.
        change: groups that a neighbour differs in.
        most: tenths that may stay of a group, before the shift.
        seed: of the draws.

    Source: Lin et al., Channel Pruning via Automatic Structure Search, IJCAI 2020.
    """

    food: int = 10
    cycles: int = 10
    limit: int = 5
    change: int = 2
    most: int = 9
    seed: int = 0
    name = "bee_colony"

    def __post_init__(self) -> None:
        super().__post_init__()
        if min(self.food - 1, self.cycles, self.limit, self.change) < 1 or not 1 <= self.most <= 10:
            raise SteppeError(
                "bee_colony needs food >= 2, cycles, limit and change >= 1, and most in 1 to 10",
                got=f"food {self.food}, cycles {self.cycles}, limit {self.limit}, "
                f"change {self.change}, most {self.most}",
            )

    def search(
        self,
        units: Mapping[str, Tensor],
        groups: Sequence[Group],
        cost: Cost,
        allowed: float,
        evaluate: CandidateEvaluator,
    ) -> Tensors:
        tried, most = Tried(units, evaluate), most_of(units, groups)

        def fitness(code: Code) -> float:
            shares = {g.name: c / 10 for g, c in zip(groups, code, strict=True)}
            return tried(into_band(shares, groups, most, cost, allowed)[0])

        self.fly(fitness, len(groups))
        return tried.best()

    def fly(self, fitness: Callable[[Code], float], groups: int) -> list[float]:
        """The search itself.

        Args:
            fitness: how good a code is, higher is better.
            groups: length of a code.

        Returns:
            The best fitness before the first cycle and after each.
        """
        rng = random.Random(self.seed)

        def draw() -> Code:
            return tuple(rng.randint(1, self.most) for _ in range(groups))

        codes = [draw() for _ in range(self.food)]
        values = [fitness(code) for code in codes]
        failures = [0] * self.food
        best = [max(values)]

        def visit(i: int) -> None:
            other = codes[rng.choice([k for k in range(self.food) if k != i])]
            code = self.neighbour(codes[i], other, rng)
            value = fitness(code)
            if value > values[i]:
                codes[i], values[i], failures[i] = code, value, 0
            else:
                failures[i] += 1
            best[-1] = max(best[-1], value)

        for _ in range(self.cycles):
            best.append(best[-1])
            for i in range(self.food):
                visit(i)
            top = max(max(values), 1e-12)
            turns = [rng.random() <= 0.9 * max(v, 0.0) / top + 0.1 for v in values]
            for i in (i for i, turn in enumerate(turns) if turn):
                visit(i)
            for i in range(self.food):
                if failures[i] > self.limit:
                    codes[i], failures[i] = draw(), 0
                    values[i] = fitness(codes[i])
                    best[-1] = max(best[-1], values[i])
        return best

    def neighbour(self, code: Code, other: Code, rng: random.Random) -> Code:
        """A code that differs in a few groups, the further the more it does from another one."""
        new = list(code)
        for j in rng.sample(range(len(code)), min(self.change, len(code))):
            moved = round(code[j] + rng.uniform(-1.0, 1.0) * (code[j] - other[j]))
            new[j] = min(max(moved, 1), self.most)
        return tuple(new)
