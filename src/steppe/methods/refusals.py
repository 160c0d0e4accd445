"""What is said of options: badly declared, unknown to the method, or refused by its parts."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from steppe.core.errors import SteppeError, unknown
from steppe.method import Method

_NAMED = 4  # methods that are named; of more their number is told


def check_declared(
    name: str, known: Mapping[str, inspect.Parameter], language: Mapping[str, Any]
) -> None:
    """Refuse a method without its paper's values, or with others for options that it has not.

    Args:
        name: of the method.
        known: its options.
        language: those that are different for language models.

    Raises:
        SteppeError: an option has no default, or is none.
    """
    if wrong := [key for key in language if key not in known]:
        raise SteppeError(
            "what differs for language models is given by options of the method",
            got=f"{', '.join(wrong)} of method {name}",
            way_out="make it a parameter of the function, or leave it out",
        )
    bare = [k for k, o in known.items() if o.default is o.empty and k != "sparsity"]
    if bare:
        raise SteppeError(
            "every option of a method but its sparsity has a default",
            got=f"none for {', '.join(bare)} of method {name}",
            way_out=f"{bare[0]} = the paper's value",
        )


def no_option(name: str, key: str, known: Iterable[str], owners: Sequence[str]) -> SteppeError:
    """The error for an option that a method has not.

    Args:
        name: of the method.
        key: the option.
        known: the method's options.
        owners: other methods, which have it.

    Example:
        >>> error = no_option("gmp", "rho", ["sparsity"], ["safe"])
        >>> error.got, error.way_out
        ('rho, which belongs to safe', 'leave rho out; known here: sparsity')
    """
    if not owners:
        return unknown(f"option of method {name}", key, known)
    more = f" and {len(owners) - _NAMED} more" if len(owners) > _NAMED else ""
    return SteppeError(
        f"unknown option of method {name}",
        got=f"{key}, which belongs to {', '.join(owners[:_NAMED])}{more}",
        way_out=f"leave {key} out; known here: {', '.join(sorted(known))}",
    )


def with_way_out(
    error: SteppeError,
    name: str,
    given: Mapping[str, Any],
    usual: Mapping[str, tuple[Any, Any]],
    make: Callable[[Mapping[str, Any]], Method],
) -> SteppeError:
    """A part's error, with the method's option that is to blame, where one alone is.

    Args:
        error: as the part raised it; it stays as it is if it says a way out.
        name: of the method.
        given: its options.
        usual: option -> its defaults, of images and of language models if these have another.
        make: from options to method.
    """
    if error.way_out:
        return error
    blamed = [key for key in given if _works(make, {k: given[k] for k in given if k != key})]
    if len(blamed) != 1:
        return error
    (key,) = blamed
    own, other = usual[key]
    beside = "" if other in (None, own) else f", {other} for language models"
    return SteppeError(
        error.rule,
        got=f"{error.got} ({key} {given[key]} of method {name})",
        consequence=error.consequence,
        way_out=f"leave {key} out: its default is {own}{beside}",
    )


def _works(make: Callable[[Mapping[str, Any]], Method], given: Mapping[str, Any]) -> bool:
    try:
        make(given)
    except SteppeError:
        return False
    return True
