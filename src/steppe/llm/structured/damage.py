"""What a language model loses by what goes of it, foretold from a few measured models."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from steppe.llm.structured.shape import Shape
from steppe.removal.cost.latency import between


@dataclass(frozen=True)
class Damage:
    """The loss of each next token by what stays: what each kind costs alone, added up.

    loss(shape) = whole + sum over kinds of (loss with only this kind fewer - whole)

    Between two numbers that were measured it is a straight line.

    Args:
        whole: loss of the whole model.
        alone: kind -> number that stays -> loss; of the whole number too.

    Example:
        >>> known = Damage(3.0, {"blocks": {5: 3.2, 6: 3.0}, "neurons": {10: 3.4, 20: 3.0}})
        >>> round(known.of("neurons", 15), 3), round(known.of("blocks", 5), 3)
        (0.2, 0.2)
    """

    whole: float
    alone: Mapping[str, Mapping[int, float]]

    def of(self, kind: str, number: int) -> float:
        """What a kind costs if so many stay; the whole number costs nothing."""
        known = self.alone[kind]
        low, high, up = between(sorted(known), number)
        return known[low] + up * (known[high] - known[low]) - self.whole

    def foretold(self, shape: Shape) -> float:
        """The loss of a model of a shape."""
        return self.whole + sum(self.of(kind, getattr(shape, kind)) for kind in self.alone)


def levels(numbers: Sequence[int], least: int, count: int) -> list[int]:
    """So many numbers, evenly from the least on and below the last, as near as there are.

    Args:
        numbers: that there may be, ascending.
        least: the first one that is wanted.
        count: how many are.

    Example:
        >>> levels(range(1, 9), 2, 3)
        [2, 4, 6]
        >>> levels([2, 4, 8], 4, 3)
        [4]
    """
    below = [n for n in numbers[:-1] if n >= least]
    wanted = [least + i * (numbers[-1] - least) / count for i in range(count)]
    return sorted({min(below, key=lambda n: abs(n - w)) for w in wanted}) if below else []


def most_promising(
    offers: Sequence[Shape], damage: Damage, tried: Mapping[Shape, float]
) -> Shape | None:
    """What to try next: the least foretold loss, corrected by what was wrong at its depth so far.

    So neighbours of what turned out better than foretold come next, and another depth where it
    was worse.

    Args:
        offers: all shapes.
        damage: foretells.
        tried: shape -> its measured loss.
    """
    wrong: dict[int, list[float]] = {}
    for shape, loss in tried.items():
        wrong.setdefault(shape.blocks, []).append(loss - damage.foretold(shape))
    left = [shape for shape in offers if shape not in tried]

    def corrected(shape: Shape) -> float:
        off = wrong.get(shape.blocks, [0.0])
        return damage.foretold(shape) + sum(off) / len(off)

    return min(left, key=corrected, default=None)
