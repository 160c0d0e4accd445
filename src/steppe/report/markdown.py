"""The report as Markdown and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from steppe.report import papers, times
from steppe.report.document import Document
from steppe.report.level import Level
from steppe.report.record import Record
from steppe.report.short_table import ShortTable


def markdown(records: Sequence[Record], *, title: str, commands: Sequence[str] = ()) -> str:
    """The report without its figures, in GitHub's Markdown.

    Args:
        records: of the runs, as `read_records` gives them.
        title: the first heading.
        commands: what to type to get the same again.

    Raises:
        SteppeError: an accuracy that is no fraction.

    Example:
        >>> print(markdown([{"method": "safe", "sparse": {"accuracy": 0.9}}], title="One"))
        ... # doctest: +ELLIPSIS
        # One
        ...
    """
    document = Document.of(records, title=title, commands=commands, figures=False)
    parts = [f"# {title}", document.about, "\n".join(f"- {text}" for text in document.summary)]
    if document.short is not None:
        parts.append(document.short.markdown())
    parts += [f"## {caption}\n\n{rows.markdown()}" for caption, rows in document.tables]
    parts += [f"## {caption}\n\n{_table(times.HEAD, rows)}" for caption, rows in document.times]
    if document.full:
        parts.append("## In full\n\n" + "\n".join(f"- {text}" for text in document.full))
    if document.papers:
        parts.append(
            "## The papers' numbers\n\nFor orientation: networks, data and length of training "
            "differ.\n\n" + _table(papers.HEAD, document.papers)
        )
    if document.words:
        told = "\n".join(f"- **{word}**: {text}" for word, text in document.words.items())
        parts.append(f"## Words\n\n{told}")
    if document.remarks:
        parts.append("## To be known\n\n" + "\n".join(f"- {text}" for text in document.remarks))
    if document.commands:
        parts.append("## Commands\n\n```sh\n" + "\n".join(document.commands) + "\n```")
    if document.versions:
        shown = "\n".join(f"- {name} {', '.join(v)}" for name, v in document.versions.items())
        parts.append(f"## Versions\n\n{shown}")
    return "\n\n".join(part for part in parts if part) + "\n"


def _table(head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    return "\n".join([_row(head), _row(["---"] * len(head)), *map(_row, body)])


def _row(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def _short(table: ShortTable) -> list[dict[str, Any]]:
    """A row per method: the texts that are shown, and where it wins."""
    return [
        {
            "method": row.method,
            "shown": dict(zip(table.head, (row.display, *row.texts), strict=True)),
            "best": [h for h, won in zip(table.head[1:], row.wins, strict=True) if won],
        }
        for row in table.rows
    ]


def data(records: Sequence[Record], *, title: str, commands: Sequence[str] = ()) -> dict[str, Any]:
    """The report as plain data: means over seeds with errors, sentences, the papers' numbers.

    Args:
        records: of the runs, as `read_records` gives them.
        title: of the report.
        commands: what to type to get the same again.

    Raises:
        SteppeError: an accuracy that is no fraction.

    Example:
        >>> document = data([{"method": "safe", "sparse": {"accuracy": 0.9}}], title="One")
        >>> document["rows"][0]["accuracy"]["mean"]
        0.9
    """
    document = Document.of(records, title=title, commands=commands, figures=False)
    rows: dict[tuple[str, Level | None], dict[str, Any]] = {}
    for _, table in document.tables:
        for row in table.rows:
            own = rows.setdefault(
                (row.method, row.level),
                {
                    "method": row.method,
                    "sparsity": row.level and row.level.share,
                    "counted": row.level and row.level.counted,
                    "seeds": row.seeds,
                },
            )
            for column in table.columns:
                cell = row.cells[column.key]
                if cell is not None:
                    own[column.key] = asdict(cell)
    return {
        "title": title,
        "about": document.about,
        "summary": document.summary,
        "in_short": _short(document.short) if document.short is not None else [],
        "in_full": document.full,
        "rows": list(rows.values()),
        "times": [
            {"measured": caption} | dict(zip(times.HEAD, row, strict=True))
            for caption, rows in document.times
            for row in rows
        ],
        "papers": [dict(zip(papers.HEAD, row, strict=True)) for row in document.papers],
        "remarks": document.remarks,
        "commands": document.commands,
        "versions": document.versions,
    }
