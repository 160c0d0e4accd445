"""Fills the tables and figures of a page, and says what no record gives."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from functools import cache
from typing import Any

from . import page as pages
from .page import DIGITS, TABLE, WORD, Section, digits_of, line_of, value_of
from .registry import CLAIMS, TABLES, Bound, Cited, Claim, Claims, Near, Rule
from .sources import ROOT, numbers_in

# Every number of these pages has a source; elsewhere those with a unit of measurement.
RESULTS = ("docs/results.md", "docs/benchmarks.md")
WHOLE = (*RESULTS, "README.md")
PLACE = rf"([-−+]?{DIGITS}|{WORD})"
SURE = 3  # digits with which a number of the text may be a cell of the section's tables by itself


def fill_tables(text: str) -> str:
    """The page with its tables as the records have them."""

    def filled(match: re.Match[str]) -> str:
        name = match[1]
        assert name in TABLES, f"no table {name}; there are {sorted(TABLES)}"
        return f"<!-- table: {name} -->\n\n{TABLES[name]().markdown()}\n\n<!-- end -->"

    return TABLE.sub(filled, text)


def fill(name: str, text: str) -> str:
    """The page with its tables and the figures in its text as the records have them.

    A figure whose sign has changed is left as it is: the words around it are then wrong too.
    """
    text = fill_tables(text)
    edits = []
    for section in pages.sections(text):
        for _, match, value, group in _places(name, section):
            shown = match[group]
            if isinstance(value, int | float) and not shows(shown, value):
                start, end = (section.start + place for place in match.span(group))
                edits.append((start, end, _as_shown(shown, value)))
    for start, end, new in sorted(edits, reverse=True):
        text = text[:start] + new + text[end:]
    return text


def faults(name: str, text: str) -> Iterator[str]:
    """A line for whatever stands in a page without a record, or otherwise than in it."""
    titles = {section.title for section in pages.sections(text)}
    for one in CLAIMS:
        if one.page == name and one.section not in titles:
            yield f"{name}: claims about a section that is not there: {one.section!r}"
    if fill_tables(text) != text:
        yield f"{name}: a table is not what its record gives"
    for section in pages.sections(text):
        for place, what in _faults_of(name, section):
            yield f"{name}:{line_of(text, section.start + place)}: {what}"


def _faults_of(name: str, section: Section) -> Iterator[tuple[int, str]]:
    covered: list[tuple[int, int]] = []
    own = [one for one in CLAIMS if (one.page, one.section) == (name, section.title)]
    yield from ((0, wrong) for one in own if (wrong := _made_and_wrong(one)[1]))
    for claim in _claims(own):
        found = list(_pattern(claim[0]).finditer(section.text))
        if len(found) != 1:
            yield 0, f"{len(found)} times in {section.title!r}, where a claim says: {claim[0]}"
    for claim, match, value, group in _places(name, section):
        shown = match[group] if group else match[0]
        covered.append(match.span(group))
        if not shows(shown, value):
            yield match.start(group), f"{shown} should be {_told(value)}: {claim[0]}"
    settings = {n for one in own for pattern in one.settings for n in numbers_in(pattern)}
    known = _Known.of(section, settings)
    for token in section.tokens():
        if any(start <= token.start and token.end <= end for start, end in covered):
            continue
        if not (name in WHOLE or _is_a_figure(token)) or (token.in_words and name not in RESULTS):
            continue
        if not known.explains(token):
            around = section.text[max(0, token.start - 40) : token.end + 30]
            yield token.start, f"no source for {token.text}: ...{' '.join(around.split())}..."


def _is_a_figure(token: pages.Token) -> bool:
    """Whether it looks like a measured one: a time, a size, a ratio, a share with a fraction."""
    return token.measured or (token.percent and "." in token.text)


class _Known:
    """What the numbers of a section may be without a claim."""

    def __init__(self, figures: Iterable[float], names: Iterable[str], settings: set[float]):
        self.figures = list(figures)
        self.names = {abs(value_of(n)) for text in names for n in re.findall(DIGITS, text)}
        self.settings = settings

    @classmethod
    def of(cls, section: Section, settings: set[float]) -> _Known:
        tables = [TABLES[name]() for name in section.tables()]
        figures = [figure for table in tables for figure in table.figures()]
        labels = [label for table in tables for label in table.labels()]
        return cls(figures, [*labels, section.commands()], settings)

    def explains(self, token: pages.Token) -> bool:
        """A cell of a table in at least three digits; a label, an argument or a setting."""
        value = abs(value_of(token.text))
        if digits_of(token.text)[1] >= SURE and any(
            shows(token.text, sign * figure) for figure in self.figures for sign in (1, -1)
        ):
            return True
        if token.measured:
            return False
        if token.percent:
            return value in self.names or any(math.isclose(value / 100, n) for n in self.names)
        return value in self.names | self.settings


def _claims(own: Iterable[Claims]) -> list[Claim]:
    return [claim for one in own for claim in _made(one)]


def _made(one: Claims) -> list[Claim]:
    return _made_and_wrong(one)[0]


@cache
def _made_and_wrong(one: Claims) -> tuple[list[Claim], str]:
    """Its claims, up to the first that has lost its source.

    A statement in words (``assert x, "the page says"``) that fails, a row that is gone.
    """
    made: list[Claim] = []
    try:
        made.extend(one.make())
    except (AssertionError, LookupError, OSError) as wrong:
        said = str(wrong).partition("\n")[0]
        return made, f"no longer so in {one.section!r}: {said}"
    return made, ""


def _pattern(text: str) -> re.Pattern[str]:
    """A claim's text: {} is a number, a blank is any white space."""
    pieces = (re.sub(r"(?:\\[ \n])+", r"\\s+", re.escape(piece)) for piece in text.split("{}"))
    return re.compile(PLACE.join(pieces))


