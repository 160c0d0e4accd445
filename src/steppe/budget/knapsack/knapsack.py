"""The most value that a capacity holds: one choice per group, and prefixes of ranked chunks."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from steppe.core.cost import Cost, most_sparse
from steppe.core.errors import SteppeError
from steppe.core.group import Group
from steppe.core.selection import keep_largest

Numbers = NDArray[np.float64]


def choose(
    values: Sequence[Sequence[float] | Numbers],
    costs: Sequence[Sequence[float] | Numbers],
    capacity: float,
    resolution: float,
) -> list[int] | None:
    """The multiple-choice knapsack: exactly one choice of every group, the most value.

    max sum_g value[g][c_g] with sum_g cost[g][c_g] <= capacity. A group's cheapest choice is paid
    as it is, what the others cost more is rounded up to multiples of ``resolution``: at that
    resolution the result is the optimum, found by dynamic programming over the groups, and the
    capacity is never exceeded. When every group's last choice fits, they are the result.

    Args:
        values: per group, of each choice.
        costs: per group, of each choice; may be negative, and need not grow with the value.
        capacity: what the choices may cost together.
        resolution: above 0; time and memory grow with capacity / resolution.

    Returns:
        The choice of every group, or None when nothing fits. Of equal values the cheaper choice,
        then the earlier.

    Example:
        >>> choose([[0, 3, 4], [0, 2, 5]], [[0, 1, 3], [0, 1, 2]], capacity=3, resolution=1)
        [1, 2]
    """
    worth = [np.asarray(v, dtype=np.float64) for v in values]
    price = [np.asarray(c, dtype=np.float64) for c in costs]
    if sum(float(p[-1]) for p in price) <= capacity:
        return [len(p) - 1 for p in price]
    least = [float(p.min()) for p in price]
    room = (capacity - sum(least)) / resolution
    if room < -1e-9:
        return None
    size = int(room + 1e-9)
    # a hair below an integer counts as that integer, so that exact costs stay exact
    above = [
        np.ceil((p - low) / resolution - 1e-9).astype(np.int64)
        for p, low in zip(price, least, strict=True)
    ]
    best = np.zeros(size + 1)
    taken: list[NDArray[np.int64]] = []
    for worthy, steps in zip(worth, above, strict=True):
        new = np.full(size + 1, -np.inf)
        choice = np.zeros(size + 1, dtype=np.int64)
        for number in np.argsort(steps, kind="stable"):
            step = int(steps[number])
            if step > size:
                break
            gain = best[: size + 1 - step] + worthy[number]
            better = gain > new[step:]
            new[step:][better] = gain[better]
            choice[step:][better] = number
        best = new
        taken.append(choice)
    # the least room at which the best value is reached leaves most of the capacity unused
    room = int(np.argmax(best))
    chosen: list[int] = []
    for choice, steps in zip(reversed(taken), reversed(above), strict=True):
        number = int(choice[room])
        chosen.append(number)
        room -= int(steps[number])
    return chosen[::-1]


def choose_prefixes(
    values: Sequence[Sequence[float] | Numbers],
    costs: Sequence[Sequence[float] | Numbers],
    capacity: float,
    resolution: float,
) -> list[int] | None:
    """The knapsack with precedence: an item may be kept only with all items before it.

    Which items of a group are kept is then how many are; `choose` among these numbers.

    Args:
        values: per group, of each item, the most important first.
        costs: per group, of each item; one below 0 counts as 0, so that it widens no capacity.
        capacity: what the kept items may cost together.
        resolution: to which a prefix's cost is rounded up.

    Returns:
        How many items every group keeps; None when the capacity is below 0.

    Example:
        >>> choose_prefixes([[3, 1], [2, 3]], [[1, 2], [1, 1]], capacity=3, resolution=1)
        [1, 2]
    """
    return choose(
        [np.concatenate([[0.0], np.cumsum(np.asarray(v, dtype=np.float64))]) for v in values],
        [
            np.concatenate([[0.0], np.cumsum(np.maximum(np.asarray(c, dtype=np.float64), 0.0))])
            for c in costs
        ],
        capacity,
        resolution,
    )


Solve = Callable[[list[Numbers], list[Numbers], float, float], list[int] | None]
"""As `choose`, of each group's widths."""


@dataclass(frozen=True)
class Widths:
    """The widths that a group may get.

    Args:
        group: its name.
        full: how many units it has.
        units: how many stay at each choice, ascending.
        values: what is kept at each choice.
    """

    group: str
    full: int
    units: tuple[int, ...]
    values: Numbers


