"""Import of a library that only some calls need, or that is used where it is there."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from steppe.core.errors import SteppeError
from steppe.core.notes import note


def require(module: str, *, install: str, purpose: str) -> Any:
    """Import ``module`` at the moment it is needed.

    Args:
        module: dotted name, e.g. ``"pyarrow.parquet"``.
        install: what pip calls the distribution, e.g. ``"pyarrow"``.
        purpose: what cannot be done without it, for the message.

    Returns:
        The module. Typed ``Any``, so that a type checker need not read these large libraries.

    Raises:
        SteppeError: the library is not installed, or fails as it is imported.

    Example:
        >>> require("json", install="json", purpose="reading JSON").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except Exception as error:  # one that does not fit torch raises RuntimeError, OSError and more
        missing = isinstance(error, ModuleNotFoundError)
        raise SteppeError(
            f"{purpose} needs {install}",
            got=_said(error),
            way_out=f"pip install {'' if missing else '--upgrade '}{install}",
        ) from error


def optional(module: str, *, instead: str) -> Any:
    """Import a library that is used where it is there.

    Args:
        module: its dotted name.
        instead: what is done without it, said where it is installed and cannot be imported.

    Returns:
        The module; None where it is not installed, or fails, which a warning tells.

    Example:
        >>> optional("no_such_library", instead="nothing is lost") is None
        True
    """
    name = module.partition(".")[0]
    try:
        return import_module(module)
    except Exception as error:  # as above
        if not (isinstance(error, ModuleNotFoundError) and error.name == name):
            tell_broken(name, error, instead)
        return None


def tell_broken(library: str, error: Exception, instead: str) -> None:
    """Warn of a library that is installed and does not work.

    Args:
        library: its name.
        error: how it failed.
        instead: what is done without it.
    """
    note(
        f"{library} is installed and does not work ({_said(error)}): {instead}; way out: the "
        f"version of {library} that fits this torch, or none",
        stacklevel=3,
    )


def _said(error: Exception) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]
