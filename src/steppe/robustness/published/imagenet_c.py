"""ImageNet-C: a folder for each corruption, severity and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.robustness.corruptions import CORRUPTIONS
from steppe.robustness.published import (
    IMAGE_FILES,
    PUBLISHED,
    Layout,
    Part,
    Shape,
    class_part,
    folders,
)

_SHOWN = 8  # of what is missing


@PUBLISHED.register("imagenet_c")
class ImageNetC(Layout):
    """NAME/SEVERITY/CLASS/IMAGE.JPEG, also below GROUP (blur, digital, extra, noise, weather).

    A class' index is its place among the class folders by name (synsets), as in ImageNet.

    Source: Hendrycks & Dietterich 2019, the files as released.
    """

    on = "corruptions"
    looks = "NAME/SEVERITY/CLASS/IMAGE.JPEG (ImageNet-C)"
    files = IMAGE_FILES

    @classmethod
    def matches(cls, folder: Path) -> bool:
        return bool(_corruptions(folder))

    def variants(self) -> list[str]:
        return sorted(_corruptions(self.folder))

    def check(self, classes: int, names: Sequence[str], severities: Sequence[int] = ()) -> None:
        there = _corruptions(self.folder)
        missing = [name for name in names if name not in there]
        cells: dict[str, set[str]] = {}
        for name in (n for n in names if n in there):
            for severity in severities:
                cell = there[name] / str(severity)
                if cell.is_dir():
                    cells[f"{name}/{severity}"] = {p.name for p in folders(cell)}
                else:
                    missing.append(f"{name}/{severity}")
        every: set[str] = set().union(*cells.values())
        for place, held in cells.items():
            missing += [f"{place}/{synset}" for synset in sorted(every - held)]
        if missing:
            more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
            raise SteppeError(
                "a published set has a folder for each corruption, severity and class",
                got=f"no {', '.join(missing[:_SHOWN])}{more} in {self.folder}",
                way_out="--corruptions and --severities with what is there, or fetch the rest",
            )
        if len(every) != classes:
            raise SteppeError(
                "a published set has a folder for each class of the network, in whose order they "
                "are numbered",
                got=f"{len(every)} class folders in {self.folder}, a network of {classes} classes",
                way_out="fetch the rest, or the set of the data the network was trained on",
            )

    def part(self, name: str, shape: Shape, severity: int | None = None) -> Part:
        cell = _corruptions(self.folder)[name] / str(severity)
        return class_part(enumerate(folders(cell)), shape)


def _corruptions(folder: Path) -> dict[str, Path]:
    """Corruption -> its folder, here or one level below."""
    found: dict[str, Path] = {}
    for child in folders(folder):
        below = [child] if child.name in CORRUPTIONS else folders(child)
        found.update({p.name: p for p in below if p.name in CORRUPTIONS})
    return found
