"""What a report says, before it becomes a page, Markdown or JSON."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from sys import modules
from typing import Any

from steppe.core.errors import SteppeError
from steppe.methods import METHODS, display_of
from steppe.report import papers
from steppe.report.column import Column
from steppe.report.detections import Strip, strips
from steppe.report.detections import missing as no_images
from steppe.report.figures import FIGURES
from steppe.report.in_short import InShort
from steppe.report.level import ZEROS, at, kinds, level_of, listed
from steppe.report.measured_images import check_same_images
from steppe.report.quality import share_among
from steppe.report.record import (
    Record,
    display,
    find,
    method_of,
    removal_of,
    setting_of,
    wrong_labels,
)
from steppe.report.short_table import ShortTable
from steppe.report.svg import Figure
from steppe.report.table import Rows
from steppe.report.times import time_tables
from steppe.report.variants import told_apart

SECTIONS = {
    "quality": "How good",
    "robust": "How robust",
    "labels": "Wrong labels",
    "flatness": "How flat",
    "gain": "How fast, how small",
    "inside": "Inside the runs",
}
_TABLES = {
    "Quality": "accuracy map50 map class loss perplexity calibration disagree worst_drop distance",
    "Corrupted images": "corrupted_15 r_c_15 corrupted_19 r_c_19 corrupted_run corrupted",
    "Corruption error": "mce_15 mce_19 mce_run relative_mce_15 relative_mce_19 relative_mce_run",
    "New images": "shifted r_v2",
    "Under attack": "linf l2",
    "Under noise": "noise",
    "Flatness": "hessian_top trace sharpness average adaptive",
    "Size and cost": "reached flops removed left nonzero predicted timed time time_64 bytes "
    "packed seconds memory",
}


@dataclass(frozen=True)
class Document:
    """The content of a report.

    Args:
        title: of it.
        about: what it is about, for a reader who knows nothing of the project.
        summary: what is to be known in short, the most important first.
        short: the table below it, a row per method; None where there is nothing to compare.
        full: everything that can be said of the runs in sentences.
        tables: caption and rows.
        drawn: section -> figures; only where figures were wanted.
        hints: section -> what would fill it, and the command for that; as ``drawn``.
        times: of each place a caption, and rows under `times.HEAD`.
        papers: rows under `papers.HEAD`.
        remarks: what was left out, and what is to be known of the averages.
        commands: what to type to get the same again.
        versions: package -> versions.
        recipes: method and level -> recipe.
        words: the methods and quantities shown here, and what they mean.
        examples: what a pruned network forgot: title, then label, answers and picture of each.
        found: images with what detectors found in them.
    """

    title: str
    about: str
    summary: list[str]
    short: ShortTable | None
    full: list[str]
    tables: list[tuple[str, Rows]]
    times: list[tuple[str, list[list[str]]]]
    papers: list[list[str]]
    remarks: list[str]
    commands: list[str]
    versions: dict[str, list[str]]
    recipes: dict[str, str]
    words: dict[str, str]
    examples: list[tuple[str, list[Mapping[str, Any]]]]
    found: list[Strip] = field(default_factory=list)
    drawn: dict[str, list[Figure]] = field(default_factory=dict)
    hints: dict[str, list[str]] = field(default_factory=dict)

    @classmethod
    def of(
        cls,
        records: Sequence[Record],
        *,
        title: str,
        commands: Sequence[str] = (),
        summary: Sequence[str] | None = None,
        figures: bool = True,
    ) -> Document:
        """Put together what the records say.

        Args:
            records: of runs, as `read_records` gives them.
            title: of the report.
            commands: what to type to get the same again, before the records' own.
            summary: the sentences at the top; None: those of `InShort`.
            figures: whether to draw.

        Raises:
            SteppeError: an accuracy that is no fraction; runs of other networks, data or images.
        """
        records = told_apart(records)
        settings = list(dict.fromkeys(setting for r in records if (setting := setting_of(r))))
        if len(settings) > 1:
            raise SteppeError(
                "a report compares runs of one network on one data set",
                got=", ".join(settings),
                way_out="one report for each",
            )
        check_same_images(records)
        plain = [r for r in records if not wrong_labels(r)]
        rows = Rows.from_records(plain)
        noisy = Rows.from_records([_relabelled(r) for r in records if wrong_labels(r)])
        tables = [
            (f"{caption}: mean ± standard error over seeds", own)
            for caption, keys in _TABLES.items()
            if (own := rows.only(*keys.split())).columns
        ]
        if plain and not tables:
            tables.append(("The runs; none holds a number that is shown here", rows.only()))
        if noisy.rows:
            tables.append(
                (
                    "After training on wrong labels",
                    noisy.only("accuracy", "loss", "taught", "righted"),
                )
            )
        drawn, hints, missing = _draw(records, plain, rows) if figures and records else ({}, {}, [])
        short = InShort.of(records)
        given = [*commands, *(c for r in records for c in _commands(r))]
        return cls(
            title=title,
            about=_about(records, flat=rows.only(*_TABLES["Flatness"].split()).columns),
            summary=list(summary) if summary is not None else short.sentences,
            short=short.table,
            full=short.full if records else [],
            tables=tables,
            times=time_tables(plain),
            papers=papers.beside(records, rows),
            remarks=[*missing, *_remarks(records, plain)] if records else [],
            commands=list(dict.fromkeys(given)),
            versions=_versions(records),
            recipes=_recipes(records),
            words=_words(records, [rows for _, rows in tables]),
            examples=_examples(plain),
            found=strips(plain) if figures else [],
            drawn=drawn,
            hints=hints,
        )


def _draw(
    records: Sequence[Record], plain: Sequence[Record], rows: Rows
) -> tuple[dict[str, list[Figure]], dict[str, list[str]], list[str]]:
    drawn: dict[str, list[Figure]] = {}
    hints: dict[str, list[str]] = {}
    missing = []
    quality = share_among([column.key for column in rows.columns])
    for kind in sorted((FIGURES[name] for name in FIGURES), key=lambda k: k.place):
        figure = kind().draw(records if kind.section == "labels" else plain, rows)
        if figure is not None:
            drawn.setdefault(kind.section, []).append(figure)
        elif hint := kind().hint(plain):
            hints.setdefault(kind.section, []).append(hint)
        elif kind.needs and (not kind.of or quality in kind.of):
            missing.append(
                f"{kind.what}: left out, as no record of a sparse network has {kind.needs}."
            )
    return drawn, hints, missing


def _remarks(records: Sequence[Record], plain: Sequence[Record]) -> list[str]:
    return [*filter(None, [no_images(plain)]), *_unlike(records), *_masked(records)]


def _unlike(records: Sequence[Record]) -> list[str]:
    """Measurements that were left aside, as they are not like the others'."""
    aside: dict[str, int] = {}
    for record in records:
        for on in record.get("unlike") or ():
            aside[str(on)] = aside.get(str(on), 0) + 1
    return [
        f"{on}: {count} of {len(records)} runs were measured with other options than most "
        "(images, severities, radii, ...); they are left out there. Measure all alike."
        for on, count in aside.items()
    ]


