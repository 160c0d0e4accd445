"""A page: its sections, its tables, and the numbers that stand in its text."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from .sources import ROOT

FENCE = re.compile(r"^```(\w*)\n(.*?)^```", re.MULTILINE | re.DOTALL)
TABLE = re.compile(r"<!-- table: ([\w.-]+) -->\n(.*?)<!-- end -->", re.DOTALL)
# what holds numbers that are no figures: code, links, comments, names of tables, seeds
NO_TEXT = re.compile(
    r"`(?:[^`\n]|\n(?!\n))*`|\]\([^)]*\)|<!--.*?-->|https?:\S+"
    r"|\b(?:Tables?|Figures?|equations?|section|arXiv|seeds?) \d+(?:(?:, | and | to )\d+)*",
    re.DOTALL,
)
WORDS = {"two": 2, "three": 3, "four": 4, "five": 5, "six": 6, "seven": 7, "eight": 8, "nine": 9}
WORDS |= {"ten": 10, "eleven": 11, "twelve": 12, "fifteen": 15, "twenty": 20}
WORD = "|".join(WORDS)
DIGITS = r"\d+(?:,\d{3})*(?:\.\d+)?(?:e[-+]?\d+)?"
NUMBER = re.compile(rf"(?<![\w.,:/^*-])[-−+]?{DIGITS}(?=x?(?![\w:/^]|-[a-z]|\.\d|,\d))")
UNIT = (
    r"(?:x\b| ?%| points?\b| times\b| ?(?:ns|us|µs|ms|s|MB|GB|MiB|GiB|kB)\b"
    r"| (?:seconds?|minutes?|hours?|millisecond)s?\b)"
)
MEASURED = re.compile(rf"(?:(?: (?:to|and|or|,) (?:{DIGITS}|{WORD}))*{UNIT})")
COUNTED = re.compile(
    rf"\b(?:{WORD})(?=(?:\s(?:to|or|and)\s(?:{WORD}))?\s(?:points?|times|seconds|minutes)\b)"
)


@dataclass(frozen=True)
class Token:
    """A number in a text: where it stands, and whether a unit makes it a measured figure."""

    start: int
    end: int
    text: str
    percent: bool
    measured: bool
    in_words: bool


@dataclass(frozen=True)
class Section:
    """The text under one ## heading; "" is what comes before the first."""

    title: str
    start: int
    text: str  # as it stands in the page
    prose: str  # the same length: code, links and generated tables are blank

    def tokens(self) -> Iterator[Token]:
        """Every number of the prose."""
        for match in [*NUMBER.finditer(self.prose), *COUNTED.finditer(self.prose)]:
            unit = MEASURED.match(" ".join(self.prose[match.end() : match.end() + 60].split("\n")))
            percent = unit is not None and unit[0].endswith("%")
            word = match[0] in WORDS
            measured = word or (unit is not None and not percent)
            yield Token(*match.span(), match[0], percent, measured, word)

    def tables(self) -> list[str]:
        """Names of the generated tables."""
        return [match[1] for match in TABLE.finditer(self.text)]

    def commands(self) -> str:
        """What its blocks of code say."""
        return "\n".join(match[2] for match in FENCE.finditer(self.text))


def read(page: str) -> str:
    """The text of a page."""
    return (ROOT / page).read_text(encoding="utf-8")


def pages() -> list[str]:
    """README and every page of docs/ that is written by hand."""
    docs = sorted(Path(ROOT / "docs").glob("*.md"))
    return ["README.md", *(path.relative_to(ROOT).as_posix() for path in docs)]


def sections(text: str) -> list[Section]:
    """A page in pieces."""
    prose = text
    for pattern in (TABLE, FENCE, NO_TEXT):
        prose = pattern.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), prose)
    fenceless = FENCE.sub(lambda match: re.sub(r"[^\n]", " ", match[0]), text)
    heads = list(re.finditer(r"^## (.*)$", fenceless, re.MULTILINE))
    starts = [0, *(head.start() for head in heads), len(text)]
    titles = ["", *(head[1].strip() for head in heads)]
    return [
        Section(title, start, text[start:end], prose[start:end])
        for title, start, end in zip(titles, starts, starts[1:], strict=False)
    ]


def line_of(text: str, place: int) -> int:
    """The line of a page, from 1."""
    return text.count("\n", 0, place) + 1


def value_of(shown: str) -> float:
    """The number that a text shows."""
    return WORDS[shown] if shown in WORDS else float(shown.replace(",", "").replace("−", "-"))


def digits_of(shown: str) -> tuple[int, int]:
    """Digits after the point, and significant ones."""
    if shown in WORDS:
        return 0, 1
    plain = shown.lstrip("+-−").replace(",", "").partition("e")[0]
    return len(plain.partition(".")[2]), len(plain.replace(".", "").lstrip("0"))
