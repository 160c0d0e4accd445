"""What the options of published methods may be, and the budget that they stand for."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.part import Part
from steppe.core.protocols import Budget, Objective, Score, Structure
from steppe.method import Method, Spec

# what an option of a method may be: a part, its name, or its name and options
ScoreSpec = Score | Spec
StructureSpec = Structure | Spec
BudgetSpec = Budget | Spec
ObjectiveSpec = Objective | Spec
SIZES = ("sparsity", "structure", "budget")
"""Options that may say the same twice: 2:4 is a sparsity."""


def started(objective: ObjectiveSpec, start: str | None) -> Objective:
    """The objective, with what its blocks start from if it can start and does not say.

    A part says: it is whole. A name or a mapping without ``start`` does not.

    Example:
        >>> started("block_reconstruction", "layer_admm").start
        'layer_admm'
        >>> started({"name": "block_reconstruction", "start": None}, "layer_admm").start is None
        True
        >>> started("task", "layer_admm").name
        'task'
    """
    part = Objective.make(objective)
    says = isinstance(objective, Objective) or (
        isinstance(objective, Mapping) and "start" in objective
    )
    options = part.to_dict()
    if start is None or says or "start" not in options:
        return part
    return Objective.make(options | {"start": start})


def budget_of(budget: BudgetSpec, sparsity: float | None, structure: StructureSpec) -> Budget:
    """The budget for a sparsity, which an N:M structure fixes when it is left out.

    Raises:
        SteppeError: neither says how sparse.
    """
    if isinstance(budget, Budget):
        return budget
    if sparsity is None:
        sparsity = Structure.make(structure).sparsity
    if sparsity is None:
        raise SteppeError(
            "a sparsity must be given", way_out="sparsity 0.95 (--sparsity 0.95), or structure 2:4"
        )
    spec = {"name": budget} if isinstance(budget, str) else budget
    if not isinstance(spec, Mapping):
        raise SteppeError(
            "a budget is a name, or a mapping with a name and its options",
            got=repr(budget),
            way_out="budget: {name: pooled}",
        )
    return Budget.make({"sparsity": sparsity} | dict(spec))


def with_effect(
    name: str,
    given: Mapping[str, Any],
    usual: Mapping[str, tuple[Any, Any]],
    make: Callable[[Mapping[str, Any]], Method],
    whole: Callable[[Mapping[str, Any]], Method] | None = None,
) -> Method:
    """The method that options make, each of which changes something of it.

    One that changes nothing by itself either is another word for its default; one whose part has
    that value says what would be so without it.

    Args:
        name: of the method.
        given: the options.
        usual: option -> its defaults, which may be said without an effect.
        make: from options to method.
        whole: from options to what they mean in any use; ``make`` if not given.

    Raises:
        SteppeError: an option has no part in the method beside the others.
    """
    method = make(given)
    for key, value in given.items():
        if key in SIZES or any(value == default for default in usual[key]):
            continue
        sizes = {k: v for k, v in given.items() if k in SIZES}
        try:
            without = make({k: v for k, v in given.items() if k != key})
            alone, plain = ((whole or make)(o) for o in ({**sizes, key: value}, sizes))
        except SteppeError:
            continue  # the others do not even fit without it, or it without them
        before = _parts(plain)
        fed = {part.registry.kind for part in _parts(alone) if part not in before}
        own = [part.to_dict() for part in _parts(method) if part.registry.kind in fed]
        if fed and without == method and value not in _leaves(own):
            raise SteppeError(
                f"an option of {name} must have a part in the method",
                got=f"{key} {value}, which changes nothing beside the method's other options",
                way_out=f"leave {key} out",
            )
    return method


def _parts(method: Method) -> list[Part]:
    """Its own, and those of its form for language models."""
    return [*method.parts.values(), *method.language]


def _leaves(plain: object) -> list[object]:
    if isinstance(plain, Mapping):
        return [leaf for value in plain.values() for leaf in _leaves(value)]
    if isinstance(plain, list | tuple):
        return [leaf for value in plain for leaf in _leaves(value)]
    return [plain]