def _masked(records: Sequence[Record]) -> list[str]:
    """Networks whose channels are zero and still there, which have the numbers of the cut ones."""
    kept = [r for r in records if find(r, "removed.widths") and removal_of(r) is None]
    names = dict.fromkeys(f"{display(r)}{at(level_of(r))}" for r in kept)
    return [
        f"{name}: its channels are zero and still there; its parameters, size, multiply-adds and "
        "the times taken when it ended are of the network that steppe remove makes of it."
        for name in names
    ]


def _relabelled(record: Record) -> Record:
    rate = f"{100 * wrong_labels(record):g} % wrong labels"
    # the dense network of these runs was taught the right labels
    own = {k: v for k, v in record.items() if k != "dense"}
    return own | {"label": f"{display(record)}, {rate}"}


def _about(records: Sequence[Record], flat: Sequence[Column]) -> str:
    """What the runs are, and the words that not every reader knows.

    Args:
        records: of them.
        flat: the columns of flatness that were measured.
    """
    if not records:
        return ""
    methods = list(dict.fromkeys(map(display, records)))
    comma = "; " if any(", " in name for name in methods) else ", "  # a name may have its own
    levels = [level_of(r) for r in records]
    pruned = f", with {listed(levels)}" if any(levels) else ""
    zero = ZEROS in kinds(levels) or not any(levels)
    what = "sets weights of a network to zero" if zero else "takes whole channels out of a network"
    runs = "1 run" if len(records) == 1 else f"{len(records)} runs"
    setting = next((f" ({text})" for r in records if (text := setting_of(r))), "")
    return (
        f"{runs} of {comma.join(methods)}{setting}{pruned}. Pruning {what}; "
        "dense is the network without pruning."
        + " A flat network loses little when its weights are moved."
        * bool(flat)
    )


