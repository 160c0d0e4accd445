"""How large or slow a language model may be, and the shapes that are no more than that."""

from __future__ import annotations

import itertools
import math
import operator
import re
from bisect import bisect_right
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any, Self

from steppe.core.errors import SteppeError
from steppe.llm.skeleton import config_of
from steppe.llm.structured.expert_numbers import numbers_of_experts
from steppe.llm.structured.family import of_family
from steppe.llm.structured.latency import GenerationTable
from steppe.llm.structured.shape import Shape, skeleton_of
from steppe.removal.mixtures import mixtures_of
from steppe.removal.transformer_config import update_config

EXAMPLES = "parameters=0.75, parameters=350M, bytes=1G, latency=0.7, latency=800ms"
_TEXT = re.compile(r"([a-z]+)=([0-9]*\.?[0-9]+(?:e[+-]?[0-9]+)?)([A-Za-z_]*)")


@dataclass(frozen=True)
class Unit:
    """What a number of a target counts.

    Args:
        cost: of a shape, in which less is better; only times look at a table.
        at_most: the cost that a number allows.
        said: a cost in words.
    """

    cost: Callable[[Shape, GenerationTable | None], float]
    at_most: Callable[[float], float]
    said: str


def _counted(cost: Callable[[Shape], float], said: str) -> dict[str, Unit]:
    """A number as it is, or in millions or billions."""
    return {
        unit: Unit(lambda shape, table: cost(shape), partial(operator.mul, by), said)
        for unit, by in (("", 1.0), ("M", 1e6), ("G", 1e9))
    }


def _table(table: GenerationTable | None) -> GenerationTable:
    if table is None:
        raise SteppeError(
            "a target in time needs the times of blocks here",
            got="no table",
            way_out="steppe latency MODEL --out table.json, then --latency-table table.json",
        )
    return table


UNITS: dict[str, dict[str, Unit]] = {
    "parameters": _counted(lambda shape: shape.parameters, "{:,.0f} parameters"),
    "bytes": _counted(lambda shape: shape.bytes, "{:,.0f} bytes"),
    "latency": {
        "ms": Unit(lambda shape, t: _table(t).times(shape).total, lambda n: n, "{:.4g} ms"),
        "tokens_per_second": Unit(
            lambda shape, t: _table(t).times(shape).token, lambda n: 1000 / n, "{:.4g} ms a token"
        ),
    },
}
"""What is limited -> unit -> what a number of it counts; shares are of the first unit."""


