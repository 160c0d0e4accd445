"""Parts find themselves: one registry per axis, filled by the files of the axis' folder."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from importlib.metadata import entry_points
from typing import Any, Generic, TypeVar

from steppe.core.errors import SteppeError, unknown

T = TypeVar("T")


class Registry(Generic[T]):
    """Names to things of one kind; the files of ``package`` are imported on first use.

    A file in ``package`` registers what it defines with ``@REGISTRY.register("name")``;
    an outside distribution does so through an entry point of group ``package``
    (``"steppe.score"``, ...). There is no list to edit.

    Args:
        kind: what is registered, for error messages, e.g. ``"score"``.
        package: dotted name of the package whose modules register, e.g. ``"steppe.score"``.

    Example:
        >>> r = Registry("colour", "steppe.core")
        >>> @r.register("red")
        ... def red(): return "#f00"
        >>> r["red"]()
        '#f00'
    """

    def __init__(self, kind: str, package: str) -> None:
        self.kind, self.package = kind, package
        self._items: dict[str, T] = {}
        self._loaded = False

    def register(self, name: str) -> Callable[[Any], Any]:
        """Register the decorated class or function under ``name``."""

        def add(item: Any) -> Any:
            registered: Any = self._items.get(name, item)
            same = (registered.__module__, registered.__qualname__) == (
                item.__module__,
                item.__qualname__,
            )
            assert same, f"two things are called {self.kind} {name!r}: {registered}, {item}"
            self._items[name] = item
            return item

        return add

    def forget(self, name: str) -> None:
        """Take a name out again, so that an example leaves nothing behind."""
        del self._items[name]

    def load(self) -> None:
        """Import every module of the package and every outside entry point, once."""
        if self._loaded:
            return
        self._loaded = True
        package = importlib.import_module(self.package)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{self.package}.{module.name}")
        for point in entry_points(group=self.package):
            try:
                point.load()
            except Exception as error:
                raise SteppeError(
                    f"an installed package's {self.kind} must import",
                    got=f"{point.name} = {point.value} ({type(error).__name__}: {error})",
                    way_out="mend or uninstall that package",
                ) from error

    def __getitem__(self, name: str) -> T:
        self.load()
        if name not in self._items:
            raise unknown(self.kind, name, self._items)
        return self._items[name]

    def __iter__(self) -> Iterator[str]:
        self.load()
        return iter(sorted(self._items))

    def __contains__(self, name: object) -> bool:
        self.load()
        return name in self._items

    def __len__(self) -> int:
        self.load()
        return len(self._items)
