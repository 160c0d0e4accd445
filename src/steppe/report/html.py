"""One offline HTML page: summary, tables, figures, and how they were made."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path

from steppe.core.tree import write_text
from steppe.report import inside, plots
from steppe.report.notes import notes
from steppe.report.record import (
    Record,
    display,
    find,
    is_dense,
    method_of,
    number,
    sparsity_of,
)
from steppe.report.svg import Figure
from steppe.report.table import Rows
from steppe.report.verdicts import verdicts

# nothing may be fetched; styles are in the page
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


@dataclass(frozen=True)
class Section:
    """A part of the page under a heading of its own.

    Args:
        key: its id within the page.
        title: plain text.
        body: HTML, trusted: escape what comes from outside.
    """

    key: str
    title: str
    body: str

    def html(self) -> str:
        """The section, named by its heading."""
        head = f'<h2 id="{self.key}-heading">{escape(self.title)}</h2>'
        start = f'<section id="{self.key}" aria-labelledby="{self.key}-heading">'
        return f"{start}{head}{self.body}</section>"


def write_report(
    path: Path | str,
    *,
    title: str,
    records: Sequence[Record] = (),
    commands: Sequence[str] = (),
    summary: Sequence[str] | None = None,
    sections: Sequence[Section] = (),
) -> None:
    """Write the report of some runs as one HTML file that needs no network and no script.

    All of it is rendered before the file is touched, and it replaces the old one in one move. A
    figure for which no record has numbers is left out, and the page says so.

    Args:
        path: of the file; its folder is made.
        title: of the page.
        records: of the runs, as `read_records` gives them.
        commands: what to type to get the same again.
        summary: the sentences at the top; None: `verdicts` of the records.
        sections: more of them, after the figures.

    Raises:
        SteppeError: an accuracy that is no fraction; the folder cannot be written.

    Example:
        >>> import tempfile
        >>> path = Path(tempfile.mkdtemp()) / "report.html"
        >>> write_report(path, title="Empty", summary=["Nothing was run."])
        >>> "Nothing was run." in path.read_text()
        True
    """
    own: list[Section] = []
    if records:
        own = _of_records(records)
    if summary is None:
        summary = verdicts(records)
    made = [_made(records, commands)] if records or commands else []
    text = _page(title, _about(records), summary, [*own, *sections, *made])
    write_text(Path(path), text)


def _of_records(records: Sequence[Record]) -> list[Section]:
    rows = Rows.from_records(records)
    rho = sorted({r for record in records if (r := number(record, "flatness.rho")) is not None})
    missing: list[str] = []

    def drawn(what: str, needs: str, draw: Callable[[], Figure | None]) -> list[Figure]:
        figure = draw()
        if figure is None:
            missing.append(f"{what}: left out, as no record of a sparse network has {needs}.")
        return [] if figure is None else [figure]

    quality = drawn("Accuracy against sparsity", "sparse.accuracy", lambda: plots.accuracy(rows))
    quality += drawn("Accuracy under noise", "noise", lambda: plots.noise(rows))
    flat = drawn("Top Hessian eigenvalue", "flatness.hessian_top", lambda: plots.hessian(rows))
    flat += drawn("Sharpness", "flatness.sharpness", lambda: plots.sharpness(rows, rho))
    within = drawn("Zeros per layer", "layers", lambda: inside.layers(records))
    within += drawn("Training curves", "curve or metrics", lambda: inside.curves(records))
    found = []
    for key, title, figures in (
        ("quality", "How good", quality),
        ("flatness", "How flat", flat),
        ("inside", "Inside the runs", within),
    ):
        if figures:
            body = "".join(figure.html() for figure in figures)
            found.append(Section(key, title, f'<div class="figures">{body}</div>'))
    # pictures before the numbers, which are many; what lies inside the runs last
    found.insert(
        sum(s.key != "inside" for s in found), Section("numbers", "Numbers", _tables(rows))
    )
    remarks = [*missing, *notes(records)]
    if remarks:
        found.append(Section("remarks", "Left out, and to be known", _list(remarks)))
    return found


def _tables(rows: Rows) -> str:
    parts = ("Quality and flatness", "accuracy loss perplexity hessian_top sharpness distance")
    cost = ("Size and cost", "reached nonzero latency bytes packed seconds memory")
    text = ""
    for title, keys in (parts, cost):
        own = rows.only(*keys.split())
        if own.columns:
            text += own.html(f"{title}: mean ± standard error over seeds")
    noisy = rows.only(noise=True)
    if noisy.columns:
        text += noisy.html("Accuracy under noise: mean ± standard error over seeds")
    return text or rows.only().html("The runs; none holds a number that is shown here")


def _about(records: Sequence[Record]) -> str:
    """What the page is about, for a reader who knows nothing of the project."""
    if not records:
        return ""
    methods = [display(m) for m in dict.fromkeys(map(method_of, records))]
    where = sorted({s for r in records if not is_dense(r) and (s := sparsity_of(r)) is not None})
    at = (
        f", with {', '.join(f'{100 * s:.6g} %' for s in where)} of the weights zero"
        if where
        else ""
    )
    runs = "1 run" if len(records) == 1 else f"{len(records)} runs"
    return (
        f"{runs} of {', '.join(methods)}{at}. Pruning sets weights of a network to zero; dense is "
        "the network without pruning. A flat network loses little when its weights are moved."
    )


def _made(records: Sequence[Record], commands: Sequence[str]) -> Section:
    given = [*commands, *(str(c) for r in records if (c := r.get("command")))]
    text = ""
    if given:
        lines = "\n".join(escape(c) for c in dict.fromkeys(given))
        text += f"<h3>Commands</h3><pre><code>{lines}</code></pre>"
    versions: dict[str, list[str]] = {}
    for record in records:
        held = find(record, "versions")
        for name, value in held.items() if isinstance(held, Mapping) else ():
            versions.setdefault(str(name), []).append(str(value))
    if versions:
        body = "".join(
            f'<tr><th scope="row">{escape(name)}</th>'
            f"<td>{escape(', '.join(dict.fromkeys(values)))}</td></tr>"
            for name, values in versions.items()
        )
        text += (
            '<div class="scroll" role="region" tabindex="0" aria-label="Versions"><table>'
            '<caption><span>Versions</span></caption><thead><tr><th scope="col">Package</th>'
            f'<th scope="col">Version</th></tr></thead><tbody>{body}</tbody></table></div>'
        )
    recipes: dict[str, str] = {}
    for record in records:
        if isinstance(record.get("recipe"), Mapping | str):
            held = record["recipe"]
            shown = held if isinstance(held, str) else json.dumps(held, indent=2, default=str)
            # one per method and sparsity: the seeds differ in the seed alone, or `notes` tells
            where = sparsity_of(record)
            at = "" if where is None or is_dense(record) else f" at {100 * where:.6g} %"
            recipes.setdefault(display(method_of(record)) + at, shown)
    if recipes:
        body = "".join(
            f"<h4>{escape(name)}</h4><pre><code>{escape(shown)}</code></pre>"
            for name, shown in recipes.items()
        )
        text += f"<details><summary>Recipes ({len(recipes)})</summary>{body}</details>"
    return Section("made", "How this was made", text or "<p>The records do not say.</p>")


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(s)}</li>' for s in sentences)}</ul>"


def _page(title: str, about: str, summary: Sequence[str], sections: Sequence[Section]) -> str:
    style = files("steppe.report").joinpath("report.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in sections)
    first = Section("summary", "In short", f'<div class="summary">{_list(summary)}</div>')
    body = "".join(section.html() for section in ([first] if summary else []) + list(sections))
    lead = f"<p>{escape(about)}</p>" if about else ""
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{escape(title)}</title>\n<style>\n{style}</style></head>\n<body>"
        '<a class="skip" href="#main">Skip to the content</a>'
        f"<header><h1>{escape(title)}</h1>{lead}</header>"
        f'<nav aria-label="Contents"><ul>{links}</ul></nav>\n'
        f'<main id="main">{body}</main>\n'
        "<footer><p>Written by steppe. One file: nothing is fetched, nothing runs.</p></footer>"
        "</body></html>\n"
    )