@dataclass(frozen=True)
class Target:
    """The most that a model may have or take.

    Args:
        limits: parameters, bytes or latency.
        number: a share of the whole model's if ``unit`` is None.
        unit: of the number.

    Example:
        >>> Target.parse("parameters=0.75")
        Target(limits='parameters', number=0.75, unit=None)
        >>> Target.parse("latency=20tokens_per_second")
        Target(limits='latency', number=20.0, unit='tokens_per_second')
    """

    limits: str
    number: float
    unit: str | None

    @classmethod
    def parse(cls, text: str) -> Self:
        """What a target says as text; a number below 1 without a unit is a share.

        Raises:
            SteppeError: it says no target.
        """
        found = _TEXT.fullmatch(text.strip())
        limits, number, unit = found.groups() if found else ("", "0", "")
        value = float(number)
        units = UNITS.get(limits, {})
        share = limits in UNITS and unit == "" and value < 1
        if not value > 0 or not (share or unit in units):
            raise SteppeError(
                "a target limits parameters, bytes or latency, to a share below 1 or a number in "
                "a unit",
                got=repr(text),
                way_out=f"units of {limits}: {', '.join(u or 'none' for u in units)}"
                if units
                else EXAMPLES,
            )
        return cls(limits, value, None if share else unit)

    @property
    def counts(self) -> Unit:
        """What is counted."""
        units = UNITS[self.limits]
        return units[next(iter(units)) if self.unit is None else self.unit]

    @property
    def timed(self) -> bool:
        """Whether it needs a table of times."""
        return self.limits == "latency"

    def absolute(self, whole: Shape) -> Self:
        """The same of a share of parameters or bytes, as a number of them.

        Args:
            whole: the shape of the whole model.
        """
        if self.unit is not None or self.timed:
            return self
        return replace(self, number=self.allowed(whole), unit="")

    def cost(self, shape: Shape, table: GenerationTable | None = None) -> float:
        """Of a shape, as the target counts it."""
        return self.counts.cost(shape, table)

    def allowed(self, whole: Shape, table: GenerationTable | None = None) -> float:
        """The most that the cost may be.

        Args:
            whole: the shape of the whole model.
            table: its times.
        """
        if self.unit is None:
            return self.number * self.cost(whole, table)
        return self.counts.at_most(self.number)

    def check_less(self, whole: Shape, table: GenerationTable | None = None) -> None:
        """Whether the whole model is more than the target.

        Raises:
            SteppeError: it is not.
        """
        if self.cost(whole, table) <= self.allowed(whole, table):
            raise SteppeError(
                "a target is less than the whole model",
                got=self.counts.said.format(self.cost(whole, table)),
                way_out="a smaller one",
            )

    def out_of_reach(
        self,
        whole: Shape,
        least: Shape,
        said: str,
        instead: str,
        table: GenerationTable | None = None,
    ) -> SteppeError:
        """The error that says the least there can be.

        Args:
            whole: the shape of the whole model.
            least: of all shapes there may be.
            said: what the least one has, in words.
            instead: what could go otherwise.
            table: the model's times.
        """
        text, cost = self.counts.said, self.cost(least, table)
        share = math.ceil(1000 * cost / self.cost(whole, table)) / 1000
        return SteppeError(
            "a target leaves room for what must stay",
            got=f"{text.format(self.allowed(whole, table))} at most, where the least is "
            f"{text.format(cost)} with {said}",
            way_out=f"--target {self.limits}={share:g}, or {instead}" if share < 1 else instead,
        )


def shapes(
    target: Target,
    whole: Shape,
    kinds: Sequence[str],
    *,
    heads: Sequence[int] | None = None,
    experts: Sequence[int] | None = None,
    multiple: int = 1,
    table: GenerationTable | None = None,
) -> list[Shape]:
    """The shapes that meet a target and could not have more of anything, the best first.

    Best is the one of which the largest share stays of what loses most: the most even one. Which
    of them predicts best, only measuring tells. For each number of all else the most neurons
    are found by bisection, as more of them cost more.

    Args:
        target: to be met.
        whole: the shape of the whole model.
        kinds: what may become fewer: ``neurons``, ``heads``, ``experts``, ``blocks``.
        heads: how many key heads there may be; any number if not given.
        experts: how many experts; as many as a token is sent to at least if not given.
        multiple: of the neurons.
        table: the model's times, which a target in time needs.

    Raises:
        SteppeError: nothing meets it, all does, or one of the kinds cannot become fewer.
    """
    absent = [kind for kind in kinds if kind not in whole.cuts]
    if absent:
        raise SteppeError(
            "a target is met by what can be removed",
            got=f"{' and '.join(absent)} of a model whose modules are not known by their names",
            way_out=f"of this model: {', '.join(whole.cuts)}",
        )
    if table is not None:
        table.check_model(whole)
        _check_timed(kinds, table)
    may = _widths(whole, kinds, {"heads": heads, "experts": experts}, multiple, table)
    target.check_less(whole, table)
    met = _widest(target, whole, may, target.allowed(whole, table), table)
    if not met:
        least = whole.resized(**{kind: numbers[0] for kind, numbers in may.items()})
        instead = "--structure with more kinds of units"
        raise target.out_of_reach(whole, least, least.said(), instead, table)
    return sorted(
        met,
        key=lambda s: (
            -min(getattr(s, kind) / getattr(whole, kind) for kind in kinds),
            -target.cost(s, table),
        ),
    )


