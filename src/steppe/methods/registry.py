"""How a published method is declared: its name, its display name, its form for language models."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any, Generic, ParamSpec

from steppe.core.errors import SteppeError
from steppe.core.part import typed
from steppe.core.protocols import Objective
from steppe.core.registry import Registry
from steppe.method import Method
from steppe.methods.options import with_effect
from steppe.methods.refusals import check_declared, no_option, with_way_out

P = ParamSpec("P")


class PublishedMethod(Generic[P]):
    """A method of a paper: called with its options, it gives the `Method`.

    Args:
        build: makes the value from the options; its docstring and signature are the method's.
        name: what it is called in code and on the command line.
        display: what it is called in a report, as its authors write it.
        language: the options that are different when a language model is pruned block by block,
            the ``objective`` among them. What the caller gives wins.

    Example:
        >>> import steppe
        >>> steppe.methods.safe_plus.display, steppe.methods.safe_plus(sparsity=0.5).score.name
        ('SAFE+', 'wanda')
    """

    def __init__(
        self, build: Callable[P, Method], name: str, display: str, language: Mapping[str, Any]
    ) -> None:
        known = inspect.signature(build).parameters
        check_declared(name, known, language)
        self.name, self.display = name, display
        self.build, self._language = build, dict(language)
        functools.update_wrapper(self, build)

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> Method:
        for key, value in kwargs.items():
            if key not in self.options:
                owners = [name for name in METHODS if key in METHODS[name].options]
                raise no_option(self.name, key, self.options, owners)
            typed(f"method {self.name}", key, str(self.options[key].annotation), value)
        given = inspect.signature(self.build).bind(*args, **kwargs).arguments
        usual = {k: (o.default, self._language.get(k)) for k, o in self.options.items()}
        try:
            return with_effect(self.name, given, usual, self._made)
        except SteppeError as error:
            raise with_way_out(error, self.name, given, usual, self._made) from None

    def _made(self, given: Mapping[str, Any]) -> Method:
        build: Callable[..., Method] = self.build
        if not self._language:
            return build(**given)
        form = build(**{**self._language, **given})
        if Objective.make(given.get("objective", "task")).scope != "task":
            return form
        plain = build(**given)
        own = plain.parts
        return plain.replace(language=[p for axis, p in form.parts.items() if p != own[axis]])

    def __reduce__(self) -> str:
        return self.build.__qualname__  # pickled by its place, as a function is

    def example(self) -> Method:
        """The method at 90 % zeros, or as it is if it has no sparsity; to show it."""
        build: Callable[..., Method] = self
        return build(**({"sparsity": 0.9} if "sparsity" in self.options else {}))

    @property
    def language(self) -> Mapping[str, Any]:
        """Options that are different for language models, with their defaults there."""
        return MappingProxyType(self._language)

    @property
    def options(self) -> Mapping[str, inspect.Parameter]:
        """Name -> option, with its default."""
        return inspect.signature(self.build).parameters


class MethodRegistry(Registry[PublishedMethod[...]]):
    """Names to methods. A plain function, registered as before version 0.1, becomes a method."""

    def register(self, name: str) -> Callable[[Any], Any]:
        add = super().register(name)

        def wrapped(build: Any) -> Any:
            if isinstance(build, PublishedMethod):
                return add(build)
            warnings.warn(
                f"METHODS.register({name!r}) is now published({name!r}, its display name)",
                DeprecationWarning,
                stacklevel=2,
            )
            return add(PublishedMethod(build, name, name, {}))

        return wrapped


METHODS = MethodRegistry("method", "steppe.methods")


def published(
    name: str, display: str, *, language: Mapping[str, Any] | None = None
) -> Callable[[Callable[P, Method]], PublishedMethod[P]]:
    """Register what builds a method; see `PublishedMethod` for the arguments.

    Example:
        >>> @published("nothing_goes", "Nothing")
        ... def nothing_goes() -> Method:
        ...     "Nothing is pruned."
        ...     return Method(budget={"name": "pooled", "sparsity": 0.0})
        >>> METHODS["nothing_goes"].display
        'Nothing'
        >>> METHODS.forget("nothing_goes")
    """

    def add(build: Callable[P, Method]) -> PublishedMethod[P]:
        method = PublishedMethod(build, name, display, language or {})
        METHODS.register(name)(method)
        return method

    return add


def display_of(name: str) -> str:
    """What a method is called in a report; a name that is not published stays as it is.

    Example:
        >>> display_of("safe_plus"), display_of("my method")
        ('SAFE+', 'my method')
    """
    return METHODS[name].display if name in METHODS else name