def _places(name: str, section: Section) -> Iterator[tuple[Claim, re.Match[str], Any, int]]:
    """(claim, match, value, group) of every number that a claim is about; 0: the whole text."""
    for claim in _claims(one for one in CLAIMS if (one.page, one.section) == (name, section.title)):
        text, *values = claim
        match = _pattern(text).search(section.text)
        if match is None:
            continue
        if len(values) == 1 and isinstance(values[0], Rule | Cited):
            yield claim, match, values[0], 0
            continue
        assert len(match.groups()) == len(values), f"{len(values)} values for the {{}} of: {text}"
        for group, value in enumerate(values, 1):
            yield claim, match, value, group


def shows(shown: str, value: Any) -> bool:
    """Whether a number of the page is that value, rounded as it is shown."""
    if isinstance(value, Rule):
        return value.words in (ROOT / value.file).read_text(encoding="utf-8")
    if isinstance(value, Cited):
        return bool(value.source)
    number = value_of(shown)
    if isinstance(value, Bound):  # the nearest one that these digits can say
        over = number - value.value if value.above else value.value - number
        return 0 <= over < 10.0 ** -digits_of(shown)[0]
    if isinstance(value, Near):
        return abs(number - value.value) <= value.share * abs(value.value)
    if "e" in shown and shown not in pages.WORDS:
        return f"{value:.{digits_of(shown)[0]}e}" == f"{number:.{digits_of(shown)[0]}e}"
    return abs(number - value) <= 0.5 * 10.0 ** -digits_of(shown)[0] * (1 + 1e-9) + 1e-12


def _as_shown(shown: str, value: float) -> str:
    """The value in the digits of what stands there; that itself where the sign differs."""
    if value * value_of(shown) < 0 or "e" in shown:
        return shown
    if shown in pages.WORDS:
        words = {number: word for word, number in pages.WORDS.items()}
        return words.get(round(value), shown)
    sign, thousands = "+" if shown[0] == "+" else "", "," if "," in shown else ""
    form = f"{{:{sign}{thousands}.{digits_of(shown)[0]}f}}"
    return form.format(value).replace("-", "−" if shown[0] == "−" else "-")


def _told(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, int | float) else str(value)


def unused(names: Iterable[str]) -> list[str]:
    """Tables that no page shows, claims about pages that are not there."""
    shown = {match[1] for name in names for match in TABLE.finditer(pages.read(name))}
    lines = [f"table {name} is in no page" for name in sorted(TABLES.keys() - shown)]
    return lines + [f"claims about {c.page}, no page" for c in CLAIMS if c.page not in {*names}]
