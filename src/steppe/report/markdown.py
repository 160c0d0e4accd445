"""The report as Markdown and as plain data."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any

from steppe.report import papers
from steppe.report.document import Document
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
    held = Document.of(records, title=title, commands=commands, figures=False)
    parts = [f"# {title}", held.about, "\n".join(f"- {text}" for text in held.summary)]
    if held.short is not None:
        parts.append(held.short.markdown())
    parts += [f"## {caption}\n\n{rows.markdown()}" for caption, rows in held.tables]
    if held.full:
        parts.append("## In full\n\n" + "\n".join(f"- {text}" for text in held.full))
    if held.papers:
        lines = [_row(papers.HEAD), _row(["---"] * len(papers.HEAD)), *map(_row, held.papers)]
        parts.append(
            "## The papers' numbers\n\nFor orientation: networks, data and length of training "
            "differ.\n\n" + "\n".join(lines)
        )
    if held.words:
        told = "\n".join(f"- **{word}**: {text}" for word, text in held.words.items())
        parts.append(f"## Words\n\n{told}")
    if held.remarks:
        parts.append("## To be known\n\n" + "\n".join(f"- {text}" for text in held.remarks))
    if held.commands:
        parts.append("## Commands\n\n```sh\n" + "\n".join(held.commands) + "\n```")
    if held.versions:
        shown = "\n".join(f"- {name} {', '.join(v)}" for name, v in held.versions.items())
        parts.append(f"## Versions\n\n{shown}")
    return "\n\n".join(part for part in parts if part) + "\n"


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
        >>> held = data([{"method": "safe", "sparse": {"accuracy": 0.9}}], title="One")
        >>> held["rows"][0]["accuracy"]["mean"]
        0.9
    """
    held = Document.of(records, title=title, commands=commands, figures=False)
    rows: dict[tuple[str, float | None], dict[str, Any]] = {}
    for _, table in held.tables:
        for row in table.rows:
            own = rows.setdefault(
                (row.method, row.sparsity),
                {"method": row.method, "sparsity": row.sparsity, "seeds": row.seeds},
            )
            for column in table.columns:
                cell = row.cells[column.key]
                if cell is not None:
                    own[column.key] = asdict(cell)
    return {
        "title": title,
        "about": held.about,
        "summary": held.summary,
        "in_short": _short(held.short) if held.short is not None else [],
        "in_full": held.full,
        "rows": list(rows.values()),
        "papers": [dict(zip(papers.HEAD, row, strict=True)) for row in held.papers],
        "remarks": held.remarks,
        "commands": held.commands,
        "versions": held.versions,
    }
