"""What detectors found in a few images, beside each other: dense and pruned."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from steppe.report.level import after, highest, level_of
from steppe.report.measured_images import chosen_by
from steppe.report.quality import PRECISION
from steppe.report.record import Record, display, find, is_dense, method_of, number
from steppe.report.svg import COLOURS

MOST = 4
"""Pruned networks that stand beside the dense one."""
SIDE = 300  # of a picture, in its own units
_PLACES = ("evaluations.clean", "evaluations.corruptions")
_MISSING = (
    "The evaluations of these detectors hold no images: steppe evaluate RUN --on "
    "clean,corruptions keeps a few with what was found in them, then steppe report again."
)


_Images = tuple[tuple[str, str], ...]
_Labels = tuple[tuple[Any, ...], ...]
_Key = tuple[_Images, int, Any, Any, _Labels]
"""Which data, which image of it, what was done to it, and what it is labelled with."""


@dataclass(frozen=True)
class Box:
    """A box in a picture.

    Args:
        left, top, right, bottom: shares of the image.
        name: of the class.
        score: None of an object that is labelled.
    """

    left: float
    top: float
    right: float
    bottom: float
    name: str
    score: float | None = None

    @property
    def said(self) -> str:
        """Its class, and how sure the network is."""
        return self.name if self.score is None else f"{self.name} {self.score:.2f}"


@dataclass(frozen=True)
class Panel:
    """A picture with boxes.

    Args:
        title: whose boxes.
        boxes: in it.
    """

    title: str
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Strip:
    """One image, as each network sees it.

    Args:
        title: which image, and what was done to it.
        image: as data of a page.
        least: the score from which on boxes are shown.
        panels: what is labelled, then each network.
    """

    title: str
    image: str
    least: float
    panels: tuple[Panel, ...]


def strips(records: Sequence[Record]) -> list[Strip]:
    """The images that the networks were shown, each once.

    Of each method the first seed at the sparsity that most methods share is shown. Networks stand
    beside each other only where data, part, size and objects of the images are the same.

    Args:
        records: of the runs, as `read_records` gives them.
    """
    networks = _networks(records)
    kept = {name: _examples(own) for name, own in networks.items()}
    seen: dict[_Key, Mapping[str, Any]] = {}
    for own in kept.values():
        for key, example in own.items():
            seen.setdefault(key, example)
    said = _told_apart(list(dict.fromkeys(key[0] for key in seen)))
    place = {images: i for i, images in enumerate(said)}
    labelled = Counter(key[:-1] for key in seen)
    return [
        Strip(
            _title(example) + said[key[0]] + _labels_of(kept, key, labelled),
            str(example["image"]),
            float(example["least"]),
            (
                Panel("labelled", _boxes(example["objects"])),
                *(
                    Panel(name, _boxes(own[key]["found"]))
                    for name, own in kept.items()
                    if key in own
                ),
            ),
        )
        for key, example in sorted(seen.items(), key=lambda pair: (place[pair[0][0]], pair[0][1]))
    ]


def _labels_of(
    kept: Mapping[str, Mapping[_Key, Any]], key: _Key, labelled: Mapping[Any, int]
) -> str:
    """Whose labels an image has, where networks were measured by several."""
    if labelled[key[:-1]] == 1:
        return ""
    return f", as labelled for {next(name for name, own in kept.items() if key in own)}"


def missing(records: Sequence[Record]) -> str:
    """What to say where detectors were measured and no image was kept; else nothing."""
    of_detectors = any(number(r, f"sparse.{PRECISION.key}") is not None for r in records)
    return _MISSING if of_detectors and not strips(records) else ""


def html(shown: Sequence[Strip]) -> str:
    """The pictures, one row for each image."""
    names = dict.fromkeys(box.name for s in shown for panel in s.panels for box in panel.boxes)
    colours = {name: COLOURS[i % len(COLOURS)] for i, name in enumerate(names)}
    legend = ", ".join(
        f'<span style="color:{colour}" aria-hidden="true">■</span>&nbsp;{escape(name)}'
        for name, colour in colours.items()
    )
    least = min(s.least for s in shown)
    text = (
        f"<p>The first images that were measured. A box has its class and the score that the "
        f"network gives it; shown from {least:g} on. {legend}</p>"
    )
    return text + "".join(_row(i, strip, colours) for i, strip in enumerate(shown))


def _row(number: int, strip: Strip, colours: Mapping[str, str]) -> str:
    cells = []
    for i, panel in enumerate(strip.panels):
        name = f"image-{number}"
        # the pixels stand in the page once: the first picture has them, the others use them
        pixels = (
            f'<use href="#{name}"/>'
            if i
            else f'<image id="{name}" href="{escape(strip.image)}" width="{SIDE}" '
            f'height="{SIDE}" preserveAspectRatio="none"/>'
        )
        said = ", ".join(box.said for box in panel.boxes) or "nothing"
        boxes = "".join(_drawn(box, colours[box.name]) for box in panel.boxes)
        found = f"{len(panel.boxes)} box" + "es" * (len(panel.boxes) != 1)
        cells.append(
            f'<figure><svg viewBox="0 0 {SIDE} {SIDE}" role="img" '
            f'aria-label="{escape(f"{panel.title}: {said}")}">{pixels}{boxes}</svg>'
            f"<figcaption>{escape(panel.title)}, {found}</figcaption></figure>"
        )
    return f'<h3>{escape(strip.title)}</h3><div class="found">{"".join(cells)}</div>'


def _drawn(box: Box, colour: str) -> str:
    """A frame on a lighter one, so that it is seen on any image, and its words."""
    left, top, right, bottom = (SIDE * v for v in (box.left, box.top, box.right, box.bottom))
    place = f'x="{left:.1f}" y="{top:.1f}" width="{right - left:.1f}" height="{bottom - top:.1f}"'
    words_at = top + 9 if top < 10 else top - 2.5
    return (
        f'<rect {place} class="under"/>'
        f'<rect {place} stroke="{colour}"><title>{escape(box.said)}</title></rect>'
        f'<text x="{left + 1.5:.1f}" y="{words_at:.1f}" fill="{colour}">{escape(box.said)}</text>'
    )


def _networks(records: Sequence[Record]) -> dict[str, Sequence[Record]]:
    """What each network is called -> where its boxes lie: a record, or one that it stood beside."""
    having = [r for r in records if _examples([r])]
    where = highest(having)
    dense = [r for r in having if is_dense(r)]
    pruned = [r for r in having if level_of(r) == where]
    first: dict[str, Record] = {}
    for record in pruned:
        first.setdefault(method_of(record), record)
    networks: dict[str, Sequence[Record]] = {"dense": dense or [_beside(r) for r in pruned]}
    chosen = list(first.values())[:MOST]
    return networks | {after(display(r), where, [where]): [r] for r in chosen}


def _beside(record: Record) -> Record:
    """The network that a run was measured beside, on the same images, as a record of its own."""
    results = find(record, "evaluations")
    named = results.items() if isinstance(results, Mapping) else ()
    beside = {
        on: {"part": result.get("part"), **(result.get("beside") or {})} for on, result in named
    }
    return {"recipe": {"data": find(record, "recipe.data")}, "evaluations": beside}


def _examples(records: Sequence[Record]) -> dict[_Key, Mapping[str, Any]]:
    """Which image, and what was done to it -> what was kept."""
    found: dict[_Key, Mapping[str, Any]] = {}
    for record in records:
        for place in _PLACES:
            kept = find(record, f"{place}.examples")
            images = _images(record, find(record, f"{place}.part"))
            for one in kept if isinstance(kept, list) else ():
                labels = tuple(tuple(row) for row in one["objects"])
                how = one.get("corruption"), one.get("severity")
                key = (images, one["index"], *how, labels)
                found.setdefault(key, one)
    return found


def _images(record: Record, part: Any) -> _Images:
    """What decides which images of its data a network was shown, in plain text."""
    data = find(record, "recipe.data") or {}
    own = {"name": _place(str(data.get("name"))), **chosen_by(data, part)}
    own |= {"part": part, "colours": len(data.get("mean") or "rgb")}
    return tuple((key, str(value)) for key, value in own.items())


def _place(name: str) -> str:
    """Where data lie, by whatever path; the name itself of what is no folder here.

    Example:
        >>> _place("hub:an/example"), _place("voc:.") == f"voc:{Path.cwd().resolve()}"
        ('hub:an/example', True)
    """
    kind, colon, rest = name.rpartition(":")
    folders = {part: Path(part.strip()).expanduser() for part in rest.split(",")}
    there = [str(f.resolve()) if f.is_dir() else part for part, f in folders.items()]
    return kind + colon + ",".join(there)


def _told_apart(every: Sequence[_Images]) -> dict[_Images, str]:
    """What the titles of images say beside their number, where they are not all of the same."""
    known = [dict(images) for images in every]
    keys = dict.fromkeys(key for own in known for key in own)
    differ = [key for key in keys if len({own[key] for own in known if key in own}) > 1]
    return {
        images: "".join(f", {key} {own[key]}".replace("_", " ") for key in differ if key in own)
        for images, own in zip(every, known, strict=True)
    }


def _title(example: Mapping[str, Any]) -> str:
    image = f"Image {int(example['index']) + 1}"
    kind = example.get("corruption")
    if kind is None:
        return image
    return f"{image}, {str(kind).replace('_', ' ')} at severity {example.get('severity')}"


def _boxes(rows: Sequence[Sequence[Any]]) -> tuple[Box, ...]:
    boxes = []
    for row in rows:
        left, top, right, bottom = (float(side) for side in row[:4])
        score = float(row[5]) if len(row) > 5 else None
        boxes.append(Box(left, top, right, bottom, str(row[4]), score))
    return tuple(boxes)
