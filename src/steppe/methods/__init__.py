"""One screen per paper: a function from options to a Method."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from typing import Any

from steppe.core.errors import SteppeError, unknown
from steppe.core.part import typed
from steppe.core.protocols import Budget, Objective, Structure
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


def published(name: str, language: dict[str, Any] | None = None) -> Callable[..., Any]:
    """Register a method under a name; with ``language``, also for language models.

    Args:
        name: what it is called.
        language: the options that are different when a language model is pruned block by block,
            among them the ``objective``. What the caller gives wins.
    """

    def add(build: Callable[..., Method]) -> Any:
        @functools.wraps(build)
        def wrapped(*args: Any, **options: Any) -> Method:
            given = dict(inspect.signature(build).bind(*args, **options).arguments)
            scope = Objective.make(given.get("objective", "task")).scope
            made = build(**((language or {}) | given if scope != "task" else given))
            # remembered, so that `for_language` can build the same with other defaults
            object.__setattr__(made, "given", given)
            return made

        vars(wrapped)["language"] = language
        return METHODS.register(name)(wrapped)

    return add


def for_language(method: Method) -> Method:
    """A method as it prunes a language model: the same options, the others' defaults its own.

    Raises:
        SteppeError: it was put together for a training loop and has no such variant.

    Example:
        >>> import steppe
        >>> plain = steppe.methods.safe(sparsity=0.5)
        >>> plain.perturb.rho, for_language(plain).perturb.rho
        (0.1, 0.0002)
    """
    if method.objective.scope != "task":
        return method
    known = method.name in METHODS
    build = METHODS[method.name] if known else None
    language = getattr(build, "language", None)
    if build is None or language is None or method.given is None:
        able = [n for n in METHODS if _for_blocks(METHODS[n])]
        raise SteppeError(
            "a language model is pruned with an objective over layers or blocks",
            got=f"method {method.name} with objective {method.objective.name}",
            way_out=f"methods that have one: {', '.join(able)}; or set the objective of yours",
        )
    return build(**(language | method.given))


def _for_blocks(build: Callable[..., Method]) -> bool:
    """Whether a method has a variant for language models, or is for nothing else."""
    if getattr(build, "language", None):
        return True
    try:
        return build(sparsity=0.5).objective.scope != "task"
    except (TypeError, SteppeError):  # it takes other options; it is only not named
        return False


def make(name: str, **options: Any) -> Method:
    """A method by its name and options.

    Raises:
        SteppeError: the name or an option is not known, or of another type.

    Example:
        >>> make("safe", sparsity=0.9).perturb.rho
        0.1
    """
    build = METHODS[name]
    known = inspect.signature(build).parameters
    for key, value in options.items():
        if key not in known:
            raise unknown(f"option of method {name}", key, known)
        if "str" not in str(known[key].annotation):  # a part may be a name, a mapping or itself
            typed(f"method {name}", key, str(known[key].annotation), value)
    return build(**options)


# a file binds its own name in this package when it is imported; the method takes that name back
METHODS.load()
globals().update({name: METHODS[name] for name in METHODS})
