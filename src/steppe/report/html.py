"""One offline HTML page: summary, tables, figures, and how they were made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

from steppe.core.serialization import write_text
from steppe.report import detections, papers, times
from steppe.report.document import SECTIONS, Document
from steppe.report.record import Record

# nothing may be fetched; styles are in the page
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:"


SHOWN = 8  # commands that are not folded away


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
        summary: the sentences at the top; None: those of `InShort`.
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
    document = Document.of(records, title=title, commands=commands, summary=summary)
    own = _sections(document) if records else []
    made = [_made(document)] if records or commands else []
    write_text(Path(path), _page(document, [*own, *sections, *made]))


def _short(document: Document) -> str:
    """The sentences, the table, and folded away all that is to be said."""
    text = f'<div class="summary">{_list(document.summary)}</div>'
    if document.short is not None:
        text += document.short.html()
    if document.full:
        head = f"<summary>In full ({len(document.full)} sentences)</summary>"
        text += f'<details class="full">{head}{_list(document.full)}</details>'
    return text


def _sections(document: Document) -> list[Section]:
    sections = []
    for key, title in SECTIONS.items():
        body = "".join(figure.html() for figure in document.drawn.get(key, ()))
        body = body and f'<div class="figures">{body}</div>'
        body += "".join(f"<p>{escape(hint)}</p>" for hint in document.hints.get(key, ()))
        if body:
            sections.append(Section(key, title, body))
    numbers = "".join(rows.html(caption) for caption, rows in document.tables)
    numbers += "".join(_table(caption, times.HEAD, rows) for caption, rows in document.times)
    # pictures before the numbers, which are many; what lies inside the runs last
    sections.insert(
        sum(s.key != "inside" for s in sections), Section("numbers", "Numbers", numbers)
    )
    if document.found:
        sections.append(Section("found", "What is found", detections.html(document.found)))
    if document.examples:
        sections.append(Section("forgotten", "What was forgotten", _examples(document)))
    if document.papers:
        text = (
            "<p>The same method, sparsity and quantity in the papers. Networks, data and length of "
            "training differ from the runs here: the numbers stand side by side for "
            "orientation, they are no target.</p>"
        )
        table = _table("What the papers print, beside these runs", papers.HEAD, document.papers)
        sections.append(Section("papers", "The papers' numbers", text + table))
    if document.words:
        shown = "".join(
            f"<dt>{escape(w)}</dt><dd>{escape(t)}</dd>" for w, t in document.words.items()
        )
        sections.append(Section("words", "Words", f"<dl>{shown}</dl>"))
    if document.remarks:
        sections.append(Section("remarks", "Left out, and to be known", _list(document.remarks)))
    return sections


def _examples(document: Document) -> str:
    text = (
        "<p>Test images that the dense network has right and the pruned one has wrong, those first "
        "of which the pruned one is surest. Numbers are classes.</p>"
    )
    for title, examples in document.examples:
        cells = "".join(_example(example) for example in examples)
        text += f'<h3>{escape(title)}</h3><ul class="examples">{cells}</ul>'
    return text


def _example(example: Mapping[str, Any]) -> str:
    said = (
        f"class {example.get('label')}, taken for {example.get('run')} "
        f"(sure to {float(example.get('sure') or 0.0):.0%})"
    )
    image = str(example.get("image") or "")
    shown = (
        f'<img src="{escape(image)}" alt="image {escape(str(example.get("index")))}" '
        'width="64" height="64">'
        if image.startswith("data:image/png;base64,")
        else ""
    )
    return f"<li>{shown}<span>{escape(said)}</span></li>"


def _table(caption: str, head: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    top = "".join(f'<th scope="col">{escape(label)}</th>' for label in head)
    lines = "".join(
        f'<tr><th scope="row">{escape(first)}</th>'
        + "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        + "</tr>"
        for first, *rest in body
    )
    return (
        f'<div class="scroll" role="region" tabindex="0" aria-label="{escape(caption)}"><table>'
        f"<caption><span>{escape(caption)}</span></caption><thead><tr>{top}</tr></thead>"
        f"<tbody>{lines}</tbody></table></div>"
    )


def _code(lines: Sequence[str]) -> str:
    text = "\n".join(map(escape, lines))
    return f"<pre><code>{text}</code></pre>"


def _made(document: Document) -> Section:
    text = ""
    first, rest = document.commands[:SHOWN], document.commands[SHOWN:]
    if first:
        text += f"<h3>Commands</h3>{_code(first)}"
    if rest:
        text += f"<details><summary>{len(rest)} more commands</summary>{_code(rest)}</details>"
    if document.versions:
        body = [[name, ", ".join(values)] for name, values in document.versions.items()]
        text += _table("Versions", ("Package", "Version"), body)
    if document.recipes:
        shown = "".join(
            f"<h4>{escape(name)}</h4><pre><code>{escape(recipe)}</code></pre>"
            for name, recipe in document.recipes.items()
        )
        text += f"<details><summary>Recipes ({len(document.recipes)})</summary>{shown}</details>"
    return Section("made", "How this was made", text or "<p>The records do not say.</p>")


def _list(sentences: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{escape(s)}</li>' for s in sentences)}</ul>"


def _page(document: Document, sections: Sequence[Section]) -> str:
    title, about, summary = document.title, document.about, document.summary
    style = files("steppe.report").joinpath("report.css").read_text(encoding="utf-8")
    links = "".join(f'<li><a href="#{s.key}">{escape(s.title)}</a></li>' for s in sections)
    first = Section("summary", "In short", _short(document))
    body = "".join(section.html() for section in ([first] if summary else []) + list(sections))
    # a number and its unit stay on one line
    lead = f"<p>{escape(about).replace(' %', '&nbsp;%')}</p>" if about else ""
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
