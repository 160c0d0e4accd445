"""How fast a language model writes and reads beside the dense one, and in how much memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from steppe.report.axes import looks_of, mean_of
from steppe.report.figures import FIGURES, Drawing
from steppe.report.level import after, level_of, meaning
from steppe.report.record import Record, display, find, is_dense, method_of, number
from steppe.report.svg import INK, Figure, canvas, finish, legend
from steppe.report.table import Rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes

MOST = 8  # pairs of bars in a panel; more batches than the first are left out beyond


@dataclass(frozen=True)
class Pair:
    """Two bars: of the packed model and of the dense one, means over seeds.

    Args:
        method: whose colour it has.
        label: of both.
        sparse, dense: in the panel's unit.
        gain: what stands beside the sparse bar.
    """

    method: str
    label: str
    sparse: float
    dense: float
    gain: str


@FIGURES.register("speed")
class Speeds(Drawing):
    """Panels of paired bars: writing, reading, memory."""

    section, place = "gain", 20
    what = "Text, packed beside dense"

    def draw(self, records: Sequence[Record], rows: Rows) -> Figure | None:
        runs = _runs(records)
        panels = {
            "writing, tokens per second": _rates(runs, "generation", "tokens_per_second"),
            "reading a prompt, tokens per second": _rates(
                runs, "prompt", "prompt_tokens_per_second"
            ),
            "memory after loading, MB": _memory(runs),
        }
        panels = {title: pairs for title, pairs in panels.items() if pairs}
        if not panels:
            return None
        style = looks_of(rows)
        tall = [0.55 + 0.5 * len(pairs) for pairs in panels.values()]
        with canvas("speed", 0.5 + sum(tall), len(panels)) as (figure, axes):
            grid = axes[0].get_gridspec()
            assert grid is not None, "axes of a canvas lie in a grid"
            grid.set_height_ratios(tall)
            for ax, (title, pairs) in zip(axes, panels.items(), strict=True):
                for place, pair in enumerate(pairs):
                    look = style[pair.method]
                    text = f"{pair.sparse:.4g} ({pair.gain})"
                    _bar(ax, place - 0.2, pair.sparse, text, look.colour, look.label)
                    _bar(ax, place + 0.2, pair.dense, f"{pair.dense:.4g}", INK, "dense")
                ax.set_yticks(range(len(pairs)), [pair.label for pair in pairs])
                ax.set_ylim(len(pairs) - 0.5, -0.5)
                ax.grid(False, axis="y")
                ax.set_xlim(0, 1.75 * max(max(pair.sparse, pair.dense) for pair in pairs))
                ax.set_title(title, loc="left", fontsize=9.5)
            legend(figure, *axes)
            figure.draw_without_rendering()  # so that it is known how long the texts are
            for ax in axes:
                _make_room(ax)
            caption = (
                "Two processes in turns, each in the dtype in which it is fastest. x: how many "
                "times as fast, the median of one ratio per turn; surely where 8 or more turns "
                "bound it above 1.05. Memory without that of torch and transformers."
                + meaning(level_of(r) for own in runs.values() for r in own)
            )
            described = "; ".join(
                f"{title}, {pair.label}: {pair.sparse:.4g}, dense {pair.dense:.4g} ({pair.gain})"
                for title, pairs in panels.items()
                for pair in pairs
            )
            return finish(figure, "speed", self.what, caption, f"{described}.")

    def hint(self, records: Sequence[Record]) -> str:
        text = any("blocks" in record and not is_dense(record) for record in records)
        if not text or _runs(records):
            return ""
        return (
            "How fast the pruned model writes here, and in how much memory, was not timed. "
            "This draws it: steppe bench RUN, then steppe report again."
        )


def _bar(ax: Axes, place: float, width: float, text: str, colour: str, label: str) -> None:
    known = ax.get_legend_handles_labels()[1]
    faint = 0.45 if colour == INK else 1.0
    own = "_" + label if label in known else label  # a name once in the legend
    ax.barh(place, width, 0.38, color=colour, alpha=faint, label=own)
    behind = ax.annotate(
        text, (width, place), xytext=(3, 0), textcoords="offset points", va="center", fontsize=8
    )
    behind.set_in_layout(False)  # room is made for it in the panel, which keeps its width


def _make_room(ax: Axes) -> None:
    """Let the axis be as long as the texts behind the bars need."""
    from matplotlib.text import Annotation

    needed = [ax.get_xlim()[1]]
    for text in ax.texts:
        assert isinstance(text, Annotation), "each stands behind a bar"
        box = text.get_window_extent()
        share = (box.width + box.height) / ax.bbox.width  # a letter's height between both
        needed.append(text.xy[0] / max(1 - share, 0.25))
    ax.set_xlim(0, max(needed))


def _runs(records: Sequence[Record]) -> dict[tuple[str, str], list[Record]]:
    """(Method, label) -> the seeds that were timed."""
    runs: dict[tuple[str, str], list[Record]] = {}
    levels = [level_of(r) for r in records if find(r, "evaluations.speed.speed")]
    for record in records:
        if find(record, "evaluations.speed.speed") and not is_dense(record):
            label = after(display(record), level_of(record), levels)
            runs.setdefault((method_of(record), label), []).append(record)
    return runs


def _rates(runs: dict[tuple[str, str], list[Record]], what: str, key: str) -> list[Pair]:
    """Tokens per second of each run and batch."""
    batches = list(
        dict.fromkeys(
            batch
            for seeds in runs.values()
            for record in seeds
            for batch in find(record, "evaluations.speed.speed")
        )
    )
    if len(batches) * len(runs) > MOST:
        batches = batches[:1]
    pairs = []
    for (method, label), seeds in runs.items():
        for batch in batches:
            own = f"evaluations.speed.speed.{batch}.{what}"
            sparse, dense = (
                mean_of(
                    [_of_arm(r, find(r, f"{own}.{kind}"), f"batches.{batch}.{key}") for r in seeds]
                )
                for kind in ("sparse", "dense")
            )
            ratio = mean_of([number(r, f"{own}.ratio") for r in seeds])
            if sparse is None or dense is None or ratio is None:
                continue
            surely = all(find(r, f"{own}.claimed") is True for r in seeds)
            gain = f"{ratio:.2f}x, {'surely' if surely else 'not surely'}"
            pairs.append(Pair(method, f"{label}\nbatch {batch}", sparse, dense, gain))
    return pairs


def _memory(runs: dict[tuple[str, str], list[Record]]) -> list[Pair]:
    """Of the processes that wrote fastest in the first batch."""
    pairs = []
    for (method, label), seeds in runs.items():
        values = []
        for kind in ("sparse", "dense"):
            own = []
            for record in seeds:
                first = next(iter(find(record, "evaluations.speed.speed")))
                arm = find(record, f"evaluations.speed.speed.{first}.generation.{kind}")
                own.append(_of_arm(record, arm, "resident_bytes"))
            values.append(mean_of(own))
        sparse, dense = values
        if sparse and dense:
            gain = f"{sparse / dense:.0%} of dense"
            pairs.append(Pair(method, label, sparse / 1e6, dense / 1e6, gain))
    return pairs


def _of_arm(record: Record, arm: object, path: str) -> float | None:
    return number(record, f"evaluations.speed.arms.{arm}.{path}")
