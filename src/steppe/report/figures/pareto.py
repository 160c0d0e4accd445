"""What pruned language models predict, over their size and over their speed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from statistics import quantiles
from typing import Any

from steppe.report.column import Cell
from steppe.report.figures import FIGURES, Drawing
from steppe.report.frontier import Axis, Ends, Mark, ends, frontier
from steppe.report.level import after, level_of, meaning
from steppe.report.record import Record, display, find, is_dense, number
from steppe.report.svg import COLOURS, INK, Figure, Look
from steppe.report.table import Rows

COSTS = (Axis("size, zeros as a bit mask, MB"), Axis("writing, tokens per second", more=True))
_KINDS = {
    "dense": (INK, "*"),
    "unstructured": (COLOURS[0], "o"),
    "N:M": (COLOURS[3], "s"),
    "structured": (COLOURS[1], "D"),
    "structured and unstructured": (COLOURS[2], "^"),
    "structured and N:M": (COLOURS[4], "v"),
}


@FIGURES.register("pareto")
class Pareto(Drawing):
    """Two panels: perplexity over bytes, and over tokens per second; a line joins the frontier."""

    section, place = "gain", 5
    what = "Perplexity over size and speed"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        marks = _marks(records)
        if len(marks) < 3:
            return None
        caption = (
            "Lower is better. The line joins the models that no other one is better than; the "
            "names of all others are grey. Whiskers: over several seeds one standard error, "
            "of one seed the middle half of the turns. Measured by steppe bench on one text."
            + meaning(level_of(r) for r in records if _text_of(r))
        )
        quality = Axis("perplexity", said="{:.2f}")
        return frontier("pareto", self.what, caption, marks, quality, COSTS)

    def hint(self, records: Sequence[Record]) -> str:
        text = [r for r in records if "blocks" in r and not is_dense(r)]
        timed = any(find(r, "evaluations.speed.speed") for r in text)
        if len(text) < 2 or not timed or len(_marks(records)) > 2:
            return ""
        return (
            "What these models predict beside their size and speed was not measured. This draws "
            "it: steppe bench RUN... --text TEXT, then steppe report again."
        )


def _marks(records: Sequence[Record]) -> list[Mark]:
    """The dense model and each method and sparsity that were measured on the commonest text."""
    texts = Counter(map(_text_of, records))
    texts.pop("", None)
    if not texts:
        return []
    text = texts.most_common(1)[0][0]
    shown = [r for r in records if _text_of(r) == text and not is_dense(r)]
    levels = [level_of(r) for r in shown]
    groups: dict[str, list[Record]] = {}
    for record, level in zip(shown, levels, strict=True):
        groups.setdefault(after(display(record), level, levels), []).append(record)
    first = next(iter(groups.values()))
    marks = [_mark("dense", first[:1], "dense")]
    marks += [_mark(name, seeds, "sparse") for name, seeds in groups.items()]
    return [mark for mark in marks if mark is not None]


def _text_of(record: Record) -> str:
    """What tells the text apart on which a record's model was measured; "" where it was not."""
    point = find(record, "evaluations.speed.points.sparse")
    if number(record, "evaluations.speed.points.sparse.perplexity") is None:
        return ""
    return "/".join(str(point.get(key)) for key in ("sha256", "window", "stride"))


def _mark(name: str, seeds: Sequence[Record], kind: str) -> Mark | None:
    point = f"evaluations.speed.points.{kind}"
    sizes = [number(r, f"{point}.packed_bytes") for r in seeds]
    rates = [_rates(r, kind) for r in seeds]
    perplexity = Cell.of(number(r, f"{point}.perplexity") for r in seeds)
    packed = Cell.of(size / 1e6 for size in sizes if size is not None)
    rate = Cell.of(own[1] for own in rates if own is not None)
    if perplexity is None or packed is None or rate is None:
        return None
    turns = rates[0] if rate.n == 1 and rates[0] is not None else ends(rate)
    own = str(find(seeds[0], f"{point}.kind"))
    colour, shape = _KINDS.get(own, (INK, "x"))
    return Mark(name, Look(own, colour, shape, ""), ends(perplexity), (ends(packed), turns))


def _rates(record: Record, kind: str) -> Ends | None:
    """Tokens per second in the first batch: the middle half of the turns, and their median."""
    speeds: Any = find(record, "evaluations.speed.speed") or {}
    batch = next(iter(speeds), None)
    arm = find(record, f"evaluations.speed.speed.{batch}.generation.{kind}")
    own = f"evaluations.speed.arms.{arm}.batches.{batch}"
    middle = number(record, f"{own}.tokens_per_second")
    if middle is None:
        return None
    each = [float(value) for value in find(record, f"{own}.each") or ()]
    low, _, high = (
        quantiles(each, n=4, method="inclusive") if len(each) > 1 else (middle, middle, middle)
    )
    return min(low, middle), middle, max(high, middle)
