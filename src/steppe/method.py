"""A published method is a value: one part per axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import yaml

from steppe.core.errors import SteppeError
from steppe.core.protocols import (
    Budget,
    Coupling,
    Objective,
    Part,
    Perturb,
    Schedule,
    Score,
    Structure,
)
from steppe.core.text import read_yaml


@dataclasses.dataclass(frozen=True, kw_only=True)
class Method:
    """Seven parts that fit together; checked when built.

    Each may be given as a part, its name, or ``{"name": ..., option: value}``.

    Args:
        score: what matters?
        structure: which shape? Also ``"2:4"``, ``"block:4x4"``.
        budget: how much, where?
        schedule: when?
        coupling: how do the weights obey?
        perturb: how flat?
        objective: against what?
        name: what the combination is called.

    Raises:
        SteppeError: a part is not known or two parts do not fit.

    Example:
        >>> m = Method(budget={"name": "uniform", "sparsity": 0.5}, structure="2:4")
        >>> Method.from_dict(m.to_dict()) == m
        True
    """

    budget: Budget
    score: Score = "magnitude"  # type: ignore[assignment]
    structure: Structure = "unstructured"  # type: ignore[assignment]
    schedule: Schedule = "constant"  # type: ignore[assignment]
    coupling: Coupling = "hard_mask"  # type: ignore[assignment]
    perturb: Perturb = "none"  # type: ignore[assignment]
    objective: Objective = "task"  # type: ignore[assignment]
    name: str = "custom"
    given: Mapping[str, Any] | None = dataclasses.field(
        default=None, init=False, compare=False, repr=False
    )
    """The options with which a published method was called; not part of the value."""

    def __post_init__(self) -> None:
        for axis in (Score, Structure, Budget, Schedule, Coupling, Perturb, Objective):
            field = axis.registry.kind
            object.__setattr__(self, field, axis.make(getattr(self, field)))
        for part in self.parts.values():
            part.fits(self)

    @property
    def parts(self) -> dict[str, Part]:
        """Axis -> part, in the order in which the axes are explained."""
        return {
            "score": self.score,
            "structure": self.structure,
            "budget": self.budget,
            "schedule": self.schedule,
            "coupling": self.coupling,
            "perturb": self.perturb,
            "objective": self.objective,
        }

    @property
    def sparsity(self) -> float:
        """The fraction of units that are zero at the end."""
        return self.budget.target

    def replace(self, **parts: Any) -> Method:
        """The same method with other parts, e.g. ``replace(budget=..., perturb="none")``."""
        return dataclasses.replace(self, **parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` reads it back."""
        return {"name": self.name} | {axis: part.to_dict() for axis, part in self.parts.items()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Method:
        """The inverse of `to_dict`.

        Raises:
            SteppeError: an axis is not known.
        """
        known = [f.name for f in dataclasses.fields(cls) if f.init]
        for key in data:
            if key not in known:
                raise SteppeError(
                    "unknown axis", got=repr(key), way_out=f"known: {', '.join(known)}"
                )
        if "budget" not in data:
            raise SteppeError(
                "a method needs a budget",
                way_out="budget: {name: pooled, sparsity: 0.9}",
            )
        return cls(**data)

    def to_yaml(self) -> str:
        """As text; `from_yaml` reads it back."""
        return yaml.safe_dump(self.to_dict(), sort_keys=False)

    @classmethod
    def from_yaml(cls, text: str) -> Method:
        """The inverse of `to_yaml`."""
        data = read_yaml(text)
        if not isinstance(data, dict):
            raise SteppeError("a method in YAML is a mapping of axes", got=type(data).__name__)
        return cls.from_dict(data)
