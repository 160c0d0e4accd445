"""A model from the user's own code, named ``package.module:function``."""

from __future__ import annotations

import inspect
import sys
from difflib import get_close_matches
from functools import reduce
from importlib import import_module
from pathlib import Path
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError


def from_function(
    name: str, num_classes: int, in_shape: tuple[int, int, int], **options: Any
) -> nn.Module:
    """Call the user's function and check that a model comes back.

    The current folder is searched too, as ``python -m`` does. The function is given
    ``num_classes`` and ``in_shape`` as far as its signature has them.

    Args:
        name: ``package.module:function``; the function may be a class or a dotted attribute.
        num_classes: number of classes.
        in_shape: channels, height, width of one image.
        options: passed on as keywords.

    Returns:
        What the function built.

    Raises:
        SteppeError: module or function not found, options it does not take, no ``nn.Module``.

    Example:
        >>> from_function("torch.nn:Linear", 10, (3, 8, 8), in_features=4, out_features=10)
        Linear(in_features=4, out_features=10, bias=True)
    """
    module_name, _, attribute = name.partition(":")
    function = _find(name, module_name, attribute)
    try:
        parameters = inspect.signature(function).parameters
        offered = {"num_classes": num_classes, "in_shape": in_shape}
        arguments = {key: value for key, value in offered.items() if key in parameters} | options
        inspect.signature(function).bind(**arguments)
    except (TypeError, ValueError) as error:
        raise SteppeError(
            f"{name} must be callable with what it is given",
            got=f"{options or 'no options'} ({error})",
            way_out="def function(num_classes, in_shape, **options) -> nn.Module",
        ) from error
    model = function(**arguments)
    if not isinstance(model, nn.Module):
        raise SteppeError(
            f"{name} must return a torch.nn.Module",
            got=type(model).__name__,
            way_out="return the model itself",
        )
    return model


def _find(name: str, module_name: str, attribute: str) -> Any:
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
