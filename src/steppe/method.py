"""A published method is a value: one part per axis."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import yaml

from steppe.core.errors import SteppeError, unknown
from steppe.core.protocols import (
    AXES,
    AnyCoupling,
    Budget,
    Coupling,
    LayerSolver,
    Objective,
    Part,
    Perturb,
    Schedule,
    Score,
    Structure,
    UnitBudget,
)
from steppe.core.text import read_yaml

Spec = str | Mapping[str, Any]
"""A part by its name, or as ``{"name": ..., option: value}``."""
LanguageSpec = Mapping[str, Part | Spec] | Sequence[Part]
"""Axis -> part, or the parts themselves."""

_AXES = {axis.registry.kind: axis for axis in AXES}


@dataclasses.dataclass(frozen=True, kw_only=True, init=False)
class Method:
    """Seven parts that fit together; checked when built.

    Each may be given as a part, its name, or ``{"name": ..., option: value}``.

    Args:
        budget: how much, where?
        score: what matters?
        structure: which shape? Also ``"2:4"``, ``"block:4x4"``.
        schedule: when?
        coupling: how do the weights obey?
        perturb: how flat?
        objective: what is optimised?
        name: what the combination is called.
        language: the parts that take these parts' place where a language model is pruned, see
            `for_language`.

    Raises:
        SteppeError: a part is not known or two parts do not fit.

    Example:
        >>> m = Method(budget={"name": "uniform", "sparsity": 0.5}, structure="2:4")
        >>> Method.from_dict(m.to_dict()) == m
        True
    """

    name: str
    score: Score
    structure: Structure
    budget: Budget
    schedule: Schedule
    coupling: Coupling | LayerSolver
    perturb: Perturb
    objective: Objective
    language: tuple[Part, ...]

    def __init__(
        self,
        *,
        budget: Budget | Spec,
        score: Score | Spec = "magnitude",
        structure: Structure | Spec = "unstructured",
        schedule: Schedule | Spec = "constant",
        coupling: AnyCoupling | Spec = "hard_mask",
        perturb: Perturb | Spec = "none",
        objective: Objective | Spec = "task",
        name: str = "custom",
        language: LanguageSpec | None = (),
    ) -> None:
        values: dict[str, Any] = {
            "name": name,
            "score": Score.make(score),
            "structure": Structure.make(structure),
            "budget": Budget.make(budget),
            "schedule": Schedule.make(schedule),
            "coupling": AnyCoupling.make(coupling),
            "perturb": Perturb.make(perturb),
            "objective": Objective.make(objective),
            "language": _language_parts(language),
        }
        for field, value in values.items():
            object.__setattr__(self, field, value)
        for part in self.parts.values():
            part.check_fits(self)
        for part in self.language:
            if isinstance(part, Budget) and part.target != self.budget.target:
                raise SteppeError(
                    "a method has one sparsity, for language models too",
                    got=f"{self.budget.target:g}, and {part.target:g} under language",
                    way_out="the same sparsity in both budgets",
                )

    @property
    def parts(self) -> dict[str, Part]:
        """Axis -> part, in the order in which the axes are explained."""
        return {axis: getattr(self, axis) for axis in _AXES}

    @property
    def sparsity(self) -> float:
        """The fraction of units that are zero at the end."""
        return self.budget.target

    def idle(self, steps: int) -> list[str]:
        """What it does not come to do in a training of so few steps, in sentences.

        Args:
            steps: of the training.
        """
        said = self.coupling.idle(steps) if isinstance(self.coupling, Coupling) else []
        return [f"{self.name}: {sentence}" for sentence in said]

    @property
    def solver(self) -> LayerSolver | None:
        """The coupling as it solves one layer at a time, if it can."""
        return self.coupling if isinstance(self.coupling, LayerSolver) else None

    @property
    def profiled_by(self) -> str | None:
        """The score by which the budget looks at all layers before any is pruned, if it does."""
        return self.budget.profiled_by if isinstance(self.budget, UnitBudget) else None

    @property
    def calibration_needs(self) -> frozenset[str]:
        """The statistics that score and solver read and that nothing but calibration gives."""
        solver = self.solver
        if solver is None:
            return frozenset(self.score.needs)
        return frozenset({*self.score.needs, *solver.needs} - set(solver.provides))

    def replace(self, **parts: Any) -> Method:
        """The same method with other parts, for images and for language models alike.

        Args:
            parts: axis -> part, its name, or ``{"name": ..., option: value}``; also ``name`` and
                ``language``.

        Example:
            >>> m = Method(budget={"name": "pooled", "sparsity": 0.5}, perturb="sam")
            >>> m.replace(perturb="none").perturb.name
            'none'
        """
        for name in parts:
            if name not in {"name", "language", *_AXES}:
                raise self._no_axis(name)
        if "language" not in parts:
            parts["language"] = [p for p in self.language if p.registry.kind not in parts]
        return dataclasses.replace(self, **parts)

    def _no_axis(self, name: str) -> SteppeError:
        """The error for what is no axis: the option of one of the parts, or not known at all."""
        for axis in _AXES:
            part = getattr(self, axis).to_dict()
            if name in part:
                return SteppeError(
                    f"replace takes whole parts; {name} is an option of one",
                    got=f"{name}=...",
                    way_out=f"replace({axis}={part} with the {name} that is wanted), or a new "
                    f"steppe.methods.{self.name}({name}=...)",
                )
        return unknown("axis", name, [*_AXES, "name", "language"])

    @property
    def has_language_form(self) -> bool:
        """Whether it says what is optimised where a language model is pruned block by block."""
        scopes = [p.scope for p in (self.objective, *self.language) if isinstance(p, Objective)]
        return scopes[-1] != "task"

    def for_language(self) -> Method:
        """The method as it prunes a language model: with the parts of ``language`` in place.

        A function of the value alone: equal methods give equal ones. A part that was exchanged
        with `replace` stays exchanged. Whether the parts fit in this form is looked at here.

        Raises:
            SteppeError: it optimises the task of a training loop and says nothing else, or the
                parts do not fit.

        Example:
            >>> import steppe
            >>> plain = steppe.methods.safe(sparsity=0.5)
            >>> plain.perturb.rho, plain.for_language().perturb.rho
            (0.1, 0.0002)
        """
        if not self.has_language_form:
            raise SteppeError(
                "a language model is pruned with an objective over layers or blocks",
                got=f"method {self.name} with objective {self.objective.name}",
                way_out="a method for language models (steppe methods shows which), or "
                "replace(objective='block_reconstruction')",
            )
        parts: dict[str, Part] = {p.registry.kind: p for p in self.language}
        try:
            return self.replace(language=(), **parts)
        except SteppeError as error:
            raise SteppeError(
                error.rule,
                got=f"{error.got}, in the form of {self.name} for language models "
                f"({', '.join(f'{axis} {p.name}' for axis, p in parts.items())})",
                consequence=error.consequence,
                way_out=error.way_out,
            ) from None

    def changed_since(self, stored: Mapping[str, Any]) -> str:
        """What an earlier version did otherwise, in words; "" where its steps were the same.

        Args:
            stored: `to_dict` of this method by that version.
        """
        said = (part.changed_since(stored[axis], self) for axis, part in self.parts.items())
        return "; ".join(filter(None, said))

    def to_dict(self) -> dict[str, Any]:
        """Plain data; `from_dict` reads it back."""
        plain = {"name": self.name} | {axis: part.to_dict() for axis, part in self.parts.items()}
        if self.language:
            plain["language"] = {p.registry.kind: p.to_dict() for p in self.language}
        return plain

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> Method:
        """The inverse of `to_dict`.

        Raises:
            SteppeError: an axis is not known.
        """
        known = [f.name for f in dataclasses.fields(cls)]
        for key in data:
            if key not in known:
                raise unknown("axis", key, known)
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
        try:
            data = read_yaml(text)
        except yaml.YAMLError as error:
            said = " ".join(str(error).split())
            raise SteppeError("a method must be YAML", got=said) from None
        if not isinstance(data, dict):
            raise SteppeError("a method in YAML is a mapping of axes", got=type(data).__name__)
        return cls.from_dict(data)


def _language_parts(language: LanguageSpec | None) -> tuple[Part, ...]:
    """The parts for language models, in the order of the axes.

    Raises:
        SteppeError: an axis is not known, or something is no part.
    """
    if language is None:  # an empty key in YAML
        return ()
    if isinstance(language, Mapping):
        for axis in language:
            if axis not in _AXES:
                raise unknown("axis under language", axis, _AXES)
        specs: dict[str, Any] = dict(language)
    elif isinstance(language, Sequence) and all(isinstance(p, Part) for p in language):
        specs = {part.registry.kind: part for part in language}
        if len(specs) < len(language):
            raise SteppeError(
                "what differs for language models is one part of an axis",
                got=", ".join(f"{part.registry.kind} {part.name}" for part in language),
            )
    else:
        raise SteppeError(
            "what differs for language models is given by axis",
            got=repr(language),
            way_out="language: {objective: block_reconstruction, perturb: {name: sam, rho: 2e-4}}",
        )
    return tuple(_AXES[axis].make(specs[axis]) for axis in _AXES if axis in specs)
