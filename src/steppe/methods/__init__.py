"""One screen per paper: a function from options to a Method."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping
from typing import Any

from steppe.core.errors import SteppeError, unknown
from steppe.core.part import Budget, Structure
from steppe.core.registry import Registry
from steppe.method import Method

METHODS: Registry[Callable[..., Method]] = Registry("method", "steppe.methods")


def amount(
    budget: str | Mapping[str, Any] | Budget, sparsity: float | None, structure: str | Structure
) -> Budget:
    """The budget for a sparsity, which an N:M structure fixes when it is left out."""
    if isinstance(budget, Budget):
        return budget
    if sparsity is None:
        sparsity = Structure.make(structure).sparsity
    if sparsity is None:
        raise SteppeError(
            "a sparsity must be given", way_out="sparsity 0.95 (--sparsity 0.95), or structure 2:4"
        )
    spec = {"name": budget} if isinstance(budget, str) else dict(budget)
    return Budget.make({"sparsity": sparsity} | spec)


def make(name: str, **options: Any) -> Method:
    """A method by its name and options.

    Raises:
        SteppeError: the name or an option is not known.

    Example:
        >>> make("safe", sparsity=0.9).perturb.rho
        0.1
    """
    build = METHODS[name]
    known = list(inspect.signature(build).parameters)
    for key in options:
        if key not in known:
            raise unknown(f"option of method {name}", key, known)
    return build(**options)


# a file binds its own name in this package when it is imported; the method takes that name back
METHODS.load()
globals().update({name: METHODS[name] for name in METHODS})
