"""Functions of the user's own code, named ``package.module:function``."""

from __future__ import annotations

import sys
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
from importlib.machinery import PathFinder
from pathlib import Path
from typing import Any

from steppe.core.errors import SteppeError


def found(name: str) -> Any:
    """The thing of a name ``package.module:attribute``; the current folder is searched too.

    Args:
        name: the attribute may have dots.

    Raises:
        SteppeError: there is no such module, or it has no such attribute.

    Example:
        >>> found("math:floor")(2.5)
        2
    """
    module_name, _, attribute = name.partition(":")
    here = str(Path.cwd())
    # A console script does not have the current folder on its path, where users keep their code.
    sys.path.insert(0, here)
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise  # a library that the user's own module needs: Python's message is the clear one
        raise SteppeError(
            "module:function must name a module that can be imported",
            got=name,
            consequence=f"there is no module {error.name}",
            way_out=f"run from the folder that holds it (here: {here}) or install it",
        ) from error
    finally:
        if here in sys.path:
            sys.path.remove(here)
    try:
        return reduce(getattr, attribute.split("."), module)
    except AttributeError as error:
        public = [key for key in vars(module) if not key.startswith("_")]
        near = get_close_matches(attribute, public, n=5, cutoff=0.3)
        raise SteppeError(
            "module:function must name a function the module has",
            got=name,
            consequence=f"module {module_name} has no {attribute}",
            way_out=f"the nearest it has: {', '.join(near) or 'none'}",
        ) from error


def is_module(name: str) -> bool:
    """Whether there is such a module, in the current folder too; none is imported.

    A folder without ``__init__.py`` is none: it may hold anything, a dataset too.

    Example:
        >>> is_module("json"), is_module("no_such_module")
        (True, False)
    """
    found = PathFinder.find_spec(name, [str(Path.cwd()), *sys.path])
    return found is not None and found.origin is not None