def _check_timed(kinds: Sequence[str], table: GenerationTable) -> None:
    """Whether a table knows what fewer of something gain.

    Raises:
        SteppeError: it does not.
    """
    known = {"blocks", *table.axes}
    if unknown := [kind for kind in kinds if kind not in known]:
        raise unmeasured(unknown, known)


def unmeasured(kinds: Iterable[str], known: Iterable[str]) -> SteppeError:
    """The error for a target in time where a table cannot tell what is gained.

    Args:
        kinds: of what would be removed.
        known: what is measured.
    """
    return SteppeError(
        "a target in time removes what a table of times was measured for",
        got=f"{' and '.join(kinds)}, measured: {', '.join(sorted(known))}",
        way_out="--target parameters=0.75 or bytes=0.75",
    )


def _widths(
    whole: Shape,
    kinds: Sequence[str],
    accepted: Mapping[str, Sequence[int] | None],
    multiple: int,
    table: GenerationTable | None,
) -> dict[str, list[int]]:
    """Kind -> the numbers there may be of it, ascending."""
    every = {
        "blocks": list(range(1, whole.blocks + 1)),
        "heads": list(range(1, whole.heads + 1)),
        "experts": list(range(max(whole.top_k, 1), whole.experts + 1)),
        "neurons": [*range(multiple, whole.neurons, multiple), whole.neurons],
    } | {kind: sorted(own) for kind, own in accepted.items() if own is not None}
    least = {k: axis[0] for k, axis in table.axes.items()} if table is not None else {}
    return {
        kind: [n for n in numbers if n >= least.get(kind, 1)]
        if kind in kinds
        else [getattr(whole, kind)]
        for kind, numbers in every.items()
    }


def _widest(
    target: Target,
    whole: Shape,
    may: Mapping[str, list[int]],
    allowed: float,
    table: GenerationTable | None,
) -> list[Shape]:
    """For each number of all else the most neurons, where no other shape has more of all."""
    outer = {kind: numbers for kind, numbers in may.items() if kind != "neurons"}
    met = []
    for numbers in itertools.product(*(reversed(own) for own in outer.values())):
        shape = whole.resized(**dict(zip(outer, numbers, strict=True)))

        def cost(neurons: int, shape: Shape = shape) -> float:
            return target.cost(shape.resized(neurons=neurons), table)

        if fitting := bisect_right(may["neurons"], allowed, key=cost):
            met.append(shape.resized(neurons=may["neurons"][fitting - 1]))
    sizes = [tuple(getattr(shape, kind) for kind in may) for shape in met]
    return [s for s, own in zip(met, sizes, strict=True) if not any(_more(o, own) for o in sizes)]


def _more(one: tuple[int, ...], other: tuple[int, ...]) -> bool:
    return one != other and all(a >= b for a, b in zip(one, other, strict=True))


def accepted_heads(stored: dict[str, Any], whole: Shape, family: str | None = None) -> list[int]:
    """How many key heads a model may have so that its config says it.

    Args:
        stored: its config, as ``config.json`` has it.
        whole: its shape.
        family: as which the model is written, see `steppe.llm.structured.family`.
    """
    config = config_of(of_family(stored, family))
    found = []
    for heads in range(1, whole.heads + 1):
        model = skeleton_of(config, whole.resized(blocks=1, heads=heads))
        if not update_config(model):
            found.append(heads)
    return found


def accepted_experts(stored: dict[str, Any], whole: Shape) -> list[int]:
    """How many experts a mixture may have so that its router chooses as it does.

    Args:
        stored: the model's config, as ``config.json`` has it.
        whole: its shape.

    Raises:
        SteppeError: it is not known to how many experts a token is sent.
    """
    config = config_of(stored)
    model = skeleton_of(config, whole.resized(blocks=1))
    return numbers_of_experts(next(mixtures_of(model)), config.get_text_config())
