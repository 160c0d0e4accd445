"""What every part is: a frozen dataclass that is its own configuration."""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Self

from torch import Tensor

from steppe.core.errors import SteppeError
from steppe.core.registry import Registry

if TYPE_CHECKING:
    from steppe.method import Method

Tensors = dict[str, Tensor]
"""Name -> tensor, the name a parameter's or a layer's."""

# what a recipe or a command line may give for a field of such a type
_PLAIN = {
    "int": (int,),
    "float": (int, float),
    "bool": (bool,),
    "str": (str,),
    "None": (type(None),),
}


def typed(owner: str, option: str, annotation: str, value: object) -> None:
    """Raise SteppeError when an option has not the type that its annotation says.

    Example:
        >>> typed("method pilot", "alpha", "float", 1e-4)
        >>> typed("method pilot", "alpha", "float", "much")
        Traceback (most recent call last):
        steppe.core.errors.SteppeError: option alpha of method pilot is of type float; got 'much'
    """
    kinds = annotation.split(" | ")
    if not all(kind in _PLAIN for kind in kinds):  # what is not plain, its owner checks
        return
    allowed = tuple(t for kind in kinds for t in _PLAIN[kind])
    if not isinstance(value, allowed) or (isinstance(value, bool) and bool not in allowed):
        raise SteppeError(f"option {option} of {owner} is of type {annotation}", got=repr(value))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Part:
    """One value on one axis: a frozen dataclass that is its own configuration.

    A part has pure methods on tensors. What must hold for its own fields it checks in
    ``__post_init__``; what must hold beside the other parts in `fits`.
    """

    registry: ClassVar[Registry[Any]]
    name: ClassVar[str]

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name, annotation in vars(cls).get("__annotations__", {}).items():
            if "ClassVar" not in str(annotation) and _declared(name, cls.__mro__[1:]):
                raise SteppeError(
                    "an option of a part may not be called like what its axis declares",
                    got=f"{name} of {cls.__name__}",
                    consequence="the engine would read the option's value for the declaration",
                    way_out=f"another name than {name!r}",
                )

    def fits(self, method: Method) -> None:
        """Raise SteppeError when this part cannot work beside the method's other parts.

        What its protocol asks for is asked as well: see `check_fits`.
        """

    def check_fits(self, method: Method) -> None:
        """Every `fits`, the protocol's first: a part adds to what its protocol asks for."""
        for kind in reversed(type(self).__mro__):
            if "fits" in vars(kind):
                vars(kind)["fits"](self, method)

    def changed_since(self, stored: Mapping[str, Any], method: Method) -> str:
        """What an earlier version did otherwise, in words; "" where its steps were the same.

        Args:
            stored: `to_dict` of this part by that version, which knew fewer options.
            method: whose part it is.
        """
        return ""

    def to_dict(self) -> dict[str, Any]:
        """Name and every field, as plain data."""
        return {"name": self.name, **{k: _plain(v) for k, v in dataclasses.asdict(self).items()}}

    @classmethod
    def make(cls, spec: Part | str | Mapping[str, Any]) -> Self:
        """A part from itself, from its name, or from ``{"name": ..., field: value}``.

        Raises:
            SteppeError: the name or a field is not known, or a value does not fit.
        """
        axis = cls.registry
        if isinstance(spec, Part):
            if not isinstance(spec, cls):
                raise SteppeError(f"expected a {axis.kind}", got=repr(spec))
            return spec
        if not isinstance(spec, str | Mapping):
            raise SteppeError(
                f"a {axis.kind} is given by its name, or by name and options",
                got=repr(spec),
                way_out=f"one of {', '.join(axis)}",
            )
        given = {"name": spec} if isinstance(spec, str) else dict(spec)
        name = given.pop("name", None)
        part = axis[str(name)]
        known = [f.name for f in dataclasses.fields(part)]
        for key in given:
            if key not in known:
                raise SteppeError(
                    f"unknown option of {axis.kind} {name}",
                    got=repr(key),
                    way_out=f"known: {', '.join(known) or 'it has none'}",
                )
        for field in dataclasses.fields(part):
            if field.name in given:
                typed(f"{axis.kind} {name}", field.name, str(field.type), given[field.name])
        try:
            built = part(**given)
        except TypeError as error:
            raise SteppeError(
                f"{axis.kind} {name} needs its options in their types",
                got=f"{given} ({error})",
                way_out=f"its options: {', '.join(known) or 'none'}",
            ) from None
        assert isinstance(built, cls)
        return built


def _plain(value: Any) -> Any:
    """As JSON and YAML read it again: a tuple is a list there."""
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    return [_plain(inner) for inner in value] if isinstance(value, list | tuple) else value


def _declared(name: str, bases: tuple[type, ...]) -> bool:
    """Whether a protocol has that name, and not as an option."""
    protocols = [b for b in bases if b.__module__.startswith("steppe.core.") and name in vars(b)]
    options = {
        f.name for b in protocols if dataclasses.is_dataclass(b) for f in dataclasses.fields(b)
    }
    return bool(protocols) and name not in options


def axis(kind: str) -> Any:
    """The registry of the parts of one kind."""
    return Registry(kind, f"steppe.{kind}")


def __getattr__(name: str) -> Any:
    """The protocols of the axes, which were in this module before version 0.1."""
    from steppe.core import protocols

    if name.startswith("_") or name not in vars(protocols):
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    warnings.warn(
        f"steppe.core.part.{name} is now steppe.core.protocols.{name}",
        DeprecationWarning,
        stacklevel=2,
    )
    return vars(protocols)[name]
