"""A model from the user's own code, named ``package.module:function``."""

from __future__ import annotations

import inspect
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.user_code import found


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
    function = found(name)
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
