"""The method of a recipe: a name with options, or its seven parts."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any

from steppe import methods
from steppe.core.errors import SteppeError
from steppe.core.protocols import AXES
from steppe.method import Method
from steppe.methods.options import with_effect


def spelled_out(method: Mapping[str, Any]) -> bool:
    """Whether a recipe's method is its parts, and not a name with options.

    Example:
        >>> spelled_out({"name": "mine", "budget": {"name": "pooled", "sparsity": 0.9}})
        True
        >>> spelled_out({"name": "polarreg", "sparsity": 0.5, "budget": {"name": "valley"}})
        False
    """
    axes = {axis.registry.kind for axis in AXES}
    own = method.keys() <= axes | {"name", "objective", "language"}
    return own and isinstance(method.get("budget"), dict)


def method_of(given: Mapping[str, Any]) -> Method:
    """The method: by name and options, or as its seven parts when a budget is given.

    Args:
        given: as a recipe has it under ``method``.

    Raises:
        SteppeError: there is no such method, or an option does not fit it.

    Example:
        >>> method_of({"name": "gmp", "sparsity": 0.5, "perturb": "sam"}).perturb.name
        'sam'
    """
    spec = dict(given)
    if spelled_out(spec):
        return without_language(Method.from_dict(spec))
    name = spec.pop("name", None)
    if name is None:
        raise SteppeError("a method needs a name", way_out="method: {name: safe, sparsity: 0.9}")
    # any part may be exchanged, whether or not the method's function takes it
    own = methods.METHODS[str(name)].options
    axes = [axis.registry.kind for axis in AXES]
    exchanged = {axis: spec.pop(axis) for axis in axes if axis in spec and axis not in own}
    if "objective" in spec:
        exchanged["objective"] = spec.pop("objective")
    usual = {key: (option.default, option.default) for key, option in own.items()}

    def whole(options: Mapping[str, Any]) -> Method:
        return methods.make(str(name), **options)

    def made(options: Mapping[str, Any]) -> Method:
        return without_language(whole(options))

    return with_effect(str(name), spec, usual, made, whole).replace(**exchanged)


def in_full(method: Mapping[str, Any]) -> dict[str, Any]:
    """A recipe's method with every default written out."""
    if spelled_out(method) or "name" not in method:
        return method_of(method).to_dict() if method else {}
    options = inspect.signature(methods.METHODS[str(method["name"])]).parameters
    defaults = {key: option.default for key, option in options.items()}
    return {"name": method["name"]} | defaults | dict(method)


def without_language(method: Method) -> Method:
    """Without what pruning block by block would change of it: a record holds what was run."""
    return method.replace(language=())
