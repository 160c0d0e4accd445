"""ImageNet-C: a folder for each corruption, severity and class."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from steppe.core.errors import SteppeError
from steppe.robustness.corruptions import CORRUPTIONS
from steppe.robustness.published import (
    IMAGE_FILES,
    PUBLISHED,
    Fit,
    LabelledImages,
    Layout,
    Shape,
    folders,
    images_of_classes,
)

_SHOWN = 8  # of what is missing


@PUBLISHED.register("imagenet_c")
class ImageNetC(Layout):
    """NAME/SEVERITY/CLASS/IMAGE.JPEG, also below GROUP (blur, digital, extra, noise, weather).

    Classes are numbered in the order of their folders' names (synsets), as in ImageNet.

    Source: Hendrycks & Dietterich 2019, the files as released.
    """

    on = "corruptions"
    description = "NAME/SEVERITY/CLASS/IMAGE.JPEG (ImageNet-C)"
    files = IMAGE_FILES

    @classmethod
    def matches(cls, folder: Path) -> bool:
        return bool(_corruptions(folder))

    def variants(self) -> list[str]:
        return sorted(_corruptions(self.folder))

    def check(self, classes: int, names: Sequence[str], severities: Sequence[int] = ()) -> None:
        present = _corruptions(self.folder)
        missing = [name for name in names if name not in present]
        synsets: dict[str, set[str]] = {}
        for name in (n for n in names if n in present):
            for severity in severities:
                folder = present[name] / str(severity)
                if folder.is_dir():
                    synsets[f"{name}/{severity}"] = {p.name for p in folders(folder)}
                else:
                    missing.append(f"{name}/{severity}")
        every: set[str] = set().union(*synsets.values())
        for severity_folder, own in synsets.items():
            missing += [f"{severity_folder}/{synset}" for synset in sorted(every - own)]
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

    def images(
        self, name: str, shape: Shape, severity: int | None = None, fit: Fit | None = None
    ) -> LabelledImages:
        folder = _corruptions(self.folder)[name] / str(severity)
        return images_of_classes(enumerate(folders(folder)), shape, fit)


def _corruptions(folder: Path) -> dict[str, Path]:
    """Corruption -> its folder, here or one level below."""
    by_name: dict[str, Path] = {}
    for child in folders(folder):
        below = [child] if child.name in CORRUPTIONS else folders(child)
        by_name.update({p.name: p for p in below if p.name in CORRUPTIONS})
    return by_name
