"""Import of a library that only some calls need."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from steppe.core.errors import SteppeError


def require(module: str, *, install: str, purpose: str) -> Any:
    """Import ``module`` at the moment it is needed.

    Args:
        module: dotted name, e.g. ``"pyarrow.parquet"``.
        install: what pip calls the distribution, e.g. ``"pyarrow"``.
        purpose: what cannot be done without it, for the message.

    Returns:
        The module. Typed ``Any``, so that a type checker need not read these large libraries.

    Raises:
        SteppeError: the library is not installed.

    Example:
        >>> require("json", install="json", purpose="reading JSON").dumps([1])
        '[1]'
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise SteppeError(
            f"{purpose} needs {install}",
            got=f"{type(error).__name__}: {error}",
            way_out=f"pip install {install}",
        ) from error
