"""What sections register: tables by name, claims by page and section."""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from typing import Any

from .cells import Table

Claim = tuple[Any, ...]  # the text with {} for each number, then the values
TABLES: dict[str, Callable[[], Table]] = {}
CLAIMS: list[Claims] = []


@dataclass(frozen=True)
class Claims:
    """Where figures stand in a text, and what they are."""

    page: str
    section: str
    settings: tuple[str, ...]
    make: Callable[[], Iterable[Claim]]


@dataclass(frozen=True)
class Bound:
    """A figure of which the page gives a bound, the nearest in its digits."""

    value: float
    above: bool


@dataclass(frozen=True)
class Near:
    """A figure that the page rounds more freely than its digits say: "about {}"."""

    value: float
    share: float


def at_most(value: float) -> Bound:
    """The page's number is no smaller: "less than {}"."""
    return Bound(value, above=True)


def at_least(value: float) -> Bound:
    """The page's number is no larger: "over {}"."""
    return Bound(value, above=False)


def about(value: float, share: float = 0.1) -> Near:
    """The page's number is that near, as a share."""
    return Near(value, share)


@dataclass(frozen=True)
class Rule:
    """The number is a rule, not a measurement: a file of the repository says it in these words."""

    file: str
    words: str


@dataclass(frozen=True)
class Cited:
    """The number is another's: a paper, an authors' code; who says it and where."""

    source: str


TEST_IMAGES = Cited("CIFAR-10 has 10,000 test images (Krizhevsky, 2009)")


def table(name: str) -> Callable[[Callable[[], Table]], Callable[[], Table]]:
    """Registers what fills ``<!-- table: name -->``; called once, however often it is asked."""

    def register(make: Callable[[], Table]) -> Callable[[], Table]:
        assert name not in TABLES, f"two tables are called {name}"
        TABLES[name] = cache(make)
        return TABLES[name]

    return register


def claims(
    page: str, section: str, settings: Iterable[str] = ()
) -> Callable[[Callable[[], Iterator[Claim]]], Callable[[], Iterator[Claim]]]:
    """Registers the figures in the text of one section (its ## heading; "" is what comes first).

    settings: files of the repository, such as recipes, whose numbers the text may name without a
    claim. Never a percentage's, a time's or a ratio's: these are figures.
    """

    def register(make: Callable[[], Iterator[Claim]]) -> Callable[[], Iterator[Claim]]:
        CLAIMS.append(Claims(page, section, tuple(settings), make))
        return make

    return register


def load() -> None:
    """Import every file of ``sections/``."""
    from . import sections

    for module in pkgutil.iter_modules(sections.__path__):
        importlib.import_module(f"{sections.__name__}.{module.name}")