def widths_of(group: Group, saliency: Tensor, chunk: int = 1, floor: float = 0.0) -> Widths:
    """The least, then in steps, then all; a width keeps the largest saliencies.

    Units without any saliency are worth no cost: widths end where they are all that is added. So
    what an earlier mask zeroed does not come back while something has to go.

    Args:
        group: whose units are counted.
        saliency: ``[units]``, ranked by absolute value.
        chunk: units that go together, rounded up to a multiple of the group's own.
        floor: the share of the units that always stays, rounded up to whole chunks.
    """
    step = -(-chunk // group.multiple) * group.multiple
    first = step if chunk > 1 else group.least
    first = min(max(first, math.ceil(floor * group.units / step) * step), group.units)
    units = [*range(first, group.units, step), group.units]
    ranked = saliency.detach().abs().double().cpu().sort(descending=True).values
    alive = int((ranked > 0).sum())
    units = [u for i, u in enumerate(units) if i == 0 or units[i - 1] < alive]
    return Widths(
        group.name, group.units, tuple(units), np.cumsum(ranked.numpy())[np.array(units) - 1]
    )


def kept_units(units: Mapping[str, Tensor], counts: Mapping[str, int]) -> dict[str, Tensor]:
    """The largest saliencies of every group, so many of them; of equal ones the earliest.

    Example:
        >>> import torch
        >>> kept_units({"a": torch.tensor([1.0, -3.0, 2.0])}, {"a": 2})
        {'a': tensor([False,  True,  True])}
    """
    return {
        name: keep_largest({"": units[name]}, units[name].numel() - number)[""]
        for name, number in counts.items()
    }


def along(cost: Cost, kept: Mapping[str, int], group: str, units: Sequence[int]) -> list[float]:
    """What each width of one group changes in the cost; the others stay as they are.

    A cost that has a method ``along`` of its own knows it more quickly.
    """
    quick: Any = getattr(cost, "along", None)
    if quick is not None:
        return list(quick(kept, group, units))
    now = cost.total(kept)
    return [cost.total({**kept, group: width}) - now for width in units]


def priced_widths(
    groups: Sequence[Widths], cost: Cost, allowed: float, solve: Solve, *, rounds: int, steps: int
) -> dict[str, int]:
    """The widths of most value that cost no more than is allowed.

    A layer costs what the widths at both its ends make it, so no group has a price of its own. A
    knapsack is solved with the prices at the current widths, in ``rounds`` rounds in which the
    capacity falls from the cost of all to what is allowed by the same factor each time, and the
    prices are taken anew after every round; then as often again with the capacity corrected by
    what the prices misjudged. Of all widths that truly fit those of most value stay, and what is
    left is filled with the units of most value for their cost.

    Args:
        groups: and their possible widths.
        cost: of the network.
        allowed: the most it may cost.
        solve: finds the best choices at given prices.
        rounds: see above.
        steps: resolution of the prices, ``allowed / steps``.

    Returns:
        Group name -> units that stay.

    Raises:
        SteppeError: not even the smallest widths fit.
    """
    if cost.total({}) <= allowed:
        return {g.group: g.full for g in groups}
    kept = {g.group: g.units[-1] for g in groups}
    start = cost.total(kept)
    if start <= allowed:
        return kept
    least = {g.group: g.units[0] for g in groups}
    search = _Search(groups, cost, allowed)
    search.offer(least)
    misjudged = 0.0
    for number in range(1, 2 * rounds + 1) if allowed > 0 else ():
        share = min(number / rounds, 1.0)
        goal = start * (allowed / start) ** share
        now = cost.total(kept)
        prices = [np.array(along(cost, kept, g.group, g.units)) for g in groups]
        chosen = solve([g.values for g in groups], prices, goal - misjudged - now, goal / steps)
        if chosen is None:
            chosen = [int(p.argmin()) for p in prices]
        foreseen = now + sum(float(p[c]) for p, c in zip(prices, chosen, strict=True))
        previous, kept = kept, {g.group: g.units[c] for g, c in zip(groups, chosen, strict=True)}
        search.offer(kept)
        if share == 1.0:
            if kept == previous:
                break
            misjudged = cost.total(kept) - foreseen
    if search.best is None:
        raise SteppeError(
            f"the network must be able to cost no more than {allowed:.6g} {cost.unit}",
            got=f"{cost.total(least):.6g} with the fewest channels everywhere",
            way_out=f"{most_sparse(cost, least)}, more layers that may be pruned, or smaller steps "
            "of widths (channels.round_to)",
        )
    return search.filled()


class _Search:
    """Keeps the best widths that fit.

    Args:
        groups: and their possible widths.
        cost: of the network.
        allowed: the most it may cost.
    """

    def __init__(self, groups: Sequence[Widths], cost: Cost, allowed: float) -> None:
        self.groups, self.cost, self.allowed = groups, cost, allowed
        self.best: dict[str, int] | None = None
        self.value = -np.inf

    def offer(self, kept: dict[str, int]) -> None:
        """Take these widths when they fit and are worth more than the best so far."""
        value = sum(float(g.values[g.units.index(kept[g.group])]) for g in self.groups)
        if value > self.value and self.cost.total(kept) <= self.allowed:
            self.best, self.value = dict(kept), value

    def filled(self) -> dict[str, int]:
        """The best widths, made wider one group at a time as long as something fits."""
        assert self.best is not None
        kept = dict(self.best)
        places = {g.group: g.units.index(kept[g.group]) for g in self.groups}
        while True:
            room = self.allowed - self.cost.total(kept)
            offers = []
            for g in self.groups:
                place = places[g.group] + 1
                if place == len(g.units):
                    continue
                price = along(self.cost, kept, g.group, [g.units[place]])[0]
                gain = float(g.values[place] - g.values[place - 1])
                if price <= room:
                    offers.append((gain / max(price, 1e-12), g.group, g.units[place]))
            # an offer fits by its price; the total has the last word, as sums are rounded
            for _, name, width in sorted(offers, key=lambda o: (-o[0], o[1])):
                if self.cost.total({**kept, name: width}) <= self.allowed:
                    kept[name], places[name] = width, places[name] + 1
                    break
            else:
                return kept