def _commands(record: Record) -> list[str]:
    commands = record.get("commands")
    more = [str(c) for c in commands] if isinstance(commands, list | tuple) else []
    return [str(record["command"]), *more] if record.get("command") else more


def _versions(records: Sequence[Record]) -> dict[str, list[str]]:
    seen: dict[str, dict[str, None]] = {}
    for record in records:
        versions = find(record, "versions")
        for name, value in versions.items() if isinstance(versions, Mapping) else ():
            seen.setdefault(str(name), {})[str(value)] = None
    return {name: list(values) for name, values in seen.items()}


def _recipes(records: Sequence[Record]) -> dict[str, str]:
    shown_recipes: dict[str, str] = {}
    for record in records:
        if isinstance(record.get("recipe"), Mapping | str):
            recipe = record["recipe"]
            shown = recipe if isinstance(recipe, str) else json.dumps(recipe, indent=2, default=str)
            # one per method and level: the seeds differ in the seed alone, or `notes` tells
            wrong = wrong_labels(record)
            labels = f", {100 * wrong:g} % wrong labels" if wrong else ""
            shown_recipes.setdefault(display(record) + at(level_of(record)) + labels, shown)
    return shown_recipes


def _words(records: Sequence[Record], tables: Sequence[Rows]) -> dict[str, str]:
    named = dict.fromkeys(str(r.get("method")) for r in records)  # whatever their labels say
    methods = [m for m in named if m in METHODS]
    told = {m: (modules[METHODS[m].__module__].__doc__ or "").split("\n")[0] for m in methods}
    said = {c.label.split(", %")[0]: c.means for rows in tables for c in rows.columns if c.means}
    own = {display_of(m): text.removesuffix(".") for m, text in told.items()}
    return {name: text.removeprefix(f"{name}: ") for name, text in own.items()} | said


def _examples(records: Sequence[Record]) -> list[tuple[str, list[Mapping[str, Any]]]]:
    """Of the first seed of each method at the highest sparsity it has."""
    best: dict[str, Record] = {}
    for record in records:
        method = method_of(record)
        if _answered(record) and (method not in best or _share(record) > _share(best[method])):
            best[method] = record
    return [(f"{display(r)}{at(level_of(r))}", _answered(r)) for r in best.values()]


def _answered(record: Record) -> list[Mapping[str, Any]]:
    """Images that a network has a class for; what detectors find in theirs `strips` shows."""
    kept = find(record, "evaluations.clean.beside.examples")
    return [one for one in kept if "label" in one] if isinstance(kept, list) else []


def _share(record: Record) -> float:
    level = level_of(record)
    return level.share if level is not None else 0.0
