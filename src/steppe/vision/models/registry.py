"""Build a network of a registry with the options that a user gave."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

from torch import nn

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry


def from_registry(
    registry: Registry[Callable[..., nn.Module]],
    name: str,
    num_classes: int,
    in_shape: tuple[int, int, int],
    options: dict[str, Any],
    *,
    pretrained: bool | None = None,
    others: Sequence[str] = (),
) -> nn.Module:
    """A registered network, which starts at random.

    Args:
        registry: whose kind messages name: model, detector.
        name: in the registry.
        num_classes: first argument of the builder.
        in_shape: second argument of the builder: channels, height, width.
        options: its further arguments.
        pretrained: what was asked for.
        others: options that a caller takes care of, named where one is not known.

    Raises:
        SteppeError: pretrained weights are asked for, an option is not known, or it cannot be built
            with them.
    """
    kind = registry.kind
    if pretrained:
        raise SteppeError(
            f"a {kind} of steppe starts at random",
            got=f"{name} with pretrained: true",
            way_out="weights: a safetensors file or a run's folder",
        )
    builder = registry[name]
    signature = inspect.signature(builder)
    try:
        signature.bind(num_classes, in_shape, **options)
    except TypeError as error:
        known = [*list(signature.parameters)[2:], *others]
        raise SteppeError(
            f"{kind} {name} must be given options it has",
            got=f"{sorted(options)} ({error})",
            way_out=f"its options: {', '.join(known) or 'none'}",
        ) from error
    try:
        return builder(num_classes, in_shape, **options)
    except SteppeError:
        raise
    except (TypeError, ValueError, ArithmeticError, LookupError, RuntimeError) as error:
        given = {"num_classes": num_classes, "in_shape": in_shape} | options
        raise SteppeError(
            f"{kind} {name} must be given options that it can be built with",
            got=f"{given} ({' '.join(str(error).split())[:200]})",
            way_out="leave options out for the usual ones; fewer classes, larger images",
        ) from error
